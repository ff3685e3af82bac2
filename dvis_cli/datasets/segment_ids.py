"""Which id a segment of the ground truth gets when raw VIPSeg is converted.

The official conversion numbers by colour: a stuff class has the id its colour spells, the first object of a
thing class too unless a stuff class owns that colour, and further objects draw a random colour near it. Here
the draw is a fixed walk, so that a conversion can be repeated; all else is the same, and no two segments of a
video meet in one id although two classes (6 and 48) share a colour.
"""

from __future__ import annotations

from collections.abc import Mapping

from dvis_cli.errors import DatasetError
from dvis_cli.structures import Category

REACH = 30  # how far an object's colour strays from its class's, per channel
SPAN = 2 * REACH + 1


def color_id(color: tuple[int, int, int]) -> int:
    """`(R, G, B)` -> R + 256 G + 65536 B."""
    return color[0] + 256 * color[1] + 65536 * color[2]


class SegmentIds:
    """Ids of one video's segments, given out by first appearance.

    Args:
        categories: dataset id -> category.
    """

    def __init__(self, categories: Mapping[int, Category]) -> None:
        self.categories = categories
        self.taken = {0} | {color_id(c.color) for c in categories.values() if not c.isthing}
        self.given: dict[int, int] = {}

    def id_of(self, raw: int) -> int:
        """The segment id of a raw mask value (which is not 0); the same value always gets the same id."""
        if raw not in self.given:
            self.given[raw] = self._new_id(self.category_of(raw))
        return self.given[raw]

    def category_of(self, raw: int) -> Category:
        """The category of a raw mask value: 1..124 is a class, larger values are class x 100 + instance.

        Raises:
            DatasetError: there is no such category.
        """
        number = (raw if raw < 125 else raw // 100) - 1
        if number not in self.categories:
            raise DatasetError(f"mask value {raw} means category {number}, which the label set does not have")
        return self.categories[number]

    def _new_id(self, category: Category) -> int:
        base = color_id(category.color)
        if not category.isthing:
            return base
        number = base if base not in self.taken else self._near(category.color)
        self.taken.add(number)
        return number

    def _near(self, color: tuple[int, int, int]) -> int:
        """The first free id on a fixed walk through the colours near `color`."""
        for step in range(1, SPAN**3):
            shifts = 23 * step % SPAN, 37 * (step + step // SPAN) % SPAN, 53 * (step + step // SPAN**2) % SPAN
            red, green, blue = (
                min(max(value + shift - REACH, 0), 255) for value, shift in zip(color, shifts, strict=True)
            )
            if color_id((red, green, blue)) not in self.taken:
                return color_id((red, green, blue))
        raise DatasetError("more objects of one class in a video than there are ids near its colour")
