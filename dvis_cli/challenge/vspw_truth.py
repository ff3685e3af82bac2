"""Ground truth of semantic segmentation: maps of classes.

DIR/<video>/<stem>.png                               class ids, 255 = ignore
DIR/data/<video>/mask/<stem>.png and DIR/val.txt     VSPW as published: 1..124 are the classes 0..123
DIR/panomasksRGB and DIR/panoptic_gt_VIPSeg_val.json VIPSeg: a segment's class
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from dvis_cli.challenge.archive import Archive
from dvis_cli.datasets.categories import vipseg_by_id
from dvis_cli.datasets.id_map import HEADER_BYTES, LARGEST_SIDE, PngHeader, read_ids
from dvis_cli.datasets.names import safe_name, stem_of
from dvis_cli.datasets.vipseg import VIPSeg, VIPSegVideo, mask_path, splits_of
from dvis_cli.errors import DatasetError

IGNORE = 255
GRAY, PALETTE = 0, 3  # PNG colour types of one channel
ClassMap = npt.NDArray[np.int32]
VOID = -1  # in maps that are read here: no class


def check_header(header: PngHeader, depths: Sequence[int] = (8,)) -> None:
    """Raise DatasetError unless this is the header of a map, of one of some bit depths."""
    if header.color_type not in (GRAY, PALETTE) or header.bit_depth not in depths:
        raise DatasetError(
            f"must be a PNG of one channel of 8 bits (bit depth {header.bit_depth}, color type {header.color_type})"
        )
    if not (0 < header.width <= LARGEST_SIDE and 0 < header.height <= LARGEST_SIDE):
        raise DatasetError(f"{header.width}x{header.height} pixels are too many")


def decode_classes(data: bytes) -> ClassMap:
    """A map in memory: (height, width) int32 class ids. Raises DatasetError: no PNG, damaged, several channels."""
    header = PngHeader.parse(data)
    check_header(header, (8, 16))
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return np.array(image).astype(np.int32).reshape(header.height, header.width)
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(f"damaged PNG: {error}") from error


class TruthMaps(Protocol):
    """The true maps of one video; can be sent to another process."""

    @property
    def name(self) -> str: ...

    @property
    def stems(self) -> tuple[str, ...]: ...

    def size(self, position: int) -> tuple[int, int]:
        """(height, width) of a frame. Raises `DatasetError`."""
        ...

    def read(self, position: int) -> ClassMap:
        """A frame: (height, width) int32 class ids, -1 for none. Raises `DatasetError`."""
        ...


@dataclass(frozen=True)
class SemanticTruth:
    """A ground truth of classes."""

    path: Path
    class_ids: tuple[int, ...]
    names: Mapping[int, str]  # of the classes, as far as they are known
    videos: tuple[TruthMaps, ...]


def open_semantic_truth(path: Path, split: str) -> SemanticTruth:
    """Open what `--gt` names.

    Raises:
        DatasetError: there is nothing of the kind, or it is not what it should be.
    """
    if path.is_file():
        return vipseg_semantics(VIPSeg.from_json(path))
    if not path.is_dir():
        raise DatasetError(f"{path} does not exist; expected maps, VSPW or VIPSeg")
    if splits_of(path):
        return vipseg_semantics(VIPSeg.open(path, split))
    if (path / "data").is_dir() and list(path.glob("*.txt")):
        return _published_vspw(path, split)
    found = [_maps(path / name, name) for name in sorted(Archive(path).folders())]
    videos = tuple(video for video in found if video.stems)
    if not videos:
        raise DatasetError(f"{path} holds no ground truth: expected <video>/<stem>.png, VSPW or VIPSeg")
    return SemanticTruth(path, tuple(range(IGNORE)), _vspw_names(), videos)


def _maps(folder: Path, name: str, shifted: bool = False) -> _Maps:
    return _Maps(folder, name, tuple(sorted(stem_of(path.name) for path in folder.glob("*.png"))), shifted)


@dataclass(frozen=True)
class _Maps:
    """Maps of one video in a folder."""

    folder: Path
    name: str
    stems: tuple[str, ...]
    shifted: bool  # 0 is "ignore", k is class k - 1

    def size(self, position: int) -> tuple[int, int]:
        try:
            header = PngHeader.parse(self._data(position, HEADER_BYTES))
            check_header(header)
        except DatasetError as error:
            raise DatasetError(f"ground truth {self.folder}: {self.stems[position]}.png: {error}") from error
        return header.height, header.width

    def read(self, position: int) -> ClassMap:
        try:
            classes = decode_classes(self._data(position))
        except DatasetError as error:
            raise DatasetError(f"ground truth {self.folder}: {self.stems[position]}.png: {error}") from error
        classes[classes == IGNORE] = VOID
        if self.shifted:
            classes = np.where(classes > 0, classes - 1, VOID).astype(np.int32)
        return classes

    def _data(self, position: int, head: int | None = None) -> bytes:
        return Archive(self.folder).read(f"{self.stems[position]}.png", head=head)


@dataclass(frozen=True)
class _PanopticMaps:
    """The classes of the segments of a VIPSeg video."""

    root: Path
    video: VIPSegVideo

    @property
    def name(self) -> str:
        return self.video.video_id

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(frame.stem for frame in self.video.frames)

    def size(self, position: int) -> tuple[int, int]:
        frame = self.video.frames[position]
        return frame.height, frame.width

    def read(self, position: int) -> ClassMap:
        frame = self.video.frames[position]
        path = mask_path(self.root, self.video.video_id, frame.stem)
        values, places = np.unique(read_ids(path, frame.width, frame.height), return_inverse=True)
        classes = {segment["id"]: segment["category_id"] for segment in frame.segments}
        table = np.array([classes.get(int(value), VOID) for value in values], np.int32)
        return table[places].reshape(frame.height, frame.width)


def vipseg_semantics(dataset: VIPSeg) -> SemanticTruth:
    """The classes of a VIPSeg split; void and segments that the json does not list have none."""
    ids = tuple(sorted(category.id for category in dataset.categories))
    names = {category.id: category.name for category in dataset.categories}
    videos = tuple(_PanopticMaps(dataset.root, video) for video in dataset.videos)
    return SemanticTruth(dataset.json_path, ids, names, videos)


def _published_vspw(root: Path, split: str) -> SemanticTruth:
    list_path = root / f"{safe_name(split, 'split')}.txt"
    if not list_path.is_file():
        there = ", ".join(sorted(path.stem for path in root.glob("*.txt")))
        raise DatasetError(f"{list_path} does not exist; splits in {root}: {there}")
    lines = Archive(root).read(list_path.name).decode().split("\n")
    names = [safe_name(line.strip(), "video") for line in lines if line.strip()]
    videos = [_maps(root / "data" / name / "mask", name, shifted=True) for name in names]
    for video in videos:
        if not video.stems:
            raise DatasetError(f"{video.folder} holds no masks, and {list_path} names the video")
    if not videos:
        raise DatasetError(f"{list_path} names no videos")
    return SemanticTruth(root, tuple(sorted(_vspw_names())), _vspw_names(), tuple(videos))


def _vspw_names() -> dict[int, str]:
    """VSPW's classes are VIPSeg's."""
    return {id: category.name for id, category in vipseg_by_id().items()}
