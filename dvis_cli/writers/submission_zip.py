"""A submission as one zip, written straight through: PNGs as they come, `pred.json` last.

The bytes depend on the content alone: fixed times and modes, no matter when and where the zip is made.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from dvis_cli.errors import OutputError
from dvis_cli.files import output_errors
from dvis_cli.writers.vipseg_submission import JSON_NAME, PNG_FOLDER

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can name
_REGULAR_FILE = 0o100644 << 16
_UNIX = 3
Zip = TypeVar("Zip", bound="ZipTarget")


class ZipTarget:
    """Context manager: `write` files, and `target` appears when the block ends without an exception.

    Args:
        target: the zip to make.
        overwrite: replace an existing one; refused otherwise.

    Raises:
        OutputError: it exists or cannot be written.
    """

    def __init__(self, target: Path, overwrite: bool = False) -> None:
        if target.is_dir() or (target.exists() and not overwrite):
            raise OutputError(
                f"{target} already exists; add --overwrite to replace it, or choose another name"
            )
        self.target = target
        self._partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
        self._names: set[str] = set()

    def __enter__(self: Zip) -> Zip:
        with output_errors(self.target):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._zip = zipfile.ZipFile(self._partial, "w", zipfile.ZIP_STORED, allowZip64=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with output_errors(self.target):
                if kind is None:
                    self._complete()
                self._zip.close()
                if kind is None:
                    self._partial.replace(self.target)
        finally:
            self._partial.unlink(missing_ok=True)

    def write(self, name: str, data: bytes) -> None:
        """Add a file as it is; a name that was added before is a ValueError."""
        if name in self._names:
            raise ValueError(f"{name} was added twice")
        self._names.add(name)
        with output_errors(self.target):
            self._zip.writestr(_entry(name), data)

    def write_text(self, name: str, pieces: Iterable[str]) -> None:
        """Add a text, compressed, piece by piece."""
        info = _entry(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        with output_errors(self.target), self._zip.open(info, "w", force_zip64=True) as file:
            for piece in pieces:
                file.write(piece.encode())

    def _complete(self) -> None:
        """Write what comes last."""


class SubmissionZip(ZipTarget):
    """A VIPSeg submission: `add_video` each video; `pred.json` is written at the end. Arguments as above."""

    def __init__(self, target: Path, overwrite: bool = False) -> None:
        super().__init__(target, overwrite)
        self._parts: list[str] = []  # of pred.json, one for each video

    def add_video(self, video_id: str, frames: list[tuple[bytes, dict[str, Any]]]) -> None:
        """Add one video.

        Args:
            video_id: a plain name that was not added before.
            frames: for every frame in order its PNG file and its entry in `pred.json`.
        """
        for data, annotation in frames:
            self.write(f"{PNG_FOLDER}/{video_id}/{annotation['file_name']}", data)
        entry = {"video_id": video_id, "annotations": [annotation for _, annotation in frames]}
        self._parts.append(json.dumps(entry))

    def _complete(self) -> None:
        pieces = [f"{', ' if place else ''}{part}" for place, part in enumerate(self._parts)]
        self.write_text(JSON_NAME, ['{"annotations": [', *pieces, "]}\n"])


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr, info.create_system = _REGULAR_FILE, _UNIX
    return info
