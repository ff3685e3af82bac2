"""Which segments are exported: `--only person,car` (classes), `--only 7,12` (ids), or both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dvis_cli.errors import UsageError
from dvis_cli.structures import Category, Segment
from dvis_cli.tasks.selection import select_classes


def names_and_ids(only: Sequence[str]) -> tuple[list[str], list[int]]:
    """What of `--only` are names of classes, and what are ids."""
    return [one for one in only if not one.isdecimal()], [int(one) for one in only if one.isdecimal()]


def chosen_classes(
    categories: Sequence[Category], only: Sequence[str], whose: str = "model"
) -> frozenset[int]:
    """Dataset ids of the classes that are named among `categories`; raises UsageError for another name."""
    names, _ = names_and_ids(only)
    found = select_classes(categories, names, whose) if names else frozenset()
    return frozenset(categories[index].id for index in found)


def choose(
    segments: Iterable[tuple[int, Segment]],
    only: Sequence[str] | None,
    known: Sequence[Category] | None = None,
) -> list[Segment]:
    """The segments that `only` names, None being all.

    Args:
        segments: of the result, each with its id in the result's files.
        known: all classes of the model; one that the video does not show is then no error.

    Raises:
        UsageError: a class or id that is not there, with those that are.
    """
    listed = list(segments)
    if only is None:
        return [segment for _, segment in listed]
    names, ids = names_and_ids(only)
    there = {id for id, _ in listed}
    missing = [id for id in ids if id not in there]
    if missing and known is None:
        shown = ", ".join(map(str, sorted(there)[:12])) + (", ..." if len(there) > 12 else "")
        raise UsageError(f"--only {missing[0]}: no segment has this id; ids: {shown or 'none'}")
    whose, categories = "model", known
    if categories is None:
        whose, categories = "result", list({one.category.id: one.category for _, one in listed}.values())
    classes = chosen_classes(categories, names, whose) if names else frozenset()
    return [segment for id, segment in listed if id in ids or segment.category.id in classes]
