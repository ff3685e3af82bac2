"""What all scores share: counts of videos that are collected one by one, merged between processes and summed."""

from __future__ import annotations

import copy
from typing import Any, Generic, TypeVar

from dvis_cli.datasets.names import error_in
from dvis_cli.errors import DatasetError

Counts = TypeVar("Counts")
Own = TypeVar("Own", bound="Collector[Any]")


class Collector(Generic[Counts]):
    """Counts by video.

    Args:
        settings: what two collectors must have in common to be merged.
    """

    def __init__(self, *settings: object) -> None:
        self.settings = settings
        self.videos: dict[str, Counts] = {}

    def empty(self: Own) -> Own:
        """A collector of the same settings without videos."""
        other = copy.copy(self)
        other.videos = {}
        return other

    def merge(self: Own, other: Own) -> None:
        """Take over the videos of another collector. A video in both is a `DatasetError`."""
        if other.settings != self.settings:
            raise ValueError("only scores of the same categories and windows can be merged")
        for name in other.videos:
            self._refuse_twice(name)
        self.videos.update(other.videos)

    def add_video(self, name: str, *inputs: Any) -> None:
        """Add one video, of what `count` takes. Raises `DatasetError`: what `count` raises, or it was added before."""
        self._refuse_twice(name)
        with error_in(f"video '{name}'"):
            self.videos[name] = self.count(*inputs)

    def count(self, *inputs: Any, **options: Any) -> Counts:
        """Count one video."""
        raise NotImplementedError

    def _refuse_twice(self, video: str) -> None:
        if video in self.videos:
            raise DatasetError(f"video '{video}' was added twice")
