"""Where clips come from: annotated videos, annotated single images, or a mixture of such."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dvis_cli.datasets.coco_panoptic import CocoPanoptic
from dvis_cli.datasets.pictures import read_picture
from dvis_cli.datasets.vipseg import IMAGE_SUFFIXES, JSON_PREFIX, VIPSeg
from dvis_cli.errors import DatasetError
from dvis_cli.structures import Category

from .clip_settings import ClipSettings

NO_SEGMENTS = "no segments"
NO_KNOWN_CLASS = "no segment of the model's classes"
TOO_SHORT = "fewer frames than a clip"


class ClipSource(Protocol):
    """Annotated videos, numbered from 0. A still source has videos of one frame that may be animated."""

    name: str  # for messages
    categories: tuple[Category, ...]  # the dataset's own
    still: bool

    def __len__(self) -> int:
        """Number of videos."""

    def frames(self, video: int) -> int:
        """Number of frames of a video."""

    def names(self, video: int, frame: int) -> tuple[str, str]:
        """Video id and the frame's stem."""

    def segments(self, video: int, frame: int) -> Sequence[Mapping[str, Any]]:
        """The frame's segments: id, category_id and perhaps iscrowd."""

    def read_picture(self, video: int, frame: int) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB; DatasetError if it cannot be read."""

    def read_ids(self, video: int, frame: int) -> npt.NDArray[np.uint32]:
        """(H, W) uint32 segment ids, 0 = void; DatasetError if it cannot be read."""


class VIPSegSource:
    """A split in VIPSeg's layout."""

    still = False

    def __init__(self, dataset: VIPSeg) -> None:
        self.dataset, self.categories = dataset, dataset.categories
        self.name = str(dataset.json_path)

    def __len__(self) -> int:
        return len(self.dataset.videos)

    def frames(self, video: int) -> int:
        return len(self.dataset.videos[video].frames)

    def names(self, video: int, frame: int) -> tuple[str, str]:
        return self.dataset.videos[video].video_id, self.dataset.videos[video].frames[frame].stem

    def segments(self, video: int, frame: int) -> Sequence[Mapping[str, Any]]:
        return self.dataset.videos[video].frames[frame].segments

    def read_picture(self, video: int, frame: int) -> npt.NDArray[np.uint8]:
        listed = self.dataset.videos[video].frames[frame]
        folder = self.dataset.root / "images" / self.dataset.videos[video].video_id
        paths = [folder / (listed.stem + suffix) for suffix in IMAGE_SUFFIXES]
        path = next((path for path in paths if path.is_file()), paths[0])
        return read_picture(path, listed.width, listed.height)

    def read_ids(self, video: int, frame: int) -> npt.NDArray[np.uint32]:
        return self.dataset.read_ids(self.dataset.videos[video], self.dataset.videos[video].frames[frame])


class StillSource:
    """A split of single images in COCO's panoptic layout: each is a video of one frame."""

    still = True

    def __init__(self, dataset: CocoPanoptic) -> None:
        self.dataset, self.categories = dataset, dataset.categories
        self.name = str(dataset.json_path)

    def __len__(self) -> int:
        return len(self.dataset.images)

    def frames(self, video: int) -> int:
        return 1

    def names(self, video: int, frame: int) -> tuple[str, str]:
        return self.dataset.image_folder.name, self.dataset.images[video].stem

    def segments(self, video: int, frame: int) -> Sequence[Mapping[str, Any]]:
        return self.dataset.images[video].segments

    def read_picture(self, video: int, frame: int) -> npt.NDArray[np.uint8]:
        return self.dataset.read_picture(self.dataset.images[video])

    def read_ids(self, video: int, frame: int) -> npt.NDArray[np.uint32]:
        return self.dataset.read_ids(self.dataset.images[video])


