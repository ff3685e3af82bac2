"""A scene before it is painted: which things, where they go, what the camera and the light do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dvis_cli.datasets.synthetic import classes
from dvis_cli.datasets.synthetic.backdrop import Backdrop, Screen, paint_backdrop, paint_screen
from dvis_cli.datasets.synthetic.camera import Camera, plan_camera
from dvis_cli.datasets.synthetic.motion import Stage, plan_paths
from dvis_cli.datasets.synthetic.settings import Settings
from dvis_cli.datasets.synthetic.shapes import Look
from dvis_cli.datasets.synthetic.textures import make_look, random_hue
from dvis_cli.datasets.synthetic.weather import Spoil, noise_bank, plan_weather


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing and its path."""

    look: Look
    half: float  # half extent, units
    path: npt.NDArray[np.float64]  # (frames, 2) middle, units
    angle: npt.NDArray[np.floating]  # (frames,) radians
    phase: npt.NDArray[np.floating]  # (frames,) radians, of its pose
    facing: float  # 1 or -1: mirrored


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is needed to paint the frames of a video."""

    settings: Settings
    index: int  # of the video
    things: tuple[Thing, ...]  # from back to front
    backdrop: Backdrop
    screen: Screen | None
    camera: Camera
    weather: list[Spoil]
    noise: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Cast:
    """The things of a scene before they move, from back to front; those of one group are look-alikes."""

    kinds: list[int]  # VIPSeg ids
    hues: list[float]
    groups: list[int]
    halves: list[float]  # half extents, units


def plan_scene(settings: Settings, index: int) -> Scene:
    """The scene of video `index`: it depends on the settings and the index alone."""
    rng = settings.random(index)
    unit, width, height = settings.unit, settings.width, settings.height
    cast = _draw_cast(rng)
    screen = None
    if rng.uniform() < 0.9:
        category = int(rng.choice([classes.TREE, classes.TREE, classes.BUILDING, classes.MOUNTAIN]))
        half = max(rng.uniform(0.19, 0.25), 1.15 * min(cast.halves))
        screen = paint_screen(category, half, width, height, unit, rng)
    without = () if screen is None else (screen.category,)
    scenery = paint_backdrop(width, height, unit, without, rng)
    return Scene(
        settings,
        index,
        _move_cast(cast, settings, screen, rng),
        scenery,
        screen,
        plan_camera(settings.frames, rng),
        plan_weather(settings.frames, settings.difficulty, rng),
        noise_bank(width, height, rng),
    )


def _draw_cast(rng: np.random.Generator) -> _Cast:
    kinds = rng.permutation(classes.THINGS)[:2].tolist()
    sizes = [rng.uniform(*classes.HALF_SIZE[kind]) for kind in kinds]
    hues = [random_hue(kind, rng) for kind in kinds]
    groups = [0] * int(rng.integers(2, 4)) + [1] * int(rng.choice([1, 2, 2, 2, 3]))
    groups = rng.permutation(groups).tolist()
    crowded = min(1.0, (4 / len(groups)) ** 0.4)
    halves = [float(crowded * sizes[group] * rng.uniform(0.85, 1.1)) for group in groups]
    return _Cast([kinds[g] for g in groups], [hues[g] for g in groups], groups, halves)


def _move_cast(
    cast: _Cast, settings: Settings, screen: Screen | None, rng: np.random.Generator
) -> tuple[Thing, ...]:
    slow, fast = 0.035 + 0.03 * settings.difficulty, 0.08 + 0.07 * settings.difficulty
    spread = 0.025 - 0.02 * settings.difficulty  # of the hues of look-alikes
    paths = plan_paths(
        Stage(
            width=settings.width / settings.unit,
            height=settings.height / settings.unit,
            frames=settings.frames,
            halves=cast.halves,
            groups=cast.groups,
            screen=None if screen is None else screen.middle,
            speed=(slow, fast),
            meetings=0.7 + 0.25 * settings.difficulty,
            rng=rng,
        )
    )
    return tuple(
        _thing(make_look(kind, hue, spread, rng), half, path, rng)
        for kind, hue, half, path in zip(cast.kinds, cast.hues, cast.halves, paths, strict=True)
    )


def _thing(look: Look, half: float, path: npt.NDArray[np.float64], rng: np.random.Generator) -> Thing:
    frames = len(path)
    time = np.arange(frames)
    lean = 0.12 * np.sin(rng.uniform(0.2, 0.5) * time + rng.uniform(0, 6))
    spin = rng.uniform(-0.35, 0.35) * time + rng.uniform(0, 6)
    angle = spin if look.category in (classes.BALL, classes.UMBRELLA, classes.AIRPLANE) else lean
    phase = rng.uniform(0.5, 1.1) * time + rng.uniform(0, 6)
    return Thing(look, half, path, angle, phase, float(rng.choice([-1, 1])))
