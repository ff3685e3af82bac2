"""Class lists of public data sets, and what a model's data set says of the size of its frames.

Each list is a JSON file in `checkpoints/classes/`, in the order of the class logits of models trained on it: ids,
names, things or stuff, and the data set's colours. Sources: COCO's panoptic categories, ADE20K's 150 with the 100
things of its panoptic challenge, Cityscapes' evaluated labels, Mapillary Vistas 1.2, YouTube-VIS, OVIS and VIPSeg.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from dvis_cli.config import InputConfig, ModelConfig
from dvis_cli.errors import UsageError
from dvis_cli.structures import Category

# Short and long side in pixels that published models of a data set are tested at.
SIZES: dict[str, tuple[int, int]] = {
    "coco_panoptic": (800, 1333),
    "coco": (800, 1333),
    "ade20k": (640, 2560),
    "cityscapes": (1024, 2048),
    "cityscapes_things": (1024, 2048),
    "mapillary": (2048, 2048),
    "youtube_vis_2019": (480, 1333),
    "youtube_vis_2021": (480, 1333),
    "ovis": (480, 1333),
    "vspw": (720, 1333),
    "vipseg": (720, 1333),
}
# Short sides of VidEoMT, where others.
VIDEOMT_SIDES = {"youtube_vis_2019": 448, "youtube_vis_2021": 448, "ovis": 544}
LABEL_SETS = tuple(SIZES)
_THINGS_OF = {"coco": "coco_panoptic", "cityscapes_things": "cityscapes"}


@lru_cache
def label_set(name: str) -> tuple[Category, ...]:
    """A class list by name, in the order of the logits. Raises `UsageError` listing the known names."""
    if name not in SIZES:
        raise UsageError(f"class list {name!r} is not known; known: {', '.join(LABEL_SETS)}")
    if name in _THINGS_OF:
        return tuple(category for category in label_set(_THINGS_OF[name]) if category.isthing)
    if name in ("vipseg", "vspw"):  # one list; the logits of both have the things first
        listed = _read("datasets/vipseg_categories.json")
        return tuple(sorted(listed, key=lambda one: (not one.isthing, one.id)))
    return _read(f"checkpoints/classes/{name}.json")


def _read(name: str) -> tuple[Category, ...]:
    entries = json.loads(files("dvis_cli").joinpath(name).read_text(encoding="utf-8"))
    return tuple(
        Category(entry["id"], entry["name"], bool(entry["isthing"]), tuple(entry["color"]))
        for entry in entries
    )


@dataclass(frozen=True)
class Facts:
    """What is known of a model apart from its tensors. None: not known."""

    categories: tuple[Category, ...] | None = None  # in the order of the logits
    input: InputConfig | None = None
    name: str | None = None

    def over(self, other: Facts) -> Facts:
        """These facts, filled up with those of `other`."""
        return Facts(self.categories or other.categories, self.input or other.input, self.name or other.name)

    def renamed(self, other: Facts) -> Facts:
        """These facts with the class names of `other`, where they are as many; ids and kinds stay."""
        if not self.categories or not other.categories or len(self.categories) != len(other.categories):
            return self.over(other)
        pairs = zip(self.categories, other.categories, strict=True)
        named = tuple(dataclasses.replace(ours, name=theirs.name) for ours, theirs in pairs)
        return dataclasses.replace(self, categories=named)

    def applied(self, config: ModelConfig) -> ModelConfig:
        """A configuration with what is known here."""
        return dataclasses.replace(config, input=self.input or config.input, name=self.name or config.name)


def facts_of(
    classes: str,
    *,
    semantic: bool = False,
    short_side: int | None = None,
    long_side: int | None = None,
    name: str | None = None,
) -> Facts:
    """Facts from the name of a class list.

    Args:
        classes: one of `LABEL_SETS`.
        semantic: trained for classes only, which tells no two objects of a class apart: all becomes stuff.
        short_side, long_side: pixels, where they are not what is usual for the data set.
    """
    categories = label_set(classes)
    short, long = short_side or SIZES[classes][0], long_side or SIZES[classes][1]
    return Facts(as_stuff(categories) if semantic else categories, InputConfig(short, long), name)


def as_stuff(categories: Sequence[Category]) -> tuple[Category, ...]:
    """The same classes, none of which is counted."""
    return tuple(dataclasses.replace(category, isthing=False) for category in categories)


def label_sets_of(count: int, name: str) -> tuple[list[str], bool]:
    """The public lists of so many classes, and whether a file's name tells which (YouTube-VIS has two of 40).

    Returns:
        the names of the lists, the one to take first; and whether the file's `name` says so.
    """
    lists = [one for one in LABEL_SETS if one != "vspw" and len(label_set(one)) == count]
    years = {"youtube_vis_2019": "19", "youtube_vis_2021": "21|22"}  # 2022 has the classes of 2021
    told = [one for one in lists if one in years and re.search(rf"(?<!\d)(20)?({years[one]})(?!\d)", name)]
    if len(told) != 1:
        return lists, False
    return [*told, *(one for one in lists if one not in told)], True


def match_names(names: Sequence[str]) -> str | None:
    """The public list that these names, in the order of the logits, belong to: nine in ten must be the same."""
    for name in LABEL_SETS:
        known = label_set(name)
        if len(known) != len(names):
            continue
        same = sum(plain(a.name) == plain(b) for a, b in zip(known, names, strict=True))
        if same >= 0.9 * len(known):
            return name
    return None


def plain(name: str) -> str:
    """A class name without case, without the signs between its words, and without further synonyms."""
    return re.sub(r"[\s_-]+", " ", name.split(",")[0]).strip().lower()
