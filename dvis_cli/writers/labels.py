"""Where the labels go: inside the segment they name, inside the frame, not on one another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from dvis_cli.structures import Segment
from dvis_cli.writers.label_text import LabelPatch, label_patch, text_height
from dvis_cli.writers.palette import segment_color

Anchors = dict[int, tuple[int, int]]  # segment id -> (x, y), the pixel of it that carried its label last
LabelBox = tuple[int, int, int, int, int]  # segment id, x, y, width, height

_SEARCH_SIDE = 320  # pixels: anchors are looked for on a map at most this large
_CORE = 0.6  # a label may stay where it is at least this deep, relative to the deepest point
_WIDE = 1.1  # label widths an object needs to wear its label on the chest
_SMALLEST = 0.35  # of the label's own area: a smaller segment would vanish under its label ...
_STILL_LARGE = 0.18  # ... but once drawn, a label stays for a while: near the limit it would flicker


@dataclass(frozen=True, slots=True)
class _Region:
    """One segment of one frame, as far as its label is concerned."""

    segment: Segment
    area: int  # pixels, rounded to the search map
    width: int  # pixels, of its box
    anchor: tuple[int, int]  # (x, y), a pixel of the segment


def label_of(segment: Segment, numbered: bool = True) -> str:
    """The text of a label: `person 3` for a thing; stuff has one region per class, so its name is enough."""
    name = segment.category.name.replace("_", " ")
    return f"{name} {segment.id}" if numbered and segment.category.isthing else name


def draw_labels(
    rgb: np.ndarray,
    index: np.ndarray,
    present: list[Segment],
    anchors: Anchors | None = None,
    numbered: bool = True,
) -> list[LabelBox]:
    """Draw the labels of a frame into `rgb`.

    Args:
        rgb: (height, width, 3) uint8, changed in place.
        index: (height, width) uint8 or uint16: 0 = no segment, k = `present[k - 1]`.
        present: the segments that `index` speaks of.
        anchors: label positions of the previous frame, updated; with it labels move calmly.
        numbered: things have their ids in their labels.

    Returns:
        What was drawn, as `(segment id, x, y, width, height)`.
    """
    height, width = index.shape
    font_size = text_height(width, height)
    previous = dict(anchors or {})
    regions = _find_regions(index, present, previous)
    regions.sort(key=lambda r: (not r.segment.category.isthing, -r.area, r.segment.id))
    taken: list[LabelBox] = []
    for region in regions:
        patch = label_patch(label_of(region.segment, numbered), segment_color(region.segment), font_size)
        smallest = _STILL_LARGE if region.segment.id in previous else _SMALLEST
        fits = region.area >= smallest * patch.size[0] * patch.size[1]
        box = _free_box(region, patch.size, index, taken) if fits else None
        if box is not None:
            _paste(rgb, patch, box)
            taken.append((region.segment.id, *box, *patch.size))
    if anchors is not None:
        anchors.clear()
        drawn = {box[0] for box in taken}
        anchors.update({r.segment.id: r.anchor for r in regions if r.segment.id in drawn})
    return taken


def _find_regions(index: np.ndarray, present: list[Segment], previous: Anchors) -> list[_Region]:
    """Area and label point of every segment; one distance transform serves all of them."""
    step = -(-max(index.shape) // _SEARCH_SIDE)
    first = min(step // 2, min(index.shape) - 1)  # sample the middle of each cell
    small = np.ascontiguousarray(index[first::step, first::step])
    inside = cv2.morphologyEx(small, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) == 0
    # The frame's edge counts as a border, so that labels prefer to stay away from it.
    depth = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    regions = []
    for row, window in enumerate(ndimage.find_objects(small.astype(np.int32), len(present))):
        if window is None:
            continue
        mask = small[window] == row + 1
        corner = (window[1].start, window[0].start)
        last = previous.get(present[row].id)
        if last is not None:
            last = ((last[0] - first) // step - corner[0], (last[1] - first) // step - corner[1])
        x, y = _deepest(mask, depth[window], last)
        anchor = ((x + corner[0]) * step + first, (y + corner[1]) * step + first)
        regions.append(_Region(present[row], int(mask.sum()) * step * step, mask.shape[1] * step, anchor))
    return regions


def _deepest(mask: np.ndarray, depth: np.ndarray, last: tuple[int, int] | None) -> tuple[int, int]:
    """The `(x, y)` in `mask` farthest from its border; with `last`, the nearest to it that is deep."""
    depth = np.where(mask, depth + 1.0, 0.0)  # + 1: pixels of a thin segment are all border, and still count
    if last is None:
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        return int(x), int(y)
    ys, xs = np.nonzero(depth >= _CORE * depth.max())
    nearest = int(((xs - last[0]) ** 2 + (ys - last[1]) ** 2).argmin())
    return int(xs[nearest]), int(ys[nearest])


def _free_box(
    region: _Region, size: tuple[int, int], index: np.ndarray, taken: list[LabelBox]
) -> tuple[int, int] | None:
    """Top left corner for a label of `size`, or None where it does not fit."""
    height, width = index.shape
    box_width, box_height = size
    if box_width > width or box_height > height:
        return None
    left = min(max(region.anchor[0] - box_width // 2, 0), width - box_width)
    for middle in _middles(region, size, index):
        top = min(max(middle - box_height // 2, 0), height - box_height)
        if not any(_overlap((left, top, *size), other[1:]) for other in taken):
            return left, top
    return None


def _middles(region: _Region, size: tuple[int, int], index: np.ndarray) -> Iterator[int]:
    """Heights (y of the label's middle) to try, best first."""
    x, y = region.anchor
    own = index[y, x]
    box_width, box_height = size
    if region.segment.category.isthing and region.width < _WIDE * box_width:
        # A label across a small object would hide it: sit on its head, as a hat does.
        outside = np.flatnonzero(index[:y, x] != own)
        top = int(outside[-1]) + 1 if len(outside) else 0
        if top >= box_height + 1:
            yield top - 1 - (box_height + 1) // 2
    for shift in (0, -1, 1, -2, 2):
        middle = y + shift * (box_height + 1)
        if 0 <= middle < len(index) and index[middle, x] == own:
            yield middle


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def _paste(rgb: np.ndarray, patch: LabelPatch, corner: tuple[int, int]) -> None:
    x, y = corner
    width, height = patch.size
    under = rgb[y : y + height, x : x + width]
    under[:] = (patch.paint + (1.0 - patch.opacity) * under + 0.5).astype(np.uint8)
