"""A finished result folder of `dvis segment`, read back as the frames that it was written from, one at a time.

    result = open_result("OUT/clip")
    result.info, result.task, result.segments
    for frame in result:            # PanopticFrame or InstanceFrame, as `segment_video` gives them
        ...

Nothing in the folder is trusted: names stay inside, sizes are checked before anything is decoded, and an id that
`segments.json` does not list is an error.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dvis_cli.coco_masks import check_counts
from dvis_cli.config import TASKS, TaskName
from dvis_cli.datasets.id_map import LARGEST_SIDE, PngHeader, decode_classes, read_ids
from dvis_cli.datasets.names import error_in, read_json, safe_name, stem_of, whole
from dvis_cli.errors import DatasetError
from dvis_cli.structures import (
    Category,
    FinishedFrame,
    InstanceFrame,
    MaskTube,
    PanopticFrame,
    Segment,
    VideoInfo,
)
from dvis_cli.writers.folder import MASKS_NAME
from dvis_cli.writers.folder import safe_name as folder_name
from dvis_cli.writers.palette import segment_color
from dvis_cli.writers.segments_json import VERSION
from dvis_cli.writers.soft_edges import SOFT_FOLDER, read_soft

from .coco import coco_document, masks_of

SEGMENTS_NAME = "segments.json"
LONGEST_LINE = 2**28  # characters of a frame's masks
_LISTS = ("frames", "segments")
_OWN_KEYS = (*_LISTS, "source", "format", "version")


@dataclass(frozen=True)
class Result:
    """One result folder. Iterate it for its frames, as often as needed; a frame at a time is in memory.

    A frame's `rgb` is black: the pixels are in the source. Of semantic results, a segment's `id` is the class's plus 1,
    so that 0 is void in all tasks; `file_id` is what the files have.
    """

    folder: Path
    info: VideoInfo  # `frames` is exact; `path` is where the source was
    task: TaskName
    facts: Mapping[str, Any]  # the rest of segments.json's top level: model, mode, thresholds, ...
    segments: list[Segment]  # ids ascending
    pts: array[float] = field(repr=False)  # seconds, of each frame
    files: list[str | None] = field(repr=False)  # of each frame: its PNG's name
    names: list[str | None] = field(repr=False)  # of each frame: its name in a folder of images

    def __len__(self) -> int:
        return len(self.pts)

    def __iter__(self) -> Iterator[FinishedFrame]:
        """Frames in order.

        Raises:
            DatasetError: a file is missing, damaged, or does not fit segments.json.
        """
        known = {segment.id: segment for segment in self.segments}
        size = (self.info.height, self.info.width)
        black = np.broadcast_to(np.uint8(0), (*size, 3))
        if self.task == "instance":
            for index, masks in enumerate(self._masks(known, size)):
                present = {id: known[id] for id in masks}
                yield InstanceFrame(index, self.pts[index], black, masks, present, self.names[index])
            return
        for index, name in enumerate(self.pngs):
            path = self.folder / name
            ids = self._class_map(path) if self.task == "semantic" else self._id_map(path)
            present = self._present(ids, known, path)
            soft = read_soft(self.folder / SOFT_FOLDER, index, size) if self.task == "panoptic" else None
            yield PanopticFrame(index, self.pts[index], black, ids, present, self.names[index], soft)

    @property
    def pngs(self) -> list[str]:
        """Of each frame: the path of its PNG in the folder. Raises DatasetError where there are none."""
        if None in self.files:
            raise DatasetError(f"{self.folder} was made without PNGs; run dvis segment again with them")
        return [f"{self.task}/{name}" for name in self.files]

    @property
    def named(self) -> bool:
        """Whether the source's frames have names of their own."""
        return bool(self.names) and None not in self.names

    @property
    def stems(self) -> tuple[str, ...]:
        """Of each frame: its source's name, or 000000, 000001, ... Raises DatasetError where two are equal."""
        numbers = (name or f"{index:06d}" for index, name in enumerate(self.files))
        stems = tuple(name or "" for name in self.names) if self.named else tuple(map(stem_of, numbers))
        if len(set(stems)) != len(stems):
            raise DatasetError(f"{self.folder}: two frames have the same source name")
        return stems

    def tubes(self) -> list[MaskTube]:
        """Of an instance result: the masks of each segment. Raises what iterating raises."""
        frames = [frame.masks for frame in self if isinstance(frame, InstanceFrame)]
        return [
            MaskTube(one.category.id, [masks.get(one.id) for masks in frames], one.score)
            for one in self.segments
        ]

    def to_coco(self, stuff: bool = False) -> dict[str, Any]:
        """COCO's `images`, `annotations` (run lengths, `track_id`) and `categories`; see `coco_document`.

        Args:
            stuff: whether stuff is annotated, too.
        """
        return coco_document(self, self.info, stuff, self.file_id)

    def masks(self, ids: Sequence[int]) -> Iterator[np.ndarray]:
        """(len(ids), height, width) bool of every frame: where each of these segments is."""
        return masks_of(self, ids)

    def file_id(self, segment: Segment) -> int:
        """The segment's id in the folder's files."""
        return segment.id - 1 if self.task == "semantic" else segment.id

    def _id_map(self, path: Path) -> np.ndarray:
        return read_ids(path, self.info.width, self.info.height).astype(np.int32)

    def _class_map(self, path: Path) -> np.ndarray:
        """(height, width) int32: class id + 1, and 0 where the largest value of the PNG says "no class"."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
        with error_in(str(path)):
            header, size = PngHeader.parse(data), (self.info.width, self.info.height)
            if (header.width, header.height) != size:
                raise DatasetError(f"must be {size[0]}x{size[1]} pixels, is {header.width}x{header.height}")
            values = decode_classes(data)
        return np.where(values == 2**header.bit_depth - 1, 0, values + 1)

    def _present(self, ids: np.ndarray, known: Mapping[int, Segment], path: Path) -> dict[int, Segment]:
        present = np.unique(ids)
        try:
            return {int(id): known[int(id)] for id in present if id}
        except KeyError as error:
            raise DatasetError(f"{path} has the id {error}, which {SEGMENTS_NAME} does not list") from None

    def _masks(self, known: Mapping[int, Segment], size: tuple[int, int]) -> Iterator[dict[int, str]]:
        path, lines = self.folder / MASKS_NAME, 0
        try:
            with path.open("r", encoding="utf-8") as file:
                while line := file.readline(LONGEST_LINE):
                    entry = json.loads(line)
                    if lines >= len(self) or tuple(entry["size"]) != size:
                        raise DatasetError("more lines than frames, or another size")
                    lines += 1
                    masks = {int(id): check_counts(counts, size) for id, counts in entry["masks"].items()}
                    if not masks.keys() <= known.keys():
                        raise DatasetError(f"line {lines} has an id that {SEGMENTS_NAME} does not list")
                    yield masks
            if lines != len(self):
                raise DatasetError(f"{lines} lines for {len(self)} frames")
        except FileNotFoundError:
            raise DatasetError(f"{path} is missing; run dvis segment again without --no-maps") from None
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
            raise DatasetError(f"{path} does not fit {SEGMENTS_NAME} beside it") from None
        except DatasetError as error:
            raise DatasetError(f"{path}: {error}") from error


def open_result(folder: str | Path, expected: TaskName | None = None) -> Result:
    """Read a result's `segments.json`, in less memory than it has bytes.

    Args:
        expected: its task; None: any.

    Raises:
        DatasetError: there is none, it is not one of `dvis segment`, or of another task.
    """
    path = Path(folder) / SEGMENTS_NAME
    if not path.is_file():
        raise DatasetError(f"{folder} is no result of dvis segment: it has no {SEGMENTS_NAME}")
    document = _read(path)
    try:
        if document["format"] != "dvis-segments":
            raise DatasetError(f"{path} is a {document['format']!r:.40}, not a dvis-segments file")
        if (version := document.get("version", VERSION)) != VERSION:
            raise DatasetError(f"{path} has version {version!r:.40}, this dvis reads {VERSION}: update dvis")
        task = document.get("task", "panoptic")
        if task not in TASKS:
            raise DatasetError(f"{path}: task {task!r:.40} not known; tasks: {', '.join(TASKS)}")
        if task != (expected or task):
            raise DatasetError(f"{folder} is a result of --task {task}; one of --task {expected} is needed")
        return _result(path, task, document)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise DatasetError(f"{path} is not one of dvis segment") from None


def find_results(run: Path) -> list[Path]:
    """The results that a path names: itself, or the folders in it that are results."""
    if (run / SEGMENTS_NAME).is_file():
        return [run]
    return sorted(path.parent for path in run.glob(f"*/{SEGMENTS_NAME}"))


def result_folders(run: Path) -> list[Path]:
    """`find_results`; DatasetError where there are none."""
    if not (found := find_results(run)):
        raise DatasetError(f"{run} is no result of dvis segment, and there is none in it")
    return found


def _result(path: Path, task: TaskName, document: dict[str, Any]) -> Result:
    frames, shift = document["frames"], 1 if task == "semantic" else 0
    if not frames or [frame["index"] for frame in frames] != list(range(len(frames))):
        raise DatasetError(f"{path}: there must be frames, numbered 0, 1, 2, ...")
    what = f"{path}: a frame's name"
    files = [name if name is None else safe_name(name, what) for name in (one["file_name"] for one in frames)]
    names = [
        name if name is None else _usable(name, what) for name in (one.get("source_name") for one in frames)
    ]
    pts = array("d", (float(frame["pts"]) for frame in frames))
    if not all(map(math.isfinite, pts)):
        raise DatasetError(f"{path}: a frame has no time")
    segments = [_segment(entry, shift) for entry in document["segments"]]
    ids = [segment.id for segment in segments]
    if len(set(ids)) != len(ids) or min(ids, default=1) < 1:
        raise DatasetError(f"{path}: segment ids must be positive and different")
    return Result(
        path.parent,
        _info(path, document["source"], len(frames)),
        task,
        {key: value for key, value in document.items() if key not in _OWN_KEYS},
        sorted(segments, key=lambda segment: segment.id),
        pts,
        files,
        names,
    )


def _usable(value: Any, what: str) -> str:
    """A name of the user's own: what other systems refuse in it is replaced; what leads elsewhere is refused."""
    try:
        return safe_name(value, what)
    except DatasetError:
        if not isinstance(value, str) or "/" in value or value in ("", ".", ".."):
            raise
        return safe_name(folder_name(value), what)


