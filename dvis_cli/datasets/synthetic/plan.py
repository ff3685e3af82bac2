"""A scene before it is painted: which things, where they go, what the camera and the light do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dvis_cli.datasets.synthetic import backdrop, camera, classes, weather
from dvis_cli.datasets.synthetic.motion import Stage, plan_paths
from dvis_cli.datasets.synthetic.shapes import Look
from dvis_cli.datasets.synthetic.textures import make_look, random_hue


@dataclass(frozen=True, slots=True)
class Settings:
    """What all videos of a dataset share."""

    height: int  # pixels
    width: int
    frames: int  # of a video
    seed: int
    difficulty: float = 0.5  # 0 easy .. 1 hard: speed, similarity, bursts

    @property
    def unit(self) -> float:
        """Pixels of a unit: 128 in a frame of 128x224."""
        return float(np.sqrt(self.height * self.width / 1.75))


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing and its path."""

    look: Look
    half: float  # half extent, units
    path: npt.NDArray[np.float64]  # (frames, 2) middle, units
    angle: npt.NDArray[np.float64]  # (frames,) radians
    phase: npt.NDArray[np.float64]  # (frames,) radians, of its pose
    facing: float  # 1 or -1: mirrored


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is needed to paint the frames of a video."""

    settings: Settings
    things: tuple[Thing, ...]  # from back to front
    backdrop: backdrop.Backdrop
    screen: backdrop.Screen | None
    camera: camera.Camera
    weather: list[weather.Spoil]
    noise: npt.NDArray[np.float32]
    index: int  # of the video


def plan_scene(settings: Settings, index: int) -> Scene:
    """The scene of video `index`: it depends on the settings and the index alone."""
    rng = np.random.default_rng([settings.seed, index])
    unit, width, height = settings.unit, settings.width, settings.height
    screen = None
    if rng.uniform() < 0.85:
        category = int(rng.choice([classes.TREE, classes.TREE, classes.BUILDING, classes.MOUNTAIN]))
        screen = backdrop.paint_screen(category, width, height, unit, rng)
    without = () if screen is None else (screen.category,)
    scenery = backdrop.paint_backdrop(width, height, unit, without, rng)
    return Scene(
        settings,
        _things(settings, screen, rng),
        scenery,
        screen,
        camera.plan_camera(settings.frames, rng),
        weather.plan_weather(settings.frames, settings.difficulty, rng),
        weather.noise_bank(width, height, rng),
        index,
    )


def _things(
    settings: Settings, screen: backdrop.Screen | None, rng: np.random.Generator
) -> tuple[Thing, ...]:
    kinds = rng.permutation(classes.THINGS).tolist()
    groups = [0] * int(rng.integers(2, 4)) + [1] * int(rng.choice([1, 2, 2, 3]))
    hues = [random_hue(kind, rng) for kind in kinds]
    sizes = [rng.uniform(*classes.HALF_SIZE[kind]) for kind in kinds]
    order = rng.permutation(len(groups))
    groups = [groups[i] for i in order]
    crowded = min(1.0, (4 / len(groups)) ** 0.4)
    halves = [float(crowded * sizes[group] * rng.uniform(0.85, 1.1)) for group in groups]
    slow, fast = 0.03 + 0.02 * settings.difficulty, 0.08 + 0.06 * settings.difficulty
    stage = Stage(
        settings.width / settings.unit,
        settings.height / settings.unit,
        settings.frames,
        halves,
        groups,
        range(len(groups)),
        None if screen is None else screen.middle,
        (slow, fast),
        rng,
    )
    paths = plan_paths(stage)
    return tuple(
        _thing(make_look(kinds[group], hues[group], rng), half, path, rng)
        for group, half, path in zip(groups, halves, paths, strict=True)
    )


def _thing(look: Look, half: float, path: npt.NDArray[np.float64], rng: np.random.Generator) -> Thing:
    frames = len(path)
    time = np.arange(frames)
    lean = 0.12 * np.sin(rng.uniform(0.2, 0.5) * time + rng.uniform(0, 6))
    spin = rng.uniform(-0.35, 0.35) * time + rng.uniform(0, 6)
    angle = spin if look.category in (classes.BALL, classes.UMBRELLA, classes.AIRPLANE) else lean
    phase = rng.uniform(0.5, 1.1) * time + rng.uniform(0, 6)
    return Thing(look, half, path, angle, phase, float(rng.choice([-1, 1])))
