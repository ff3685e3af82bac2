"""One colour per segment, the same in every frame and every run.

Stuff is coloured by class, so that a road looks like a road in all videos: like itself where it has a colour
of its own in the world (green grass, blue sky), else as in its label set. Things are coloured by id,
because two persons side by side have to look different.
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
# What common stuff looks like, by class name in lower case: label sets give grass red and the sky pink.
_NATURAL = {
    "wall": "b0a594", "ceiling": "d8d2c4", "floor": "a98f73", "ground": "a58b68", "stair": "9c8d80",
    "pillar": "b9a893", "pole": "8a97a3", "handrail_or_fence": "7f8fa6", "rail": "76808c",
    "grass": "5fa33c", "tree": "2f7d3b", "other_plant": "4f9a5b", "flower": "d86fae", "athletic_field": "3fae6a",
    "sand": "dcc48e", "stone": "8d8f8c", "mountain": "7d7a63", "wood": "95693f", "ice": "b5dcea", "snowfield": "e4eef5",
    "road": "7c7f88", "path": "b89f80", "crosswalk": "c9c7bd", "bridge": "9a8f9e",
    "building": "b5715b", "house": "c98a62", "tower": "a8776f", "other_construction": "b58f7a", "grandstand": "9b7fa8",
    "sky": "6fb7ea", "sea": "2a78b8", "river": "3f93c4", "lake": "4aa3c9", "water": "3d8fd0", "waterfall": "7cc4dd",
}  # fmt: skip
_COUNT = len(_THING_COLORS) // 3
_DARKEST = 70  # brightest channel of the darkest colour shown: black stuff would look like void


def segment_color(segment: Segment) -> tuple[int, int, int]:
    """RGB, 0..255 each, of a segment; depends on nothing but its id and category."""
    if segment.category.isthing:
        return thing_color(segment.id)
    natural = _NATURAL.get(segment.category.name.lower())
    red, green, blue = bytes.fromhex(natural) if natural else segment.category.color
    lift = max(0, _DARKEST - max(red, green, blue))
    return red + lift, green + lift, blue + lift


def thing_color(id: int) -> tuple[int, int, int]:
    """A saturated RGB colour for an id of 1, 2, 3, ...; every second round of the list is a shade darker."""
    round_, row = divmod(id - 1, _COUNT)
    shade = 1.0 if round_ % 2 == 0 else 0.72
    red, green, blue = _THING_COLORS[3 * row : 3 * row + 3]
    return round(red * shade), round(green * shade), round(blue * shade)
