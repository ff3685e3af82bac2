"""A VSPW submission as it grows: `RUN/<video_id>/<stem>.png`, one 8-bit channel of class ids.

A finished video leaves a mark in `RUN/.maps/`, so that a second run skips it. A video counts as finished when
both its folder and its mark are there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from dvis_cli.errors import OutputError
from dvis_cli.structures import FinishedFrame, InstanceFrame, Segment
from dvis_cli.writers.folder import AtomicFolder
from dvis_cli.writers.run_parts import (
    check_complete,
    check_video_id,
    part_path,
    remove_pngs,
    stem_of,
    videos_with_parts,
    write_whole,
)
from dvis_cli.writers.semantic_png import IGNORE, write_class_png

PARTS = ".maps"


class VspwVideoWriter:
    """Context manager for one video of a submission: `add` its frames, then `finish`.

    Leaving the block without `finish` removes what was written of the video.

    Args:
        run: the submission's folder; made when needed.
        video_id: the video's name, a plain name.

    Raises:
        OutputError: the video is finished already, or `run` cannot be written.
    """

    def __init__(self, run: Path, video_id: str) -> None:
        check_video_id(video_id)
        self.run, self.video_id = run, video_id
        self._folder = AtomicFolder(run / video_id)
        self._frames = 0
        self._done = False

    def __enter__(self) -> VspwVideoWriter:
        part = part_path(self.run, PARTS, self.video_id)
        if not part.is_file() and self._folder.target.is_dir():
            remove_pngs(self._folder.target)  # left by something that died between two steps
        self._folder.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._done:
            self._folder.discard()

    def add(self, frame: FinishedFrame) -> None:
        """Write one frame; `frame.name` is its file stem. Frames come in order.

        Raises:
            OutputError: the file cannot be written, two frames have one name, or a class does not fit.
        """
        assert not isinstance(frame, InstanceFrame)
        stem = stem_of(frame)
        path = self._folder.path / f"{stem}.png"
        if path.parent != self._folder.path or path.exists():
            raise OutputError(f"video '{self.video_id}': two frames are called {stem!r}")
        classes = {id: segment.category.id for id, segment in frame.segments.items()}
        check_classes(classes.values())
        write_class_png(path, frame.ids, classes)
        self._frames += 1

    def finish(self, segments: Iterable[Segment]) -> None:
        """Put the video in its place.

        Raises:
            OutputError: it cannot be written; nothing of the video is left behind then.
        """
        self._folder.commit()
        mark = {"video_id": self.video_id, "frames": self._frames}
        write_whole(part_path(self.run, PARTS, self.video_id), [json.dumps(mark)])
        self._done = True


def check_classes(class_ids: Iterable[int]) -> None:
    """Raise OutputError for a class id that an 8-bit map cannot hold: 255 means "ignore"."""
    for id in class_ids:
        if not 0 <= id < IGNORE:
            raise OutputError(f"category id {id} does not fit VSPW's maps: ids must lie in 0..{IGNORE - 1}")


def finished_videos(run: Path) -> set[str]:
    """The videos of a submission's folder that need not be done again."""
    return {name for name in videos_with_parts(run, PARTS) if (run / name).is_dir()}


def complete_maps(run: Path, video_ids: Sequence[str]) -> Path:
    """The submission's folder. Raises OutputError when a video is not finished."""
    check_complete(run, video_ids, finished_videos(run))
    return run
