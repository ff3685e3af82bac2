"""Where clips come from: annotated videos, annotated single images, or a mixture of such."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from dvis_cli.datasets.coco_panoptic import CocoImage, CocoPanoptic
from dvis_cli.datasets.vipseg import JSON_PREFIX, VIPSeg, VIPSegVideo
from dvis_cli.errors import DatasetError
from dvis_cli.structures import Category

from .clip_settings import ClipSettings

NO_SEGMENTS = "no segments"
NO_KNOWN_CLASS = "no segment of the model's classes"
TOO_SHORT = "fewer frames than a clip"


ClipSource: TypeAlias = VIPSeg | CocoPanoptic
"""Annotated videos, or single images, which are videos of one frame that may be animated."""


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
        return CocoPanoptic.open(root, split)
    return VIPSeg.open(root, split)


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
    videos: Sequence[VIPSegVideo | CocoImage] = source.videos
    for number, video in enumerate(videos):
        segments = [s for frame in video.frames for s in frame.segments if not s.get("iscrowd")]
        seen = {segment["id"]: segment["category_id"] for segment in segments}
        unknown.update(names[category] for category in seen.values() if category not in classes)
        if len(video.frames) < settings.frames and isinstance(source, VIPSeg):
            skipped[f"{TOO_SHORT} ({settings.frames})"] += 1
        elif not seen:
            skipped[NO_SEGMENTS] += 1
        elif not any(category in classes for category in seen.values()):
            skipped[NO_KNOWN_CLASS] += 1
        else:
            usable.append(number)
    return SourceReport(str(source.json_path), tuple(usable), classes, skipped, dict(unknown.most_common()))


def nothing_usable(report: SourceReport, source: ClipSource, categories: Sequence[Category]) -> DatasetError:
    """Why there is nothing to train on."""
    if not source.videos:
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