def _info(path: Path, source: Mapping[str, Any], frames: int) -> VideoInfo:
    width, height = (whole(source[side], f"{path}: {side}", 1, LARGEST_SIDE) for side in ("width", "height"))
    fps = float(source["fps"])
    if not (math.isfinite(fps) and fps > 0):
        raise DatasetError(f"{path}: fps {fps} must be more than 0")
    return VideoInfo(
        name=_usable(source["name"], f"{path}: source.name"),
        path=str(source["path"]),
        width=width,
        height=height,
        fps=fps,
        frames=frames,
        duration=None if source.get("duration") is None else float(source["duration"]),
        has_audio=bool(source.get("has_audio")),
        start=float(source.get("start") or 0.0),
    )


def _segment(entry: Mapping[str, Any], shift: int) -> Segment:
    number, name, isthing = int(entry["category_id"]), str(entry["category"]), bool(entry["isthing"])
    category = Category(number, name, isthing, (128, 128, 128))
    segment = Segment(int(entry["id"]) + shift, category, float(entry["score"]), entry.get("query"))
    if not isthing:  # the file has no colours: the class gets the one that its pictures have
        segment = replace(segment, category=replace(category, color=segment_color(segment)))
    return segment


def _read(path: Path) -> dict[str, Any]:
    """`segments.json` without the frames of its segments, which the maps tell, too.

    The file has a row a line. Rows are read one by one; a file that somebody laid out in another way, as a whole.
    """
    head: list[bytes] = []
    rows: dict[str, list[Any]] = {}
    current: list[Any] | None = None
    try:
        with path.open("rb") as file:
            for line in file:
                opened = re.fullmatch(rb'  "(frames|segments)": \[\s*', line)
                if opened:
                    current = rows.setdefault(opened[1].decode(), [])
                if current is not None and line.startswith(b"    {"):
                    current.append(_slim(json.loads(line.strip().removesuffix(b","))))
                else:
                    head.append(line)
        document = json.loads(b"".join(head))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        document, rows = read_json(path), {}
    if not isinstance(document, dict) or not all(isinstance(document.get(key), list) for key in _LISTS):
        raise DatasetError(f"{path} is not one of dvis segment")
    return {**document, **{key: rows.get(key) or list(map(_slim, document[key])) for key in _LISTS}}


def _slim(row: Any) -> Any:
    return {key: value for key, value in row.items() if key != "frames"} if isinstance(row, dict) else row
