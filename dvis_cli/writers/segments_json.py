"""`segments.json`: what is in the PNGs, as data. The schema is documented in docs/outputs.md."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from dvis_cli.coco_masks import measure
from dvis_cli.files import atomic_open, to_json
from dvis_cli.structures import FinishedFrame, InstanceFrame, Segment, VideoInfo

FORMAT = "dvis-segments"
VERSION = 1
_OWN_KEYS = ("format", "version", "source", "frames", "segments")
_FIELDS = 6  # of one record: frame, area, x, y, width, height


class Rows(Sequence[dict[str, Any]]):
    """The rows of a document's list, each made when it is needed: a long video's would not fit in memory."""

    def __init__(self, keys: Sequence[Any], make: Callable[[Any], dict[str, Any]]) -> None:
        self._keys, self._make = keys, make

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: Any) -> Any:
        return self._make(self._keys[index])


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
        for id, area, box in measure_frame(frame):
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
        values = np.unique(ids)
        if values[0] != 0:
            values = np.concatenate(([0], values))
        ids = np.searchsorted(values, ids)
    areas = np.bincount(ids.ravel(), minlength=len(values))
    boxes = ndimage.find_objects(ids, len(values) - 1)
    for row, box in enumerate(boxes, start=1):
        if box is not None:
            rows, columns = box
            corner = (columns.start, rows.start)
            size = (columns.stop - columns.start, rows.stop - rows.start)
            yield int(values[row]), int(areas[row]), (*corner, *size)


def measure_frame(frame: FinishedFrame) -> Iterator[tuple[int, int, tuple[int, int, int, int]]]:
    """`(id, area in pixels, (x, y, width, height))` of every segment with a pixel in a frame."""
    if not isinstance(frame, InstanceFrame):
        return measure_segments(frame.ids)
    measured = measure(list(frame.masks.values()), frame.rgb.shape[:2])
    return ((id, area, box) for id, (area, box) in zip(frame.masks, measured, strict=True))


def segments_document(
    info: VideoInfo,
    segments: Iterable[Segment],
    statistics: SegmentStatistics,
    run: Mapping[str, Any],
    *,
    pngs: bool = True,
) -> dict[str, Any]:
    """The content of `segments.json`, whose rows are made while they are written.

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
    by_class = task == "semantic"
    listed = sorted(known) if task == "instance" else statistics.ids
    if by_class:
        listed.sort(key=lambda id: known[id].category.id)
    return {
        "format": FORMAT,
        "version": VERSION,
        "source": _source(info, len(statistics.pts)),
        **run,
        "frames": Rows(range(len(statistics.pts)), partial(_frame, statistics, pngs and task != "instance")),
        "segments": Rows(listed, lambda id: _segment(known[id], statistics.frames_of(id), by_class)),
    }


def png_name(index: int) -> str:
    """File name of a frame's PNG inside its folder."""
    return f"{index:06d}.png"


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document with one line per frame and per segment; the file appears whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_open(path) as file:
        file.writelines(_lines(document))


def without_frames(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document of `segments_document` without what is there for every frame: small however long the video."""
    segments = [{key: value for key, value in one.items() if key != "frames"} for one in document["segments"]]
    return {**{key: value for key, value in document.items() if key != "frames"}, "segments": segments}


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield "{\n"
    for number, (key, value) in enumerate(document.items(), start=1):
        yield f"  {to_json(key)}: "
        if isinstance(value, Rows) and len(value):
            yield "[\n"
            for count, row in enumerate(value, start=1):
                yield f"    {_dumps(row)}{',' if count < len(value) else ''}\n"
            yield "  ]"
        else:
            yield _dumps(value)
        yield ",\n" if number < len(document) else "\n"
    yield "}\n"


def _dumps(value: object) -> str:
    return to_json(value, default=_plain)


def _plain(value: object) -> object:
    """What `run` may hold besides JSON's own types: numpy scalars and paths."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Rows):
        return list(value)
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


def _frame(statistics: SegmentStatistics, pngs: bool, row: int) -> dict[str, Any]:
    index = statistics.indices[row]
    pts, name = round(statistics.pts[row], 6), png_name(index) if pngs else None
    frame = {"index": index, "pts": pts, "file_name": name}
    if statistics.names and statistics.names[row] is not None:
        frame["source_name"] = statistics.names[row]
    return frame


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
