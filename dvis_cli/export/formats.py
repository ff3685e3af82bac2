"""The formats by name: what each is for, what it writes, and the variants after a colon, as in `matte:webm`."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from dvis_cli.errors import DvisWarning, UsageError

from .job import Writer


@dataclass(frozen=True)
class Format:
    """One format; its writer is imported when it is used."""

    name: str
    writer: str  # "module:class" in this room
    about: str  # for whom
    files: dict[str, str]  # variant -> the file or folder it makes; the first is what the name alone means
    stuff: bool = False  # exports stuff where no --only says what; else things
    edges: bool = False  # better made during segmentation: soft edges
    inside: str = "*.png"  # what a folder of it may hold; one with anything else in it is never replaced

    def load(self) -> type[Writer]:
        """The writer's class."""
        module, name = self.writer.split(":")
        found: type[Writer] = getattr(import_module(f"dvis_cli.export.{module}"), name)
        return found


_ALL = (
    Format("coco", "coco:CocoFrames", "training and tools that read COCO: panoptic and instances", {"": "coco"}, True,
           inside="images panoptic panoptic.json instances.json"),
    Format("coco-video", "coco:CocoVideo", "video instance segmentation: a data set in YouTube-VIS' form",
           {"": "coco-video.json"}),
    Format("davis", "indexed:Davis", "video object segmentation: maps, and seeds for SAM 2 and Cutie", {"": "davis"},
           inside="Annotations JPEGImages seeds objects.json"),
    Format("mots", "indexed:Mots", "multi-object tracking and segmentation: MOTS, KITTI MOTS", {"": "mots"},
           inside="instances instances_txt images"),
    Format("cvat", "cvat:CvatVideo", "correcting by hand in CVAT: tracks of masks", {"": "cvat.zip"}, True),
    Format("yolo", "yolo:Yolo", "training Ultralytics' and other YOLO models: polygons", {"": "yolo"},
           inside="labels images data.yaml"),
    Format("csv", "table:CsvTable", "spreadsheets: a row for each segment in each frame", {"": "objects.csv"}, True),
    Format("parquet", "table:ParquetTable", "pandas, DuckDB, Spark: the same rows", {"": "objects.parquet"}, True),
    Format("masks", "video:Masks", "editors and scripts: white on black; :png is exact",
           {"mp4": "masks.mp4", "png": "masks"}),
    Format("matte", "video:Matte", "editors: the chosen alone, with alpha and soft edges",
           {"mov": "matte.mov", "webm": "matte.webm", "png": "matte"}, edges=True),
    Format("cutout", "video:Cutout", "people: on blurred background, on a colour (:white, :#00b140), or :transparent",
           {"blur": "cutout.mp4", "transparent": "cutout.webm"}, edges=True),
)  # fmt: skip
FORMATS = {one.name: one for one in _ALL}


@dataclass(frozen=True)
class Chosen:
    """A format with its variant."""

    format: Format
    variant: str

    @property
    def file(self) -> str:
        """The name of the file or folder that it makes."""
        return self.format.files.get(self.variant, next(iter(self.format.files.values())))


def parse_formats(names: Sequence[str]) -> list[Chosen]:
    """`["coco", "matte:webm"]`, or `["all"]`.

    Raises:
        UsageError: a format or variant that is not known, an .mp4 with alpha, or two that make the same file.
    """
    found: list[Chosen] = []
    for text in names:
        name, _, variant = text.partition(":")
        if text == "all":
            found += [Chosen(one, next(iter(one.files))) for one in _everything()]
        elif name not in FORMATS:
            near = difflib.get_close_matches(name, FORMATS, 1, 0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UsageError(f"format {name!r} not known; {hint}formats: {', '.join(FORMATS)}, all")
        else:
            found.append(Chosen(FORMATS[name], _variant(FORMATS[name], variant)))
    files = [one.file for one in found]
    twice = next((one for one in files if files.count(one) > 1), None)
    if twice is not None:
        raise UsageError(f"formats {','.join(names)}: two of them make {twice}; export one at a time")
    return found


def _everything() -> list[Format]:
    """All formats for which this machine has the packages."""
    if find_spec("pyarrow") is not None:
        return list(_ALL)
    warnings.warn("parquet is left out: it needs pip install 'dvis[parquet]'", DvisWarning, stacklevel=3)
    return [one for one in _ALL if one.name != "parquet"]


def _variant(format: Format, variant: str) -> str:
    if not variant:
        return next(iter(format.files))
    if format.name == "matte" and variant == "mp4":
        raise UsageError(
            "matte:mp4: an .mp4 holds no alpha; take matte:mov (ProRes 4444), matte:webm (VP9), matte:png"
        )
    if format.name == "cutout" and variant not in format.files:
        from .video import color_of

        color_of(variant)
    elif variant not in format.files:
        variants = ", ".join(f"{format.name}:{one}" for one in format.files if one) or format.name
        raise UsageError(f"{format.name}:{variant} not known; there is {variants}")
    return variant
