"""Textures: each class has its own family, with variation inside it."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from dvis_cli.datasets.synthetic import classes
from dvis_cli.datasets.synthetic.shapes import Color, Look

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB
Plane = npt.NDArray[np.float32]  # (H, W)

SIDE = 128  # pixels of a thing's texture
REACH = 1.25  # local coordinates that it covers, to either side

# Hue (0..1, a range), saturation and value of a thing's main colour; None: any hue.
_HUES: dict[int, tuple[tuple[float, float], float, float]] = {
    classes.PERSON: ((0.0, 1.0), 0.75, 0.8),
    classes.CAR: ((-0.04, 0.03), 0.85, 0.8),
    classes.BUS: ((0.11, 0.16), 0.9, 0.95),
    classes.BALL: ((0.0, 1.0), 0.06, 0.97),
    classes.UMBRELLA: ((0.80, 0.92), 0.8, 0.9),
    classes.ANIMAL: ((0.05, 0.09), 0.85, 0.9),
    classes.AIRPLANE: ((0.55, 0.65), 0.1, 0.9),
    classes.FLAG: ((0.0, 1.0), 0.9, 0.9),
}


def random_hue(category: int, rng: np.random.Generator) -> float:
    """A hue that is usual for the class."""
    return float(rng.uniform(*_HUES[category][0]))


def make_look(category: int, hue: float, spread: float, rng: np.random.Generator) -> Look:
    """A thing's colours and texture around a hue; look-alikes differ from it by `spread` on average."""
    _, saturation, value = _HUES[category]
    hue += rng.normal(0, spread)
    main = _rgb(hue, saturation * rng.uniform(0.85, 1.0), value * rng.uniform(0.85, 1.0))
    second = {
        classes.PERSON: _rgb(rng.uniform(0.58, 0.66), 0.6, 0.45),
        classes.CAR: _rgb(hue, 0.3, 0.95),
        classes.BUS: _rgb(rng.uniform(0.5, 0.7), 0.8, 0.6),
        classes.BALL: _rgb(rng.uniform(0, 1), 0.3, 0.15),
        classes.UMBRELLA: (245, 240, 245),
        classes.ANIMAL: _rgb(hue - 0.04, 0.8, 0.5),
        classes.AIRPLANE: _rgb(rng.uniform(0, 1), 0.9, 0.7),
        classes.FLAG: _rgb(hue + rng.uniform(0.3, 0.7), 0.9, 0.85),
    }[category]
    skin = _rgb(rng.uniform(0.05, 0.08), rng.uniform(0.35, 0.6), rng.uniform(0.55, 0.95))
    texture = _thing_texture(category, main, second, rng)
    return Look(category, main, second, skin, float(rng.uniform(0.88, 1.12)), texture)


def _thing_texture(category: int, main: Color, second: Color, rng: np.random.Generator) -> Image:
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / (SIDE / 2 / REACH) - REACH
    shift = float(rng.uniform(0, 2 * np.pi))
    if category == classes.PERSON:
        mix = (np.sin(y * rng.uniform(9, 16) + shift) > 0.2) * 0.45
        second = (245, 245, 240)
    elif category == classes.BALL:
        mix = (np.sin(x * 5.2 + shift) * np.sin(y * 5.2 + shift) > 0.3).astype(np.float32)
    elif category == classes.UMBRELLA:
        mix = (np.sin(4 * np.arctan2(y, x)) > 0).astype(np.float32)
    elif category == classes.ANIMAL:
        mix = (_noise((SIDE, SIDE), 14, rng) > 0.35).astype(np.float32)
    elif category == classes.FLAG:
        mix = np.clip(np.floor((y + 0.75) / 0.4), 0, 2) % 2
    elif category == classes.AIRPLANE:
        mix = (np.abs(x + 0.75) < 0.16).astype(np.float32)
    else:
        mix = np.clip(-y * 0.6, 0, 0.35)
    shade = 1.06 - 0.16 * y + 0.05 * _noise((SIDE, SIDE), 6, rng)
    plain = _blend(main, second, np.asarray(mix, dtype=np.float32))
    return _bytes(plain * shade[..., None])


