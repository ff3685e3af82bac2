"""Outlines of things: each class is a few polygons whose pose changes with a phase.

Local coordinates: x to the right, y down, the thing fills about -1..1. A part is filled with one colour or,
where that is None, with the thing's texture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dvis_cli.datasets.synthetic import classes

Points = npt.NDArray[np.float64]  # (N, 2) x, y
Color = tuple[int, int, int]  # RGB

GLASS: Color = (150, 205, 235)
RUBBER: Color = (28, 28, 32)
METAL: Color = (190, 190, 195)


@dataclass(frozen=True, slots=True)
class Part:
    """A filled polygon."""

    points: Points
    color: Color | None


@dataclass(frozen=True, slots=True)
class Look:
    """What tells a thing from the others of its class."""

    category: int  # VIPSeg id
    main: Color
    second: Color
    skin: Color
    stout: float  # 0.85..1.15: width against height
    texture: npt.NDArray[np.uint8]  # (S, S, 3) RGB over local -1.25..1.25


def pose(look: Look, phase: float) -> list[Part]:
    """The polygons of a thing at a phase (radians), from back to front."""
    parts = _POSES[look.category](look, phase)
    # Everything sways a little: things are not rigid.
    sway, breathe = 0.07 * np.sin(phase * 0.7), 1 + 0.05 * np.sin(phase * 1.1)
    return [Part(_sway(part.points, sway, breathe, look.stout), part.color) for part in parts]


def _sway(points: Points, sway: float, breathe: float, stout: float) -> Points:
    x, y = points[:, 0], points[:, 1]
    return np.stack([(x * stout + sway * (1 - y) ** 2 / 2) * breathe, y / breathe], axis=1)


def _person(look: Look, phase: float) -> list[Part]:
    swing = np.sin(phase)
    legs = [
        Part(_limb((side * 0.13, 0.22), (side * 0.13 + side * 0.34 * swing, 0.97), 0.3), look.second)
        for side in (-1, 1)
    ]
    arms = [
        Part(_limb((side * 0.27, -0.3), (side * (0.42 + 0.12 * swing), 0.22), 0.2), look.skin)
        for side in (-1, 1)
    ]
    return [
        *legs,
        *arms,
        Part(_rounded(-0.34, -0.46, 0.34, 0.34), None),
        Part(_ellipse(0, -0.7, 0.27, 0.29), look.skin),
        Part(_ellipse(0, -0.83, 0.27, 0.17), (60, 40, 30)),
    ]


def _car(look: Look, phase: float) -> list[Part]:
    cabin = np.array([(-0.72, 0.0), (-0.42, -0.52), (0.3, -0.52), (0.7, 0.0)])
    panes = [
        np.array([(-0.54, -0.06), (-0.35, -0.4), (-0.06, -0.4), (-0.06, -0.06)]),
        np.array([(0.06, -0.06), (0.06, -0.4), (0.26, -0.4), (0.5, -0.06)]),
    ]
    return [
        Part(cabin, None),
        Part(_rounded(-1, -0.1, 1, 0.42), None),
        *(Part(pane, GLASS) for pane in panes),
        *_wheels((-0.55, 0.55), 0.42, 0.25),
        Part(_ellipse(0.92, 0.08, 0.07, 0.1), (255, 250, 190)),
    ]


def _bus(look: Look, phase: float) -> list[Part]:
    panes = [_rounded(x, -0.45, x + 0.36, -0.08) for x in (-0.9, -0.44, 0.02, 0.5)]
    return [
        Part(_rounded(-1, -0.62, 1, 0.48), None),
        *(Part(pane, GLASS) for pane in panes),
        Part(_rounded(-0.98, 0.06, 0.98, 0.2), look.second),
        *_wheels((-0.6, 0.6), 0.5, 0.2),
    ]


def _ball(look: Look, phase: float) -> list[Part]:
    squash = 1 + 0.12 * np.sin(phase * 1.7)
    return [Part(_ellipse(0, 0, squash, 1 / squash, 28), None)]


def _umbrella(look: Look, phase: float) -> list[Part]:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = 0.86 + 0.15 * np.abs(np.sin(angle * 4)) + 0.04 * np.sin(phase * 1.3)
    outline = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return [Part(outline, None), Part(_ellipse(0, 0, 0.13, 0.13), (250, 250, 250))]


def _animal(look: Look, phase: float) -> list[Part]:
    def bend(points: Points) -> Points:
        x, y = points[:, 0], points[:, 1]
        return np.stack([x, y + 0.2 * (0.6 - x) * np.sin(phase - 2 * x)], axis=1)

    tail = np.array([(-0.5, 0.0), (-1.0, -0.48), (-0.86, 0.0), (-1.0, 0.48)])
    fin = np.array([(-0.25, -0.3), (0.0, -0.72), (0.35, -0.34)])
    return [
        Part(bend(tail), look.second),
        Part(bend(fin), look.second),
        Part(bend(_ellipse(0.15, 0, 0.85, 0.47, 28)), None),
        Part(bend(_ellipse(0.68, -0.12, 0.12, 0.13)), (250, 250, 250)),
        Part(bend(_ellipse(0.71, -0.12, 0.06, 0.07)), (10, 10, 10)),
    ]


def _airplane(look: Look, phase: float) -> list[Part]:
    flap = 1 + 0.12 * np.sin(phase * 0.9)
    wing = np.array([(0.35, 0.1), (-0.3, 0.95), (-0.55, 0.95), (-0.15, 0.1)])
    tail = np.array([(-0.62, 0.05), (-0.9, 0.45), (-1.05, 0.45), (-0.95, 0.05)])
    mirrored = np.array([1.0, -1.0])
    stretch = np.array([1.0, flap])
    return [
        *(Part(shape * stretch * side, None) for shape in (wing, tail) for side in (1.0, mirrored)),
        Part(_ellipse(0, 0, 1.05, 0.25, 24), None),
        Part(_ellipse(-0.1, 0, 0.55, 0.09), look.second),
        Part(_ellipse(0.82, 0, 0.12, 0.13), (50, 80, 120)),
    ]


def _flag(look: Look, phase: float) -> list[Part]:
    along = np.linspace(-0.86, 1.0, 14)
    wave = 0.17 * np.sin(3.2 * along - 1.5 * phase) * (along + 1.0)
    edge = np.stack([along, -0.75 + wave], axis=1)
    back = np.stack([along, 0.45 + wave], axis=1)[::-1]
    return [Part(_rounded(-1.0, -0.95, -0.8, 1.05), (120, 85, 50)), Part(np.concatenate([edge, back]), None)]


def _wheels(places: tuple[float, ...], y: float, radius: float) -> list[Part]:
    tyres = [Part(_ellipse(x, y, radius, radius), RUBBER) for x in places]
    return tyres + [Part(_ellipse(x, y, radius / 2, radius / 2), METAL) for x in places]


def _ellipse(x: float, y: float, rx: float, ry: float, count: int = 18) -> Points:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def _rounded(x0: float, y0: float, x1: float, y1: float) -> Points:
    """A box with round corners: a superellipse."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    cos, sin = np.cos(angle), np.sin(angle)
    x = (x0 + x1) / 2 + (x1 - x0) / 2 * np.sign(cos) * np.abs(cos) ** 0.35
    y = (y0 + y1) / 2 + (y1 - y0) / 2 * np.sign(sin) * np.abs(sin) ** 0.35
    return np.stack([x, y], axis=1)


def _limb(start: tuple[float, float], end: tuple[float, float], width: float) -> Points:
    (x0, y0), (x1, y1) = start, end
    length = np.hypot(x1 - x0, y1 - y0)
    across, down = (y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
    return np.array(
        [
            (x0 - across, y0 + down),
            (x0 + across, y0 - down),
            (x1 + across, y1 - down),
            (x1 - across, y1 + down),
        ]
    )


_POSES: dict[int, Callable[[Look, float], list[Part]]] = {
    classes.PERSON: _person,
    classes.CAR: _car,
    classes.BUS: _bus,
    classes.BALL: _ball,
    classes.UMBRELLA: _umbrella,
    classes.ANIMAL: _animal,
    classes.AIRPLANE: _airplane,
    classes.FLAG: _flag,
}
