"""Ground truth of instance segmentation: a YouTube-VIS (or OVIS) json, or the things of a VIPSeg split.

    {"videos": [{id, width, height, length, file_names}], "categories": [{id, name}],
     "annotations": [{id, video_id, category_id, iscrowd, segmentations: [run lengths | polygons | null a frame]}]}

A video's number is what `results.json` calls it by: its id in a YouTube-VIS json, and in a VIPSeg split its place
in the split's json, counted from 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dvis_cli.coco_masks import check_counts, coco, encode
from dvis_cli.datasets.id_map import LARGEST_SIDE, read_ids
from dvis_cli.datasets.names import error_in, list_of, read_json, safe_name, stem_of, value_of, whole
from dvis_cli.datasets.vipseg import JSON_PREFIX, VIPSeg, VIPSegVideo, mask_path
from dvis_cli.errors import DatasetError
from dvis_cli.structures import Category, MaskTube

_NO_COLOR = (128, 128, 128)
_LARGEST_NUMBER = 2**31 - 1


@dataclass(frozen=True)
class InstanceVideo(ABC):
    """One video, as the ground truth describes it; can be sent to another process."""

    number: int
    name: str  # of its folder
    size: tuple[int, int]  # (height, width) in pixels
    stems: tuple[str, ...]  # file names of the frames, without suffix

    @abstractmethod
    def tubes(self) -> list[MaskTube]:
        """Read the true tubes. Raises `DatasetError`."""


@dataclass(frozen=True)
class InstanceTruth:
    """A ground truth of instances."""

    path: Path
    categories: tuple[Category, ...]  # that are scored: of VIPSeg, the things
    known: frozenset[int]  # category ids that a prediction may have
    videos: tuple[InstanceVideo, ...]
    annotated: bool


def open_instance_truth(path: Path, split: str) -> InstanceTruth:
    """Open a json, or the json of a split in a folder. Raises `DatasetError`."""
    if path.is_dir():
        name = safe_name(split, "split")
        tries = [f"{JSON_PREFIX}{name}.json", f"{name}.json", f"{name}/instances.json", "instances.json"]
        found = [path / each for each in tries if (path / each).is_file()]
        if not found:
            raise DatasetError(
                f"{path} holds no ground truth of split '{name}': looked for {', '.join(tries)}"
            )
        path = found[0]
    document = read_json(path)
    videos = document.get("videos") if isinstance(document, dict) else None
    if isinstance(videos, list) and videos and isinstance(videos[0], dict) and "images" in videos[0]:
        return vipseg_instances(VIPSeg(path))
    with error_in(str(path)):
        return _parse(path, document)


@dataclass(frozen=True)
class _JsonVideo(InstanceVideo):
    """A video with its annotations as its json has them."""

    entries: list[Mapping[str, Any]]

    def tubes(self) -> list[MaskTube]:
        return [self._tube(entry) for entry in self.entries]

    def _tube(self, entry: Mapping[str, Any]) -> MaskTube:
        where = f"video '{self.name}': annotation {entry.get('id')!r:.40}"
        masks = entry.get("segmentations")
        if not isinstance(masks, list) or len(masks) != len(self.stems):
            raise DatasetError(f"{where} has not one segmentation for each of {len(self.stems)} frames")
        with error_in(where):
            codes = [mask_code(mask, self.size) for mask in masks]
        return MaskTube(entry["category_id"], codes, iscrowd=entry.get("iscrowd") == 1)


def mask_code(mask: Any, size: tuple[int, int]) -> str | None:
    """A segmentation of a json as a compressed run-length code; None where there is no mask.

    Args:
        mask: null, {size, counts} with compressed or plain counts, or a list of polygons.
        size: (height, width) that it must have.

    Raises:
        DatasetError: it is none of these, or not of that size.
    """
    if not mask:
        return None
    if isinstance(mask, list):
        return _polygons(mask, size)
    counts = mask.get("counts") if isinstance(mask, dict) else None
    if counts is None or mask.get("size") != list(size):
        raise DatasetError(f"a segmentation must be run lengths of size {list(size)}, not {mask!r:.80}")
    if not isinstance(counts, list):
        return check_counts(counts, size)
    if any(type(run) is not int or run < 0 for run in counts) or sum(counts) != size[0] * size[1]:
        raise DatasetError(f"the runs of a mask do not add up to {size[1]}x{size[0]} pixels")
    return _text(coco().frPyObjects({"size": list(size), "counts": counts}, *size))


def _polygons(polygons: list[Any], size: tuple[int, int]) -> str:
    limit = 4 * max(size)  # pixels: the border of a polygon is walked step by step
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise DatasetError("a polygon must be a list of at least three x, y pairs")
        if any(not isinstance(value, (int, float)) or not -limit < value < limit for value in polygon):
            raise DatasetError("a polygon has coordinates far outside of its frame")
    return _text(coco().merge(coco().frPyObjects(polygons, *size)))


def _text(code: Mapping[str, Any]) -> str:
    counts: bytes = code["counts"]
    return counts.decode("ascii")


def _parse(path: Path, document: Any) -> InstanceTruth:
    if not isinstance(document, dict):
        raise DatasetError("must hold videos, categories and annotations")
    categories = tuple(_category(entry) for entry in list_of(document.get("categories"), "categories"))
    known = {category.id for category in categories}
    if len(known) != len(categories):
        raise DatasetError("categories hold an id twice")
    videos = sorted(
        (_video(entry) for entry in list_of(document.get("videos"), "videos")), key=lambda video: video.number
    )
    by_video = {video.number: video.entries for video in videos}
    if len(by_video) != len(videos) or len({video.name for video in videos}) != len(videos):
        raise DatasetError("two videos have the same id or name")
    annotations = document.get("annotations") or []
    for entry in list_of(annotations, "annotations"):
        number, category = value_of(entry, "video_id"), value_of(entry, "category_id")
        if type(number) is not int or number not in by_video:
            raise DatasetError(f"an annotation has unknown video_id {number!r:.40}")
        if type(category) is not int or category not in known:
            raise DatasetError(f"an annotation has unknown category_id {category!r:.40}")
        by_video[number].append(entry)
    return InstanceTruth(path, categories, frozenset(known), tuple(videos), bool(annotations))


def _category(entry: Any) -> Category:
    number = whole(value_of(entry, "id"), "category id", 0, _LARGEST_NUMBER)
    return Category(number, str(entry.get("name", number)), True, _NO_COLOR)


def _video(entry: Any) -> _JsonVideo:
    number = whole(value_of(entry, "id"), "video id", 0, _LARGEST_NUMBER)
    files = list_of(value_of(entry, "file_names"), f"file_names of video {number}")
    if not files or not all(isinstance(file, str) for file in files):
        raise DatasetError(f"video {number} has no file_names")
    folder = entry.get("name") or (files[0].split("/")[-2] if "/" in files[0] else str(number))
    height, width = (
        whole(value_of(entry, side), f"video {number}: {side}", 1, LARGEST_SIDE)
        for side in ("height", "width")
    )
    stems = tuple(stem_of(file.split("/")[-1]) for file in files)
    return _JsonVideo(number, safe_name(folder, f"name of video {number}"), (height, width), stems, [])


@dataclass(frozen=True)
class _PanopticVideo(InstanceVideo):
    """The things of a VIPSeg video."""

    root: Path
    video: VIPSegVideo
    things: frozenset[int]  # category ids

    def tubes(self) -> list[MaskTube]:
        first: dict[int, Mapping[str, Any]] = {}
        codes: dict[int, list[str | None]] = {}
        for place, frame in enumerate(self.video.frames):
            ids = read_ids(mask_path(self.root, self.video.video_id, frame.stem), frame.width, frame.height)
            seen = [segment for segment in frame.segments if segment["category_id"] in self.things]
            if not seen:
                continue
            masks = np.stack([ids == segment["id"] for segment in seen])
            for segment, mask, code in zip(seen, masks, encode(masks), strict=True):
                first.setdefault(segment["id"], segment)
                frames = codes.setdefault(segment["id"], [None] * len(self.video.frames))
                frames[place] = code if mask.any() else None
        return [
            MaskTube(first[number]["category_id"], frames, iscrowd=first[number].get("iscrowd") == 1)
            for number, frames in codes.items()
            if any(frames)
        ]


def vipseg_instances(dataset: VIPSeg) -> InstanceTruth:
    """The things of a VIPSeg split as instances. Its videos are numbered 1, 2, ... in the order of the json.

    Raises:
        DatasetError: the frames of a video differ in size.
    """
    things = tuple(category for category in dataset.categories if category.isthing)
    ids = frozenset(category.id for category in things)
    videos = []
    for number, video in enumerate(dataset.videos, start=1):
        sizes = {(frame.height, frame.width) for frame in video.frames}
        if len(sizes) != 1:
            raise DatasetError(f"video '{video.name}': its frames must all have one size, found {len(sizes)}")
        videos.append(_PanopticVideo(number, video.name, sizes.pop(), video.stems, dataset.root, video, ids))
    known = frozenset(category.id for category in dataset.categories)
    return InstanceTruth(dataset.json_path, things, known, tuple(videos), dataset.annotated)
