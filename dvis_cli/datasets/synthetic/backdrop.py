"""The stuff of a scene: regions with wavy borders, and often a tree, tower or boulder in front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dvis_cli.datasets.synthetic import classes
from dvis_cli.datasets.synthetic.camera import MARGIN
from dvis_cli.datasets.synthetic.textures import stuff_texture


@dataclass(frozen=True, slots=True)
class Backdrop:
    """Painted regions, larger than the frame by `MARGIN` on every side, at its scale."""

    image: npt.NDArray[np.uint8]  # (H, W, 3) RGB
    labels: npt.NDArray[np.uint8]  # (H, W) VIPSeg ids
    origin: tuple[float, float]  # x, y of the first pixel, in units


@dataclass(frozen=True, slots=True)
class Screen:
    """Stuff in front of all things."""

    category: int  # VIPSeg id
    image: npt.NDArray[np.uint8]  # (H, W, 3) RGB
    alpha: npt.NDArray[np.uint8]  # (H, W)
    origin: tuple[float, float]  # units
    middle: npt.NDArray[np.float64]  # x, y of where it hides things, in units


def paint_backdrop(
    width: int, height: int, unit: float, without: tuple[int, ...], rng: np.random.Generator
) -> Backdrop:
    """Sky above, one or two kinds of far stuff, two or three kinds of near stuff: at least four regions.

    Args:
        width, height: of the frame in pixels.
        unit: pixels of a unit.
        without: VIPSeg ids that must not occur.
        rng: draws the layout.
    """
    shape = round(height * (1 + 2 * MARGIN)), round(width * (1 + 2 * MARGIN))
    x, y = np.arange(shape[1]) / shape[1], np.arange(shape[0])[:, None] / shape[0]
    far = [c for c in rng.permutation(classes.FAR).tolist() if c not in without]
    near = [c for c in rng.permutation(classes.NEAR).tolist() if c not in without]
    two_far = len(far) > 1 and rng.uniform() < 0.5
    labels = np.full(shape, classes.SKY, np.uint8)
    horizon, shore, front = rng.uniform(0.34, 0.42), rng.uniform(0.5, 0.58), rng.uniform(0.67, 0.74)
    split = rng.uniform(0.4, 0.6) + _wave(y, 0.04, rng)
    below = y > horizon + _wave(x, 0.035, rng)
    labels[below] = far[0]
    if two_far:
        labels[below & (x > split)] = far[1]
    labels[y > shore + _wave(x, 0.025, rng)] = near[0]
    below = y > front + _wave(x, 0.03, rng)
    labels[below] = near[1]
    if not two_far or rng.uniform() < 0.5:
        labels[below & (x > rng.uniform(0.4, 0.6) + _wave(y, 0.04, rng))] = near[2]
    image = np.zeros((*shape, 3), np.uint8)
    for category in np.unique(labels).tolist():
        region = labels == category
        image[region] = stuff_texture(category, shape, unit, rng)[region]
    return Backdrop(image, labels, (-MARGIN * width / unit, -MARGIN * height / unit))


def paint_screen(
    category: int, half: float, width: int, height: int, unit: float, rng: np.random.Generator
) -> Screen:
    """Something that stands in the middle before all things: a tree, a tower or a boulder.

    Args:
        category: VIPSeg id, one of `classes.FAR`.
        half: half of its width, in units.
        width, height: of the frame in pixels.
        unit: pixels of a unit.
        rng: draws place and outline.
    """
    middle = np.array([rng.uniform(0.25, 0.75) * width, rng.uniform(0.42, 0.65) * height]) / unit
    columns = round(2.8 * half * unit)
    rows = columns // 2 + round(height * (1 + MARGIN) - middle[1] * unit)
    y, x = np.mgrid[0:rows, 0:columns] / unit - columns / 2 / unit
    angle, shift = np.arctan2(y, x), rng.uniform(0, 2 * np.pi)
    radius = half * (1 + 0.07 * np.sin(5 * angle + shift) + 0.05 * np.sin(9 * angle))
    inside = np.hypot(x, y) < radius
    if category == classes.TREE:
        inside |= (np.abs(x + 0.02 * np.sin(14 * y)) < 0.4 * half) & (y > 0)
    elif category == classes.BUILDING:
        inside = (np.abs(x + 0.015 * np.sin(9 * y + shift)) < 0.95 * half) & (y > -half)
    else:
        inside |= (np.abs(x) < half * (1 + 0.04 * np.sin(12 * y + shift)) + 0.12 * y) & (y > 0)
    image = stuff_texture(category, (rows, columns), unit, rng)
    origin = middle - columns / 2 / unit
    return Screen(
        category, image, (inside * 255).astype(np.uint8), (float(origin[0]), float(origin[1])), middle
    )


def _wave(along: npt.NDArray[np.float64], reach: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return sum(
        reach / k * np.sin(2 * np.pi * (k * rng.uniform(1.0, 2.2) * along + rng.uniform(0, 1)))
        for k in (1, 2, 4)
    ) + np.zeros_like(along)
