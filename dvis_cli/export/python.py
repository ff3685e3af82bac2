"""What a video gives to Python: a COCO document, masks as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from dvis_cli.structures import Category, FinishedFrame, Segment, VideoInfo

from .coco import categories, image_entry, instance_entry
from .job import Job
from .seen import seen_in


def coco_document(
    frames: Iterable[FinishedFrame],
    info: VideoInfo,
    stuff: bool = False,
    number: Callable[[Segment], int] = lambda segment: segment.id,
) -> dict[str, Any]:
    """`images`, `annotations` and `categories` as in COCO's instance files, for `pycocotools.coco.COCO().dataset`.

    Args:
        stuff: whether stuff is annotated, too.
        number: a segment's `track_id`.
    """
    names: list[str] = []
    pts: list[float] = []
    job = Job(info, lambda segment: stuff or segment.category.isthing, pts=pts, names=names, number=number)
    found: list[tuple[Segment, dict[str, Any]]] = []
    for frame in frames:
        names.append(frame.name or f"{frame.index:06d}")
        pts.append(frame.pts)
        for one in seen_in(frame, job.chosen):
            found.append((one.segment, instance_entry(len(found) + 1, frame.index, one, job)))
    classes: dict[int, Category] = {}
    for segment, entry in found:
        classes[segment.category.id] = segment.category
        entry["score"] = round(float(segment.score), 6)  # of a video that ran meanwhile, the last word
    return {
        "images": [image_entry(index, job) for index in range(len(names))],
        "annotations": [entry for _, entry in found],
        "categories": categories(classes[id] for id in sorted(classes)),
    }


def masks_of(frames: Iterable[FinishedFrame], ids: Sequence[int]) -> Iterator[np.ndarray]:
    """(len(ids), height, width) bool of every frame: where each segment is."""
    for frame in frames:
        yield np.array([frame.mask(id) for id in ids], bool).reshape(len(ids), *frame.rgb.shape[:2])
