"""One video of a submission while its split is segmented.

A finished video leaves its part of the final file in a hidden folder of the run, written last of what belongs to it,
so that a second run skips the video.
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from dvis_cli.errors import OutputError
from dvis_cli.files import atomic_open, output_errors
from dvis_cli.structures import FinishedFrame, Segment
from dvis_cli.writers.folder import AtomicFolder

SETTINGS_NAME = "run.json"  # how a run was made
VOLATILE = ("dvis_version", "input_sizes")  # settings that may differ within a run
Own = TypeVar("Own", bound="VideoWriter")


def write_text(path: Path, pieces: Iterable[str]) -> None:
    """Write a text file that appears whole or not at all, its folder made when needed."""
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path) as file:
        file.writelines(pieces)


def json_list(before: str, between: str, after: str, parts: Iterable[str]) -> Iterator[str]:
    """The text of a json whose list is as long as a dataset, from the texts of its entries."""
    yield before
    for place, part in enumerate(parts):
        yield f"{between}{part}" if place else part
    yield after


class VideoWriter(ABC):
    """Context manager: `add` the video's frames, then `finish`. Without `finish` nothing of the video stays.

    Args:
        part: where the video's part goes.
        video_id: a plain name.
        folder: of the video's PNGs, for formats that have them.

    Raises:
        OutputError: the video is finished already, or cannot be written.
    """

    def __init__(self, part: Path, video_id: str, folder: Path | None = None) -> None:
        if not video_id or Path(video_id).name != video_id or video_id.startswith("."):
            raise OutputError(f"{video_id!r} cannot be the name of a video's folder")
        self.video_id = video_id
        self._part = part
        self._folder = None if folder is None else AtomicFolder(folder)

    def __enter__(self: Own) -> Own:
        if self._folder is not None:
            if not self._part.is_file() and self._folder.target.is_dir():
                _remove_pngs(self._folder.target)  # left by a run that died between two steps
            self._folder.__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        if self._folder is not None:
            self._folder.discard()

    @abstractmethod
    def add(self, frame: FinishedFrame) -> None:
        """Take in the next frame; `frame.name` is its file stem. Raises `OutputError`."""

    @abstractmethod
    def part(self, segments: Iterable[Segment]) -> Any:
        """The video's part as json; `segments` are all of the video's, with their final categories and scores."""

    def finish(self, segments: Iterable[Segment]) -> None:
        """Make the video a finished one. Raises `OutputError`; nothing of the video stays then."""
        write_text(self._part, [json.dumps(self.part(segments))])
        if self._folder is not None:
            self._folder.commit()

    def new_png(self, frame: FinishedFrame) -> Path:
        """Where a frame's PNG goes. Raises `OutputError` for a name that was there before or leads elsewhere."""
        assert self._folder is not None
        stem = frame.name if frame.name is not None else f"{frame.index:06d}"
        path = self._folder.path / f"{stem}.png"
        if path.parent != self._folder.path or path.exists():
            raise OutputError(f"video '{self.video_id}': two frames are called {stem!r}")
        return path


def _remove_pngs(folder: Path) -> None:
    foreign = [path.name for path in folder.iterdir() if path.suffix != ".png"]
    if foreign:
        raise OutputError(f"{folder} holds files that are not ours ({foreign[0]}); choose another folder")
    with output_errors(folder):
        shutil.rmtree(folder)
