"""What each task writes of a frame, apart from the overlay: maps as PNGs, or masks as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

from dvis_cli.config import TaskName
from dvis_cli.files import output_errors
from dvis_cli.structures import Category, FinishedFrame, InstanceFrame
from dvis_cli.writers.folder import MASKS_NAME, PANOPTIC_FOLDER, SEMANTIC_FOLDER
from dvis_cli.writers.panoptic_png import write_panoptic_png
from dvis_cli.writers.segments_json import png_name
from dvis_cli.writers.semantic_png import is_wide, write_class_png


class FrameFiles:
    """Files of one task: `open` a folder for them, `add` each frame, then `close`, or `abort` at any time.

    These are `panoptic/000000.png` ...: segment ids. Each method raises OutputError when a file cannot be written,
    except `abort`, which never raises.
    """

    folder_name = PANOPTIC_FOLDER

    def open(self, folder: Path) -> None:
        """Begin, in a folder that exists."""
        self._folder = folder / self.folder_name
        with output_errors(self._folder):
            self._folder.mkdir()

    def add(self, frame: FinishedFrame) -> None:
        """Write one frame; frames come in order."""
        assert not isinstance(frame, InstanceFrame)
        write_panoptic_png(self._folder / png_name(frame.index), frame.ids)

    def close(self) -> None:
        """Complete the files."""

    def abort(self) -> None:
        """Let go of what is open."""


class SemanticFiles(FrameFiles):
    """`semantic/000000.png` ...: the dataset's class ids."""

    folder_name = SEMANTIC_FOLDER

    def __init__(self, categories: Iterable[Category]) -> None:
        self._wide = is_wide(category.id for category in categories)

    def add(self, frame: FinishedFrame) -> None:
        assert not isinstance(frame, InstanceFrame)
        classes = {id: segment.category.id for id, segment in frame.segments.items()}
        write_class_png(self._folder / png_name(frame.index), frame.ids, classes, self._wide)


class InstanceFiles(FrameFiles):
    """`masks.jsonl`: a line of run-length codes for each frame."""

    def __init__(self) -> None:
        self._file: IO[str] | None = None

    def open(self, folder: Path) -> None:
        self._path = folder / MASKS_NAME
        with output_errors(self._path):
            self._file = self._path.open("w", encoding="ascii")

    def add(self, frame: FinishedFrame) -> None:
        assert isinstance(frame, InstanceFrame) and self._file is not None
        masks = {str(id): counts for id, counts in frame.masks.items()}
        line = {"frame": frame.index, "size": list(frame.rgb.shape[:2]), "masks": masks}
        with output_errors(self._path):
            self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        if self._file is not None:
            with output_errors(self._path):
                self._file.close()

    def abort(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # what waits to be written does not matter any more
                self._file.close()


def frame_files(task: TaskName, categories: Iterable[Category]) -> FrameFiles:
    """The files of a task, for a label set."""
    if task == "instance":
        return InstanceFiles()
    return SemanticFiles(categories) if task == "semantic" else FrameFiles()
