"""One colour per segment, the same in every frame and every run.

Stuff takes its category's colour, so that a road looks like a road in all videos. Things are
coloured by id, because two persons side by side have to look different.
"""

from __future__ import annotations

from dvis_cli.structures import Segment

# 48 saturated colours. Each was chosen to be as far as possible, in OKLab, from the ones before it, the
# latest counting most; so ids that are close get colours that are far. None is so dark or so pale that
# white text or a white outline would be lost beside it.
_THING_COLORS = bytes.fromhex(
    "fd434a6ffd1c5d5ffdfeb261ed03e60c9421eda7f2ac680418f6f1c63a8e8ebe130c9ce3"
    "a615fde4df2011c4b7ae6fe9f0898316e88c95a3fda3940bfe6bcf02ad76d43d06fd229d"
    "fe861a7783fde00c55c011cf2f77dd8be01c8458e248ad07cf7a3c26dafe5d8933d7a111"
    "15ce310ab9fc6af5c6dd47d6cdcb55d184feeb57744fc58443fe84d012a1ef82b1baec5e"
)
_COUNT = len(_THING_COLORS) // 3
_DARKEST = 70  # brightest channel of the darkest colour shown: black stuff would look like void


def segment_color(segment: Segment) -> tuple[int, int, int]:
    """RGB, 0..255 each, of a segment; depends on nothing but its id and category."""
    if segment.category.isthing:
        return thing_color(segment.id)
    red, green, blue = (int(channel) for channel in segment.category.color)
    lift = max(0, _DARKEST - max(red, green, blue))
    return red + lift, green + lift, blue + lift


def thing_color(id: int) -> tuple[int, int, int]:
    """A saturated RGB colour for an id of 1, 2, 3, ...; every second round of the list is a shade darker."""
    round_, place = divmod(id - 1, _COUNT)
    shade = 1.0 if round_ % 2 == 0 else 0.72
    red, green, blue = _THING_COLORS[3 * place : 3 * place + 3]
    return round(red * shade), round(green * shade), round(blue * shade)
