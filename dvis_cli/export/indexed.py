"""Maps of small numbers: DAVIS (8 bits with a palette, as video object segmentation takes them) and MOTS (16 bits)."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from dvis_cli.errors import UsageError
from dvis_cli.files import output_errors
from dvis_cli.structures import FinishedFrame
from dvis_cli.writers.panoptic_png import write_png

from .job import Job, Writer
from .seen import Seen, seen_in

DAVIS_OBJECTS = 255
MOTS_CLASSES, MOTS_OBJECTS = 64, 999  # a value is class * 1000 + object, in 16 bits
MOTS_IGNORED = 10  # this class is no class there: regions that count for nothing
MOTS_NAMES = ("car", "person")  # numbers 1 and 2 in MOTS and KITTI MOTS, where persons are pedestrians


class Davis(Writer):
    """`Annotations/NAME/00000.png`, `JPEGImages/NAME/00000.jpg`, `seeds/NAME/`: each object where it is first seen.

    SAM 2 and Cutie take `seeds` as their prompts. An object's value is its id where all chosen ids are below 256, else
    they are numbered; `objects.json` says which is which.
    """

    def __init__(self, path: Path, job: Job) -> None:
        super().__init__(path, job)
        ids = [segment.id for segment in job.segments]
        if len(ids) > DAVIS_OBJECTS:
            raise UsageError(
                f"davis holds {DAVIS_OBJECTS} objects, {len(ids)} were chosen: choose some with --only"
            )
        same = max(ids, default=0) <= DAVIS_OBJECTS
        self._values = {id: id if same else place for place, id in enumerate(ids, start=1)}
        self._maps, self._seeds = (self.folder(name, job.info.name) for name in ("Annotations", "seeds"))
        self._seen: set[int] = set()
        self._palette = davis_palette()

    def add(self, frame: FinishedFrame) -> None:
        found = list(seen_in(frame, self.job.chosen))
        name = f"{frame.index:05d}"
        self._write(self._maps / f"{name}.png", found)
        new = [one for one in found if one.segment.id not in self._seen]
        if new:
            self._write(self._seeds / f"{name}.png", new)
            self._seen |= {one.segment.id for one in new}
        self.add_image(frame, "JPEGImages", self.job.info.name, f"{name}.jpg")

    def close(self) -> None:
        rows = [
            {"value": self._values[one.id], "id": self.job.number(one), "class": one.category.name}
            for one in self.job.segments
            if one.id in self._seen
        ]
        with output_errors(self.path):
            text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
            (self.path / "objects.json").write_text(text, "utf-8")

    def _write(self, path: Path, found: list[Seen]) -> None:
        image = Image.fromarray(paint(found, self._values, self.job.size).astype(np.uint8), mode="P")
        image.putpalette(self._palette)
        with output_errors(path):
            image.save(path)


class Mots(Writer):
    """`instances/000000.png` (16 bits: class * 1000 + object), `instances_txt/NAME.txt`, `labels.txt`.

    Classes are numbered 1 car, 2 person as in MOTS, then as they come; an object's number is its id in the result where
    that is below 1000, else the next of its class.
    """

    def __init__(self, path: Path, job: Job) -> None:
        super().__init__(path, job)
        names = [one.name for one in job.categories()]
        labels = list(MOTS_NAMES) + [name for name in names if name not in MOTS_NAMES]
        if len(labels) >= MOTS_IGNORED:
            labels.insert(MOTS_IGNORED - 1, "ignored")
        if len(labels) > MOTS_CLASSES:
            raise UsageError(
                f"mots holds {MOTS_CLASSES} classes, {len(labels)} were chosen: choose some with --only"
            )
        self._labels = labels
        self._values = mots_values(job, labels)
        self._maps = self.folder("instances")
        self.folder("instances_txt")
        self._text_path = path / "instances_txt" / f"{job.info.name}.txt"
        with output_errors(path):
            self._text = self._text_path.open("w", encoding="ascii")

    def add(self, frame: FinishedFrame) -> None:
        found = list(seen_in(frame, self.job.chosen))
        values = paint(found, self._values, self.job.size).astype(np.uint16)
        write_png(self._maps / f"{frame.index:06d}.png", values)
        height, width = self.job.size
        with output_errors(self._text_path):
            for one in found:
                value = self._values[one.segment.id]
                self._text.write(f"{frame.index} {value} {value // 1000} {height} {width} {one.counts}\n")
        self.add_image(frame, "images", f"{frame.index:06d}.jpg")

    def close(self) -> None:
        with output_errors(self.path):
            self._text.close()
            (self._maps / "labels.txt").write_text("\n".join(self._labels) + "\n", "utf-8")

    def abort(self) -> None:
        with suppress(OSError):  # what waits to be written does not matter any more
            self._text.close()


def paint(found: list[Seen], values: dict[int, int], size: tuple[int, int]) -> np.ndarray:
    """(height, width) int32: each object's value, 0 elsewhere; where masks overlap, the likelier one's."""
    picture = np.zeros(size, np.int32)
    for one in sorted(found, key=lambda seen: (seen.segment.score, -seen.segment.id)):
        x, y, width, height = one.box
        picture[y : y + height, x : x + width][one.inside] = values[one.segment.id]
    return picture


def mots_values(job: Job, labels: list[str]) -> dict[int, int]:
    """Segment id -> class * 1000 + object."""
    counts: Counter[str] = Counter()
    same = all(job.number(segment) <= MOTS_OBJECTS for segment in job.segments)
    values = {}
    for segment in job.segments:
        name = segment.category.name
        counts[name] += 1
        number = job.number(segment) if same else counts[name]
        values[segment.id] = (labels.index(name) + 1) * 1000 + number
    most = max(counts.values(), default=0)
    if most > MOTS_OBJECTS:
        raise UsageError(
            f"mots holds {MOTS_OBJECTS} objects of a class, {most} were chosen: choose some with --only"
        )
    if not same:
        job.warn(
            "mots numbers objects up to 999: ids are larger here, so objects are numbered 1, 2, ... in each class"
        )
    return values


def davis_palette() -> list[int]:
    """256 RGB colours, flat: a value's bits go to the channels in turn, highest places first, as in PASCAL VOC."""
    colors = []
    for value in range(256):
        color = [0, 0, 0]
        for place in range(8):
            for channel in range(3):
                color[channel] |= (value >> (3 * place + channel) & 1) << (7 - place)
        colors += color
    return colors
