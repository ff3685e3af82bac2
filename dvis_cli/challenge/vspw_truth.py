"""Ground truth of semantic segmentation: maps of classes.

DIR/<video>/<stem>.png                               class ids, 255 = ignore
DIR/data/<video>/mask/<stem>.png and DIR/val.txt     VSPW as published: 1..124 are the classes 0..123
DIR/panomasksRGB and DIR/panoptic_gt_VIPSeg_val.json VIPSeg: a segment's class
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dvis_cli.challenge.archive import Archive
from dvis_cli.datasets.categories import vipseg_by_id
from dvis_cli.datasets.id_map import HEADER_BYTES, PngHeader, decode_classes, read_ids
from dvis_cli.datasets.names import error_in, safe_name, stem_of
from dvis_cli.datasets.vipseg import VIPSeg, VIPSegVideo, mask_path, splits_of
from dvis_cli.errors import DatasetError
from dvis_cli.structures import Category

IGNORE = 255
VOID = -1  # in maps that are read here: no class
_NO_COLOR = (128, 128, 128)
ClassMap = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TruthMaps(ABC):
    """The true maps of one video; can be sent to another process."""

    name: str
    stems: tuple[str, ...]

    @abstractmethod
    def size(self, position: int) -> tuple[int, int]:
        """(height, width) of a frame. Raises `DatasetError`."""

    @abstractmethod
    def read(self, position: int) -> ClassMap:
        """A frame: (height, width) int32 class ids, -1 for none. Raises `DatasetError`."""


@dataclass(frozen=True)
class SemanticTruth:
    """A ground truth of classes."""

    path: Path
    categories: tuple[Category, ...]  # ids ascending
    videos: tuple[TruthMaps, ...]

    @property
    def class_ids(self) -> tuple[int, ...]:
        return tuple(category.id for category in self.categories)


def open_semantic_truth(path: Path, split: str) -> SemanticTruth:
    """Open what `--gt` names.

    Raises:
        DatasetError: there is nothing of the kind, or it is not what it should be.
    """
    if path.is_file():
        return vipseg_semantics(VIPSeg(path))
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
    known = vipseg_by_id()  # VSPW's classes are VIPSeg's
    classes = (known.get(id) or Category(id, f"class {id}", False, _NO_COLOR) for id in range(IGNORE))
    return SemanticTruth(path, tuple(classes), videos)


def _maps(folder: Path, name: str, shifted: bool = False) -> _Maps:
    return _Maps(name, tuple(sorted(stem_of(path.name) for path in folder.glob("*.png"))), folder, shifted)


@dataclass(frozen=True)
class _Maps(TruthMaps):
    """Maps of one video in a folder."""

    folder: Path
    shifted: bool  # 0 is "ignore", k is class k - 1

    def size(self, position: int) -> tuple[int, int]:
        with self._read(position, HEADER_BYTES) as data:
            header = PngHeader.parse(data)
            header.check_map()
        return header.height, header.width

    def read(self, position: int) -> ClassMap:
        with self._read(position) as data:
            classes = decode_classes(data)
        classes[classes == IGNORE] = VOID
        if self.shifted:
            classes = np.where(classes > 0, classes - 1, VOID).astype(np.int32)
        return classes

    @contextmanager
    def _read(self, position: int, head: int | None = None) -> Iterator[bytes]:
        name = f"{self.stems[position]}.png"
        with error_in(f"ground truth {self.folder}: {name}"):
            yield Archive(self.folder).read(name, head=head)


@dataclass(frozen=True)
class _PanopticMaps(TruthMaps):
    """The classes of the segments of a VIPSeg video."""

    root: Path
    video: VIPSegVideo

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
    categories = tuple(sorted(dataset.categories, key=lambda category: category.id))
    videos = tuple(_PanopticMaps(video.name, video.stems, dataset.root, video) for video in dataset.videos)
    return SemanticTruth(dataset.json_path, categories, videos)


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
    return SemanticTruth(root, tuple(vipseg_by_id()[id] for id in sorted(vipseg_by_id())), tuple(videos))
