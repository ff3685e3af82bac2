"""A YouTube-VIS or OVIS submission as it grows: a part for each video now, `results.json` at the end.

results.json is one list of {video_id, category_id, score, segmentations}; segmentations has an entry for every
frame of the video: a mask as COCO run lengths, or null where there is none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from dvis_cli.coco_masks import rle
from dvis_cli.structures import FinishedFrame, InstanceFrame, Segment
from dvis_cli.writers.run_parts import (
    check_complete,
    check_video_id,
    part_path,
    videos_with_parts,
    write_whole,
)

PARTS = ".tubes"
JSON_NAME = "results.json"


def tube_entry(
    video_number: int,
    category_id: int,
    score: float,
    frames: Iterable[str | None],
    size: tuple[int, int],
) -> dict[str, Any]:
    """One tube of `results.json`.

    Args:
        video_number: the video's id in the dataset's json.
        category_id: the dataset's.
        score: 0..1.
        frames: the run-length code of every frame of the video, None where there is no mask.
        size: (height, width) of the video.
    """
    return {
        "video_id": video_number,
        "category_id": category_id,
        "score": score,
        "segmentations": [None if counts is None else rle(counts, size) for counts in frames],
    }


class YtvisVideoWriter:
    """Context manager for one video of a submission: `add` its frames, then `finish`.

    It holds the run lengths of the whole video: some hundred bytes for a tube in a frame.

    Args:
        run: the submission's folder; made when needed.
        video_id: the video's name, a plain name.
        number: its id in the dataset's json.
    """

    def __init__(self, run: Path, video_id: str, number: int) -> None:
        check_video_id(video_id)
        self.run, self.video_id, self.number = run, video_id, number
        self._masks: list[Mapping[int, str]] = []
        self._size = (0, 0)

    def __enter__(self) -> YtvisVideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is written before `finish`."""

    def add(self, frame: FinishedFrame) -> None:
        """Take in one frame; frames come in order."""
        assert isinstance(frame, InstanceFrame)
        height, width = frame.rgb.shape[:2]
        self._size = (height, width)
        self._masks.append(frame.masks)

    def finish(self, segments: Iterable[Segment]) -> None:
        """Write the video's part.

        Args:
            segments: all tubes of the video, with their final scores.

        Raises:
            OutputError: it cannot be written.
        """
        entries = [
            tube_entry(
                self.number,
                segment.category.id,
                segment.score,
                [masks.get(segment.id) for masks in self._masks],
                self._size,
            )
            for segment in segments
        ]
        write_whole(part_path(self.run, PARTS, self.video_id), [json.dumps(entries)])


def finished_videos(run: Path) -> set[str]:
    """The videos of a submission's folder that need not be done again."""
    return videos_with_parts(run, PARTS)


def write_results(run: Path, video_ids: Sequence[str]) -> Path:
    """Assemble `RUN/results.json` from the finished videos, in the order given.

    Raises:
        OutputError: one is not finished, or the file cannot be written.
    """
    check_complete(run, video_ids, finished_videos(run))
    parts = (part_path(run, PARTS, name).read_text("utf-8") for name in video_ids)
    write_whole(run / JSON_NAME, joined_lists(parts))
    return run / JSON_NAME


def joined_lists(parts: Iterable[str]) -> Iterable[str]:
    """Texts of JSON lists to the text of one list, an entry a line, one part at a time in memory."""
    first = True
    yield "["
    for part in parts:
        for entry in json.loads(part):
            yield ("\n" if first else ",\n") + json.dumps(entry)
            first = False
    yield "\n]\n"
