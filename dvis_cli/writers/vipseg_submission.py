"""A VIPSeg submission as it grows: `pan_pred/<video_id>/<stem>.png` now, `pred.json` at the end.

A finished video leaves its part of `pred.json` in `RUN/.videos/`, so that a second run skips it. A video
counts as finished when both its folder and its part are there; each appears whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np

from dvis_cli.errors import OutputError
from dvis_cli.files import output_errors
from dvis_cli.structures import FinishedFrame, InstanceFrame, Segment
from dvis_cli.writers.folder import AtomicFolder
from dvis_cli.writers.panoptic_png import write_panoptic_png
from dvis_cli.writers.run_parts import (
    check_complete,
    check_video_id,
    part_path,
    remove_pngs,
    stem_of,
    videos_with_parts,
    write_whole,
)
from dvis_cli.writers.segments_json import measure_segments

PNG_FOLDER = "pan_pred"
JSON_NAME = "pred.json"
PARTS = ".videos"
SMALL_IDS = 4096  # up to here a table of all ids is small
Measure: TypeAlias = "tuple[int, int, tuple[int, int, int, int]]"  # id, area, box


def frame_annotation(stem: str, ids: np.ndarray, categories: Mapping[int, int]) -> dict[str, Any]:
    """A frame's entry in `pred.json`, measured on its map so that the two agree.

    Args:
        stem: the frame's file name without suffix.
        ids: (height, width) segment ids, 0 = void.
        categories: segment id -> dataset category id.

    Raises:
        KeyError: an id in the map has no category.
    """
    return _entry(stem, _measure(ids), categories)


def _measure(ids: np.ndarray) -> list[Measure]:
    """`measure_segments`, quick for ids of any size."""
    values = np.unique(ids)
    if values.size == 0 or values[-1] < SMALL_IDS:
        return list(measure_segments(ids))
    if values[0] != 0:
        values = np.concatenate([[0], values])
    compact = np.searchsorted(values, ids).astype(np.int32)
    return [(int(values[row]), area, box) for row, area, box in measure_segments(compact)]


def _entry(stem: str, measured: Iterable[Measure], categories: Mapping[int, int]) -> dict[str, Any]:
    segments = [
        {"id": number, "category_id": categories[number], "iscrowd": 0, "bbox": list(box), "area": area}
        for number, area, box in measured
    ]
    return {"file_name": f"{stem}.png", "segments_info": segments}


class SubmissionVideoWriter:
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
        self._folder = AtomicFolder(run / PNG_FOLDER / video_id)
        self._frames: list[tuple[str, list[Measure]]] = []
        self._done = False

    def __enter__(self) -> SubmissionVideoWriter:
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
            OutputError: the file cannot be written, or two frames have one name.
        """
        assert not isinstance(frame, InstanceFrame)
        stem = stem_of(frame)
        path = self._folder.path / f"{stem}.png"
        if path.parent != self._folder.path or path.exists():
            raise OutputError(f"video '{self.video_id}': two frames are called {stem!r}")
        write_panoptic_png(path, frame.ids)
        self._frames.append((stem, _measure(frame.ids)))

    def finish(self, segments: Iterable[Segment]) -> None:
        """Put the video in its place.

        Args:
            segments: all segments of the video, with their final categories.

        Raises:
            OutputError: it cannot be written; nothing of the video is left behind then.
        """
        categories = {segment.id: segment.category.id for segment in segments}
        annotations = [_entry(stem, measured, categories) for stem, measured in self._frames]
        entry = {"video_id": self.video_id, "annotations": annotations}
        write_whole(part_path(self.run, PARTS, self.video_id), [json.dumps(entry)])
        self._folder.commit()
        self._done = True


def finished_videos(run: Path) -> set[str]:
    """The videos of a submission's folder that need not be done again."""
    return {name for name in videos_with_parts(run, PARTS) if (run / PNG_FOLDER / name).is_dir()}


def write_pred_json(run: Path, video_ids: Sequence[str]) -> Path:
    """Assemble `RUN/pred.json` from the finished videos, in the order given.

    Raises:
        OutputError: one is not finished, or the file cannot be written.
    """
    check_complete(run, video_ids, finished_videos(run))
    target = run / JSON_NAME
    pieces: list[str] = []
    with output_errors(target):
        for position, video_id in enumerate(video_ids):
            pieces += [
                ", " if position else '{"annotations": [',
                part_path(run, PARTS, video_id).read_text("utf-8"),
            ]
    write_whole(target, [*(pieces or ['{"annotations": [']), "]}\n"])
    return target
