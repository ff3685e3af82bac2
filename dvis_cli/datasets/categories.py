"""The label set of VIPSeg: 124 classes, 58 of them things.

Two numberings exist. A dataset id (0..123) is what json files carry. A contiguous index (0..123) is what a
network's class logits are numbered by: the things first, then the stuff, each by ascending dataset id.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files

from dvis_cli.structures import Category


@lru_cache(maxsize=1)
def vipseg_categories() -> tuple[Category, ...]:
    """The 124 categories of VIPSeg in contiguous order: 58 things, then 66 stuff, ascending ids in each.

    Element `k` is the class of logit `k` of a model trained on VIPSeg.
    """
    text = files("dvis_cli.datasets").joinpath("vipseg_categories.json").read_text(encoding="utf-8")
    categories = [
        Category(
            id=entry["id"], name=entry["name"], isthing=bool(entry["isthing"]), color=tuple(entry["color"])
        )
        for entry in json.loads(text)
    ]
    return tuple(sorted(categories, key=lambda category: (not category.isthing, category.id)))


@lru_cache(maxsize=1)
def vipseg_by_id() -> dict[int, Category]:
    """Dataset id (0..123) to category. Shared: do not change it."""
    return {category.id: category for category in vipseg_categories()}
