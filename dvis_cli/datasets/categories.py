"""The label set of VIPSeg: 124 classes, 58 of them things.

Two numberings exist. A dataset id (0..123) is what json files carry. A contiguous index (0..123) is what a
network's class logits are numbered by: the things first, then the stuff, each by ascending dataset id.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from dvis_cli.datasets.names import read_json, whole
from dvis_cli.errors import DatasetError
from dvis_cli.structures import Category

LARGEST_CATEGORY = 65535


@lru_cache(maxsize=1)
def vipseg_categories() -> tuple[Category, ...]:
    """The 124 categories of VIPSeg in contiguous order: 58 things, then 66 stuff, ascending ids in each.

    Element `k` is the class of logit `k` of a model trained on VIPSeg.
    """
    listed = load_categories(Path(str(files("dvis_cli.datasets"))) / "vipseg_categories.json")
    return tuple(sorted(listed, key=lambda category: (not category.isthing, category.id)))


@lru_cache(maxsize=1)
def vipseg_by_id() -> dict[int, Category]:
    """Dataset id (0..123) to category. Shared: do not change it."""
    return {category.id: category for category in vipseg_categories()}


def load_categories(path: Path) -> tuple[Category, ...]:
    """Read a label set: a JSON list of `{id, name, isthing, color}`, in the order of a model's logits.

    Raises:
        DatasetError: missing, no JSON, an entry without one of the fields, or an id that stands twice.
    """
    return parse_label_set(read_json(path), f"label set {path}")


def parse_label_set(entries: Any, where: str) -> tuple[Category, ...]:
    """Categories from a list of `{id, name, isthing, color}`; errors begin with `where`."""
    if not isinstance(entries, list) or not entries:
        raise DatasetError(f"{where}: expected a list of categories")
    categories = tuple(_category(entry, f"{where}, entry {i}") for i, entry in enumerate(entries))
    if len({category.id for category in categories}) != len(categories):
        raise DatasetError(f"{where}: an id stands twice")
    return categories


def _category(entry: Any, where: str) -> Category:
    try:
        red, green, blue = (int(part) for part in entry.get("color") or (128, 128, 128))
        number, name, isthing = entry["id"], str(entry["name"]), bool(entry["isthing"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DatasetError(f"{where}: expected id, name, isthing and color, got {entry!r}") from None
    number = whole(number, f"{where}: id", 0, LARGEST_CATEGORY)
    return Category(number, name, isthing, (red, green, blue))