@dataclass(frozen=True)
class Mixture:
    """Several sources; a clip comes from each with a probability proportional to its weight.

    Raises:
        DatasetError: no source, not one weight for each, or a weight that is not above 0.
    """

    sources: tuple[ClipSource, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.sources or len(self.sources) != len(self.weights):
            raise DatasetError(f"{len(self.sources)} sources of clips but {len(self.weights)} weights")
        if not all(0 < weight < float("inf") for weight in self.weights):
            raise DatasetError(f"weights of sources must be above 0, not {list(self.weights)}")


def open_source(root: Path, split: str) -> ClipSource:
    """A split of a dataset folder, in VIPSeg's or in COCO's panoptic layout, whichever is there.

    Raises:
        DatasetError: neither is there, or what is wrong with it.
    """
    if not root.is_dir():
        raise DatasetError(f"dataset folder {root} does not exist")
    if CocoPanoptic.find(root, split) and not (root / f"{JSON_PREFIX}{split}.json").is_file():
        return StillSource(CocoPanoptic.open(root, split))
    return VIPSegSource(VIPSeg.open(root, split))


@dataclass(frozen=True)
class SourceReport:
    """What of a source can be trained on."""

    source: str
    usable: tuple[int, ...]  # numbers of the videos that clips are cut from
    classes: Mapping[int, int]  # category id of the dataset -> contiguous class of the model
    skipped: Mapping[str, int] = field(default_factory=dict)  # reason -> videos
    unknown: Mapping[str, int] = field(default_factory=dict)  # class that the model lacks -> segments

    def lines(self) -> list[str]:
        """A warning for each thing left out."""
        lines = [f"{self.source}: {count} videos skipped: {why}" for why, count in self.skipped.items()]
        if self.unknown:
            names = ", ".join(f"{name} ({count})" for name, count in list(self.unknown.items())[:8])
            more = f" and {len(self.unknown) - 8} more classes" if len(self.unknown) > 8 else ""
            lines.append(
                f"{self.source}: {sum(self.unknown.values())} segments of classes that the model does not have"
                f" count as void: {names}{more}"
            )
        return lines


def class_map(dataset: Sequence[Category], model: Sequence[Category]) -> dict[int, int]:
    """Category id of a dataset -> contiguous class of the model, for those that agree in id and in name.

    Names are compared without regard to case and to the outer blanks.
    """
    wanted = {(category.id, _plain(category.name)): index for index, category in enumerate(model)}
    found = {category.id: wanted.get((category.id, _plain(category.name))) for category in dataset}
    return {number: index for number, index in found.items() if index is not None}


def check_source(source: ClipSource, settings: ClipSettings, categories: Sequence[Category]) -> SourceReport:
    """Sort a source's videos by its json, without opening a picture.

    Args:
        source: where clips are to come from.
        settings: how long they are.
        categories: the model's classes, in the order of its logits.
    """
    classes = class_map(source.categories, categories)
    names = {category.id: category.name for category in source.categories}
    usable, skipped, unknown = [], Counter[str](), Counter[str]()
    for video in range(len(source)):
        seen: dict[int, int] = {}
        for frame in range(source.frames(video)):
            seen.update(
                {s["id"]: s["category_id"] for s in source.segments(video, frame) if not s.get("iscrowd")}
            )
        unknown.update(names[category] for category in seen.values() if category not in classes)
        if not source.still and source.frames(video) < settings.frames:
            skipped[f"{TOO_SHORT} ({settings.frames})"] += 1
        elif not seen:
            skipped[NO_SEGMENTS] += 1
        elif not any(category in classes for category in seen.values()):
            skipped[NO_KNOWN_CLASS] += 1
        else:
            usable.append(video)
    return SourceReport(source.name, tuple(usable), classes, skipped, dict(unknown.most_common()))


def nothing_usable(report: SourceReport, source: ClipSource, categories: Sequence[Category]) -> DatasetError:
    """Why there is nothing to train on."""
    if not len(source):
        return DatasetError(f"{report.source} lists no video; there is nothing to train on")
    if not report.classes:
        theirs = ", ".join(f"{c.id} {c.name}" for c in source.categories[:5])
        ours = ", ".join(f"{c.id} {c.name}" for c in categories[:5])
        return DatasetError(
            f"{report.source} shares no class with the model, by id and name: its classes begin with {theirs};"
            f" the model's with {ours}. Give the model the dataset's class list"
        )
    why = "; ".join(f"{count} videos have {reason}" for reason, count in report.skipped.items())
    return DatasetError(f"{report.source} has no video to train on: {why}")


def _plain(name: str) -> str:
    return name.strip().casefold()
