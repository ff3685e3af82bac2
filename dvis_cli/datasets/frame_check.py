"""One frame of a submission: what its json says, and whether its PNG agrees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dvis_cli.datasets.vipseg import LARGEST_ID

Finding: TypeAlias = "tuple[str, str]"  # (kind, message)


def check_segments(
    entry: Mapping[str, Any], categories: frozenset[int], classes: dict[int, int], findings: list[Finding]
) -> dict[int, Mapping[str, Any]] | None:
    """Look at a frame's `segments_info`.

    Args:
        entry: the frame in `pred.json`.
        categories: the valid category ids.
        classes: id -> class of the video so far; extended.
        findings: what is wrong is added here.

    Returns:
        The segments that have a usable id, by id; None if there is no list of them.
    """
    segments: dict[int, Mapping[str, Any]] = {}
    listed = entry.get("segments_info")
    if not isinstance(listed, list):
        findings.append(("json", "has no list segments_info"))
        return None
    for segment in listed:
        number = segment.get("id") if isinstance(segment, dict) else None
        if type(number) is not int or not 1 <= number <= LARGEST_ID:
            findings.append(("bad-id", f"segment id {number!r:.40} is no whole number 1..{LARGEST_ID}"))
            continue
        if number in segments:
            findings.append(("bad-id", f"segment {number} is listed twice"))
            continue
        segments[number] = segment
        category = segment.get("category_id")
        if type(category) is not int or category not in categories:
            findings.append(("unknown-category", f"segment {number} has category_id {category!r:.40}"))
        elif classes.setdefault(number, category) != category:
            findings.append(
                ("class-change", f"segment {number} is of class {category}, before of {classes[number]}")
            )
            classes[number] = category
    return segments


def check_pixels(
    ids: npt.NDArray[np.uint32], segments: Mapping[int, Mapping[str, Any]], findings: list[Finding]
) -> None:
    """Compare a decoded PNG with the frame's segments.

    Args:
        ids: (H, W) uint32, 0 = void.
        segments: id -> `{area, bbox, ...}`.
        findings: what is wrong is added here.
    """
    values, areas, boxes = measure(ids)
    seen = dict(zip(values, zip(areas, boxes, strict=True), strict=True))
    findings += [
        ("id-not-in-json", f"segment {number} is in the PNG and not in pred.json")
        for number in values
        if number and number not in segments
    ]
    for number, segment in segments.items():
        if number not in seen:
            findings.append(("id-not-in-png", f"segment {number} is in pred.json and not in the PNG"))
            continue
        area, (x, y, width, height) = seen[number]
        if not _equal(segment.get("area"), area):
            findings.append(("area", f"segment {number} has area {segment.get('area')!r:.40}, not {area}"))
        # The reference's own writer gives last minus first pixel; COCO counts both. Scorers read neither.
        box, exclusive = [x, y, width, height], [x, y, width - 1, height - 1]
        if not _box_is(segment.get("bbox"), box) and not _box_is(segment.get("bbox"), exclusive):
            findings.append(("box", f"segment {number} has bbox {segment.get('bbox')!r:.60}, not {box}"))


def measure(ids: npt.NDArray[np.uint32]) -> tuple[list[int], list[int], list[tuple[int, int, int, int]]]:
    """The ids of a map, ascending, with their pixels and boxes (x, y, width, height)."""
    from scipy.ndimage import find_objects  # half of this module's import time, and scoring does not need it

    values = np.unique(ids)
    rows = np.searchsorted(values, ids).astype(np.int32)
    areas = np.bincount(rows.ravel(), minlength=len(values))
    boxes = [
        (x.start, y.start, x.stop - x.start, y.stop - y.start)
        for y, x in (extent for extent in find_objects(rows + 1) if extent is not None)
    ]
    return values.tolist(), areas.tolist(), boxes


def _box_is(value: Any, box: list[int]) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(_equal(part, expected) for part, expected in zip(value, box, strict=True))
    )


def _equal(value: Any, number: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == number