def stuff_texture(category: int, shape: tuple[int, int], unit: float, rng: np.random.Generator) -> Image:
    """The texture of a stuff class.

    Args:
        category: VIPSeg id.
        shape: (height, width) in pixels.
        unit: pixels of a unit.
        rng: what varies inside the class.
    """
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32) / unit
    coarse, fine = _noise(shape, 0.35 * unit, rng), _noise(shape, 0.04 * unit, rng)
    dark, light, mixed = _STUFF[category]
    mix = mixed(x, y, coarse, fine, rng)
    tint = rng.normal(0, 6, 3)
    return _bytes(_blend(dark, light, np.clip(mix, 0, 1).astype(np.float32)) + tint.astype(np.float32))


# Dark and light colour of a stuff class, and how they mix: of x, y (units), coarse noise, fine noise, and a generator.
_Mix = Callable[[Plane, Plane, Plane, Plane, np.random.Generator], Plane]


def _mountain(x: Plane, y: Plane, coarse: Plane, fine: Plane, rng: np.random.Generator) -> Plane:
    return 0.75 * np.abs(np.sin(9 * (x * rng.choice([-1, 1]) + y) + 2 * coarse)) + 0.2 * fine


def _building(x: Plane, y: Plane, coarse: Plane, fine: Plane, rng: np.random.Generator) -> Plane:
    pitch = rng.uniform(0.1, 0.14)
    windows = ((x / pitch) % 1 > 0.45) & ((y / pitch) % 1 > 0.4)
    return 1.0 - 0.9 * windows + 0.08 * fine


def _road(x: Plane, y: Plane, coarse: Plane, fine: Plane, rng: np.random.Generator) -> Plane:
    marks = ((x * 3.2) % 1 > 0.5) & ((y * 4 + 0.3) % 1 > 0.86)
    return 0.12 + 0.06 * fine + 0.8 * marks


def _tree(x: Plane, y: Plane, coarse: Plane, fine: Plane, rng: np.random.Generator) -> Plane:
    return 0.45 + 0.45 * (np.sin(26 * x + 3 * coarse) * np.sin(26 * y + 3 * coarse)) + 0.15 * fine


_STUFF: dict[int, tuple[Color, Color, _Mix]] = {
    classes.SKY: ((105, 165, 235), (235, 242, 250), lambda x, y, c, f, r: 0.25 * y + np.clip(c * 0.5, 0, 1)),
    classes.MOUNTAIN: ((88, 72, 100), (165, 145, 160), _mountain),
    classes.BUILDING: ((70, 60, 65), (190, 125, 100), _building),
    classes.GRASS: ((70, 135, 45), (140, 200, 80), lambda x, y, c, f, r: 0.45 + 0.25 * f + 0.2 * c),
    classes.SAND: (
        (195, 165, 110),
        (240, 220, 165),
        lambda x, y, c, f, r: 0.5 + 0.35 * np.sin(38 * (y + 0.07 * c) + 6 * x) + 0.1 * f,
    ),
    classes.WATER: (
        (15, 80, 130),
        (70, 170, 190),
        lambda x, y, c, f, r: 0.4 + 0.4 * np.sin(30 * y + 3 * np.sin(5 * x) + 2 * c),
    ),
    classes.ROAD: ((72, 72, 78), (225, 225, 220), _road),
    classes.TREE: ((12, 48, 24), (55, 105, 45), _tree),
}


def _noise(shape: tuple[int, int], grain: float, rng: np.random.Generator) -> Plane:
    """Smooth noise of about unit variance with blobs of `grain` pixels."""
    small = max(2, round(shape[0] / grain) + 2), max(2, round(shape[1] / grain) + 2)
    cells = rng.standard_normal(small).astype(np.float32)
    return np.asarray(cv2.resize(cells, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32)


def _rgb(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(saturation, 1), min(value, 1))
    return int(255 * red), int(255 * green), int(255 * blue)


def _blend(dark: Color, light: Color, mix: Plane) -> npt.NDArray[np.float32]:
    low, high = np.array(dark, np.float32), np.array(light, np.float32)
    return np.asarray(low + (high - low) * mix[..., None], np.float32)


def _bytes(values: npt.NDArray[np.float32]) -> Image:
    return np.clip(values, 0, 255).astype(np.uint8)
