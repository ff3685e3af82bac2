"""Which classes of a model are shown: `person,car`, dataset ids, `things`, `stuff`. The rest is void."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from dvis_cli.errors import UsageError
from dvis_cli.structures import Category

_KINDS = {"things": True, "stuff": False}


def select_classes(
    categories: Sequence[Category], wanted: Sequence[str], whose: str = "model"
) -> frozenset[int]:
    """The contiguous indices of the classes that are named.

    Args:
        categories: the model's, in the order of the class logits.
        wanted: names (case, `_` and `-` apart; one of several synonyms is enough), dataset ids, `things`, `stuff`.

    Raises:
        UsageError: a name or id that the model (or `whose` the classes are) does not have, with the nearest it has.
    """
    by_name: dict[str, set[int]] = {}
    by_id = {str(category.id): index for index, category in enumerate(categories)}
    for index, category in enumerate(categories):
        for name in {_plain(category.name), *map(_plain, category.name.split(","))}:
            by_name.setdefault(name, set()).add(index)
    chosen: set[int] = set()
    for name in wanted:
        plain = _plain(name)
        if plain in by_name:
            chosen |= by_name[plain]
        elif plain in _KINDS:
            chosen |= {i for i, category in enumerate(categories) if category.isthing == _KINDS[plain]}
        elif plain in by_id:
            chosen.add(by_id[plain])
        else:
            raise UsageError(_unknown(name, plain, f"{whose}'s {len(categories)}", by_name))
    if not chosen:
        raise UsageError(f"classes {','.join(wanted)}: the {whose} has none of them")
    return frozenset(chosen)


def _unknown(name: str, plain: str, known: str, names: dict[str, set[int]]) -> str:
    near = difflib.get_close_matches(plain, names, 3, 0.5)
    what = f"; the nearest: {', '.join(near)}" if near else ""
    return f"class {name!r} is none of the {known}{what}; ids, 'things' and 'stuff' are taken, too"


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()
