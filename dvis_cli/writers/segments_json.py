"""`segments.json`: what is in the PNGs, as data. The schema is documented in docs/outputs.md."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from dvis_cli.coco_masks import measure
from dvis_cli.structures import FinishedFrame, InstanceFrame, Segment, VideoInfo
from dvis_cli.writers.failures import output_errors

FORMAT = "dvis-segments"
VERSION = 1
_OWN_KEYS = ("format", "version", "source", "frames", "segments")
_FIELDS = 6  # of one record: frame, area, x, y, width, height


class SegmentStatistics:
    """Where each segment is in each frame, collected while the frames pass.

    Memory: 24 bytes for a segment in a frame, 8 bytes for a frame (and its name, for image folders).
    """

    def __init__(self) -> None:
        self.pts = array("d")  # seconds, per frame
        self.indices = array("L")  # per frame
        self.names: list[str | None] = []  # file stems; stays empty while all are None
        self._records: dict[int, array[int]] = {}

    def add(self, frame: FinishedFrame) -> None:
        """Count one frame; frames come in order."""
        self._remember_name(frame.name)
        self.indices.append(frame.index)
        self.pts.append(frame.pts)
        measured = _measure_masks(frame) if isinstance(frame, InstanceFrame) else measure_segments(frame.ids)
        for id, area, box in measured:
            self._records.setdefault(id, array("I")).extend((frame.index, area, *box))

    @property
    def ids(self) -> list[int]:
        """Ids that had at least one pixel in at least one frame, ascending."""
        return sorted(self._records)

    def frames_of(self, id: int) -> list[dict[str, Any]]:
        """`{"frame", "area", "box": [x, y, width, height]}` for every frame in which the segment is seen."""
        flat = self._records.get(id, array("I"))
        rows = (flat[start : start + _FIELDS] for start in range(0, len(flat), _FIELDS))
        return [{"frame": row[0], "area": row[1], "box": row[2:].tolist()} for row in rows]

    def _remember_name(self, name: str | None) -> None:
        if name is not None and not self.names:
            self.names = [None] * len(self.pts)
        if name is not None or self.names:
            self.names.append(name)


def measure_segments(ids: np.ndarray) -> Iterator[tuple[int, int, tuple[int, int, int, int]]]:
    """Every segment of a map but void: `(id, area in pixels, (x, y, width, height))`, ids ascending.

    Args:
        ids: (height, width) non-negative integers.
    """
    if ids.size == 0:
        return
    largest = int(ids.max())
    values: np.ndarray | range = range(largest + 1)
    if largest > 4096:  # a table up to the largest id would be mostly empty
        values, flat = np.unique(ids, return_inverse=True)
        if values[0] != 0:
            values, flat = np.concatenate(([0], values)), flat + 1
        ids = flat.reshape(ids.shape)
    areas = np.bincount(ids.ravel(), minlength=len(values))
    boxes = ndimage.find_objects(ids, len(values) - 1)
    for place, box in enumerate(boxes, start=1):
        if box is not None:
            rows, columns = box
            corner = (columns.start, rows.start)
            size = (columns.stop - columns.start, rows.stop - rows.start)
            yield int(values[place]), int(areas[place]), (*corner, *size)


def _measure_masks(frame: InstanceFrame) -> Iterator[tuple[int, int, tuple[int, int, int, int]]]:
    measured = measure(list(frame.masks.values()), frame.rgb.shape[:2])
    for id, (area, box) in zip(frame.masks, measured, strict=True):
        yield id, area, box


def segments_document(
    info: VideoInfo,
    segments: Iterable[Segment],
    statistics: SegmentStatistics,
    run: Mapping[str, Any],
    *,
    pngs: bool = True,
) -> dict[str, Any]:
    """The content of `segments.json`.

    Args:
        info: the source.
        segments: all segments of the video; those without a pixel in any frame are left out, but for instances.
        statistics: of all frames.
        run: how the result was made (`model`, `mode`, `task`, `thresholds`, ...), put at the top level. The task
            decides what a segment's `id` is: of semantic results, the class's, which is in the PNGs.
        pngs: whether there are PNGs; without them the frames' `file_name` is null.

    Raises:
        ValueError: a segment id in the frames that `segments` lacks, or a key of `run` that is taken.
    """
    taken = sorted(set(run) & set(_OWN_KEYS))
    if taken:
        raise ValueError(f"run may not hold {', '.join(taken)}: these keys are the document's own")
    known = {segment.id: segment for segment in segments}
    unknown = [id for id in statistics.ids if id not in known]
    if unknown:
        raise ValueError(f"segment ids {unknown} are in the frames but not in the list of segments")
    task = run.get("task")
    listed = sorted(known) if task == "instance" else statistics.ids
    entries = [_segment(known[id], statistics.frames_of(id), task == "semantic") for id in listed]
    return {
        "format": FORMAT,
        "version": VERSION,
        "source": _source(info, len(statistics.pts)),
        **run,
        "frames": _frames(statistics, pngs and task != "instance"),
        "segments": sorted(entries, key=lambda entry: int(entry["id"])),
    }


def png_name(index: int) -> str:
    """File name of a frame's PNG inside its folder."""
    return f"{index:06d}.png"


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document with one line per frame and per segment; the file appears whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with output_errors(path):
            with partial.open("w", encoding="utf-8") as file:
                file.writelines(_lines(document))
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield "{\n"
    for place, (key, value) in enumerate(document.items()):
        yield f"  {json.dumps(key)}: "
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield "[\n"
            for item_place, item in enumerate(value):
                yield f"    {_dumps(item)}{',' if item_place + 1 < len(value) else ''}\n"
            yield "  ]"
        else:
            yield _dumps(value)
        yield ",\n" if place + 1 < len(document) else "\n"
    yield "}\n"


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: object) -> object:
    """What `run` may hold besides JSON's own types: numpy scalars and paths."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} cannot be written to segments.json")


def _source(info: VideoInfo, frames: int) -> dict[str, Any]:
    return {
        "path": info.path,
        "name": info.name,
        "width": info.width,
        "height": info.height,
        "fps": round(info.fps, 6),
        "frames": frames,
        "duration": None if info.duration is None else round(info.duration, 6),
        "start": round(info.start, 6),
        "has_audio": info.has_audio,
    }


def _frames(statistics: SegmentStatistics, pngs: bool) -> list[dict[str, Any]]:
    frames = [
        {"index": index, "pts": round(pts, 6), "file_name": png_name(index) if pngs else None}
        for index, pts in zip(statistics.indices, statistics.pts, strict=True)
    ]
    for frame, name in zip(frames, statistics.names, strict=False):
        if name is not None:
            frame["source_name"] = name
    return frames


def _segment(segment: Segment, frames: list[dict[str, Any]], by_class: bool) -> dict[str, Any]:
    entry = {
        "id": segment.category.id if by_class else segment.id,
        "category_id": segment.category.id,
        "category": segment.category.name,
        "isthing": segment.category.isthing,
        "score": round(float(segment.score), 6),
        "first_frame": frames[0]["frame"] if frames else None,
        "last_frame": frames[-1]["frame"] if frames else None,
        "area": sum(frame["area"] for frame in frames),
    }
    if segment.query is not None:
        entry["query"] = segment.query
    return {**entry, "frames": frames}
