"""Objects cut out of other pictures and pasted into one, in groups that touch and hide one another.

Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", 2021; here in crowds,
because what a small network finds hardest is two people side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dvis_cli.datasets import augment

SMALLEST = 20  # pixels an object is high, at least, as it was and as it is pasted
LARGEST = 0.8  # of the picture's height
ENLARGED = 1.6  # times at most
GROUP = 5  # objects at most
SPREAD = (0.25, 1.1)  # of their width, how far neighbours stand apart
HIDDEN = 0.2  # of its own pixels; with less left to be seen an object is void

Rgb = npt.NDArray[np.uint8]
Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Cutout:
    """One object: the pixels of its box and which of them are its own."""

    rgb: Rgb  # (h, w, 3)
    mask: npt.NDArray[np.bool_]  # (h, w)
    label: int  # contiguous class


def cut_out(rgb: Rgb, ids: npt.NDArray[np.int16], labels: Sequence[int]) -> list[Cutout]:
    """The objects 1, 2, ... of an id map that are whole: large enough, and clear of the picture's edge."""
    found = []
    for number, label in enumerate(labels, 1):
        mask = ids == number
        left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
        inside = left > 0 and top > 0 and left + width < ids.shape[1] and top + height < ids.shape[0]
        if inside and height >= SMALLEST and width >= SMALLEST // 4:
            window = np.s_[top : top + height, left : left + width]
            found.append(Cutout(rgb[window].copy(), mask[window].copy(), label))
    return found


def paste(
    rgb: Rgb, ids: npt.NDArray[np.int16], labels: Sequence[int], cutouts: Sequence[Cutout], rng: Rng
) -> tuple[Rgb, npt.NDArray[np.int16], list[int]]:
    """Paste one group of objects, all about as high.

    Args:
        rgb: (H, W, 3) uint8; a copy is changed.
        ids: (H, W) int16: n + 1 where object n is.
        labels: class of each object.
        cutouts: what to draw from, at least one.
        rng: source of the draws.

    Returns:
        Picture, map and classes; the new objects' numbers follow the old.
    """
    rgb, ids, labels = rgb.copy(), ids.copy(), list(labels)
    before = np.bincount(ids.ravel(), minlength=len(labels) + 1)
    tallest = LARGEST * len(ids)
    height = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(max(tallest, SMALLEST + 1)))))
    x, feet = rng.uniform(0, ids.shape[1]), rng.uniform(min(height, len(ids)), len(ids) + 0.3 * height)
    placed = []
    for _ in range(int(rng.integers(1, GROUP + 1))):
        one = cutouts[int(rng.integers(len(cutouts)))]
        scaled = _scaled(one, height * rng.uniform(0.8, 1.2), rng)
        placed.append((feet + rng.uniform(-0.12, 0.12) * height, x, scaled))
        x += rng.choice((-1, 1)) * rng.uniform(*SPREAD) * scaled.mask.shape[1]
    whole = list(before)
    for bottom, middle, one in sorted(placed, key=lambda item: item[0]):  # who stands lower is in front
        labels.append(one.label)
        whole.append(_put(rgb, ids, one, round(bottom), round(middle), len(labels)))
    seen = np.bincount(ids.ravel(), minlength=len(labels) + 1)
    for number in range(1, len(labels) + 1):
        if seen[number] < HIDDEN * whole[number]:
            ids[ids == number] = 0
    return rgb, ids, labels


def _scaled(one: Cutout, height: float, rng: Rng) -> Cutout:
    """At a height, mirrored half of the time, in slightly other light."""
    factor = min(height / len(one.mask), ENLARGED)
    size = max(1, round(factor * one.mask.shape[0])), max(1, round(factor * one.mask.shape[1]))
    rgb = augment.resize_picture(one.rgb, size)
    mask = augment.resize_ids(one.mask.astype(np.int16), size) > 0
    if rng.random() < 0.5:
        rgb, mask = rgb[:, ::-1], mask[:, ::-1]
    light = rng.uniform(0.75, 1.25) * rng.uniform(0.95, 1.05, 3)
    return Cutout(np.clip(rgb * light, 0, 255).astype(np.uint8), mask, one.label)


def _put(rgb: Rgb, ids: npt.NDArray[np.int16], one: Cutout, bottom: int, middle: int, number: int) -> int:
    """Write one object with a soft edge; returns its pixels inside the picture."""
    height, width = one.mask.shape
    top, left = bottom - height, middle - width // 2
    rows = slice(max(top, 0), min(bottom, len(ids)))
    columns = slice(max(left, 0), min(left + width, ids.shape[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return 0
    part = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    soft = cv2.GaussianBlur(one.mask.astype(np.float32), (3, 3), 0)[part][..., None]
    inside = one.mask[part]
    mixed = rgb[rows, columns] + soft * (one.rgb[part] - rgb[rows, columns].astype(np.float32))
    rgb[rows, columns] = np.where(inside[..., None], mixed, rgb[rows, columns]).astype(np.uint8)
    ids[rows, columns][inside] = number
    return int(inside.sum())
