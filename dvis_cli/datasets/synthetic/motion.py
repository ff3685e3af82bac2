"""Where things go: look-alikes swap places, things hide, leave and come back.

Positions are in units (a frame is `width x height` units). Every thing has its own clock; an event moves one
or two things and their clocks on, until all paths cover the video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

CLEAR = 0.34  # units between the middle of the screen and that of a thing beside it

Point = npt.NDArray[np.float64]  # (2,) x, y


@dataclass(slots=True)
class Stage:
    """The paths so far."""

    width: float  # units
    height: float
    frames: int
    halves: Sequence[float]  # half extent of each thing, units, from back to front
    groups: Sequence[int]  # things of one group are look-alikes
    screen: Point | None  # middle of the foreground that hides things, if there is one
    speed: tuple[float, float]  # units a frame, slowest and fastest
    meetings: float  # 0..1: how often a thing that has a look-alike goes to meet it
    rng: np.random.Generator
    paths: list[list[Point]] = field(default_factory=list)

    def place(self) -> Point:
        """A random place inside the frame, beside the screen rather than behind it."""
        for _ in range(8):
            x = self.rng.uniform(0.1, 0.9) * self.width
            place = np.array([x, self.rng.uniform(0.18, 0.85) * self.height])
            if not self.behind_screen(place):
                break
        return place

    def behind_screen(self, place: Point) -> bool:
        """Whether the screen, with what stands below it, hides most of a thing there."""
        if self.screen is None:
            return False
        across, down = place - self.screen
        return bool(abs(across) < CLEAR and down > -CLEAR)

    def clock(self, thing: int) -> int:
        return len(self.paths[thing])

    def go(self, thing: int, target: Point, frames: int | None = None) -> None:
        """Move on a slight arc; `frames` follow from a random speed unless given."""
        start = self.paths[thing][-1]
        way = target - start
        distance = float(np.hypot(*way))
        if frames is None:
            frames = max(1, round(distance / self.rng.uniform(*self.speed)))
        bow = np.array([-way[1], way[0]]) * self.rng.uniform(-0.2, 0.2)
        for step in range(1, frames + 1):
            part = step / frames
            self.paths[thing].append(start + way * part + bow * np.sin(np.pi * part))

    def stay(self, thing: int, frames: int, drift: Point | None = None) -> None:
        """Drift, by `drift` units a frame or at random."""
        step = self.rng.normal(0, 0.03, 2) if drift is None else drift
        for _ in range(frames):
            self.paths[thing].append(self.paths[thing][-1] + step)

    def at(self, thing: int, time: int) -> Point:
        return self.paths[thing][min(time, self.clock(thing) - 1)]


def plan_paths(stage: Stage) -> npt.NDArray[np.float64]:
    """Positions of every thing in every frame: (things, frames, 2) units."""
    count = len(stage.halves)
    stage.paths = [[stage.place()] for _ in range(count)]
    pairs = [(a, b) for a in range(count) for b in range(a) if stage.groups[a] == stage.groups[b]]
    _hide(stage, int(np.argmin(stage.halves)))
    while min(map(len, stage.paths)) < stage.frames:
        thing = min(range(count), key=stage.clock)
        mates = [a + b - thing for a, b in pairs if thing in (a, b)]
        mates = [mate for mate in mates if stage.clock(mate) - stage.clock(thing) <= 6]
        if mates and stage.rng.uniform() < stage.meetings:
            _meet(stage, thing, mates[int(stage.rng.integers(len(mates)))])
            continue
        draw = stage.rng.uniform()
        if draw < 0.4:
            _hide(stage, thing)
        elif draw < 0.8:
            _leave(stage, thing)
        else:
            stage.go(thing, stage.place())
    return np.stack([np.stack(path[: stage.frames]) for path in stage.paths])


def _meet(stage: Stage, first: int, second: int) -> None:
    """Two look-alikes run into one another, stay together for a moment, and swap places or bounce."""
    rng = stage.rng
    start = max(stage.clock(first), stage.clock(second))
    for thing in (first, second):
        stage.stay(thing, start - stage.clock(thing))
    homes = [stage.paths[thing][-1] for thing in (first, second)]
    if np.hypot(*(homes[0] - homes[1])) < 0.45:
        homes[1] = _far_place(stage, homes[0])
    middle = (homes[0] + homes[1]) / 2 + rng.normal(0, 0.06, 2)
    if stage.behind_screen(middle) and rng.uniform() < 0.7:
        middle = stage.place()
    reach = max(float(np.hypot(*(home - middle))) for home in homes)
    frames = max(2, round(reach / rng.uniform(*stage.speed)))
    stage.go(first, middle + rng.normal(0, 0.025, 2), frames)
    stage.go(second, middle + rng.normal(0, 0.025, 2), frames)
    together, drift = int(rng.integers(0, 4)), rng.normal(0, 0.035, 2)
    stage.stay(first, together, drift)
    stage.stay(second, together, drift)
    ends = homes if rng.uniform() < 0.3 else homes[::-1]
    part, here = rng.uniform(0.6, 1.0), stage.paths[first][-1]
    frames = max(2, round(part * frames) + int(rng.integers(-1, 2)))
    for thing, end in zip((first, second), ends, strict=True):
        stage.go(thing, here + part * (end - here), frames)


def _far_place(stage: Stage, other: Point) -> Point:
    places = [stage.place() for _ in range(6)]
    return max(places, key=lambda place: float(np.hypot(*(place - other))))


def _hide(stage: Stage, thing: int) -> None:
    """Go behind the foreground or a larger thing, stay there for a few frames, come out somewhere."""
    rng = stage.rng
    larger = [
        other
        for other in range(thing + 1, len(stage.halves))
        if stage.halves[other] > stage.halves[thing] * 1.1
    ]
    frames = int(rng.integers(2, 6))
    if stage.screen is not None and (not larger or rng.uniform() < 0.7):
        stage.go(thing, stage.screen + rng.normal(0, 0.015, 2))
        stage.stay(thing, frames, rng.normal(0, 0.008, 2))
    elif larger:
        other = larger[int(rng.integers(len(larger)))]
        approach = int(rng.integers(4, 7))
        missing = stage.clock(thing) + approach + frames - stage.clock(other)
        stage.stay(other, max(0, missing))
        stage.go(thing, stage.at(other, stage.clock(thing) + approach - 1), approach)
        for _ in range(frames):
            stage.paths[thing].append(stage.at(other, stage.clock(thing)) + rng.normal(0, 0.01, 2))
    stage.go(thing, stage.place())


def _leave(stage: Stage, thing: int) -> None:
    """Leave through a side and come back, there or on the other side."""
    rng = stage.rng
    here = stage.paths[thing][-1]
    margin = stage.halves[thing] * 1.3 + 0.15
    left, right = -margin, stage.width + margin
    exit_x = left if here[0] < stage.width / 2 else right
    stage.go(thing, np.array([exit_x, here[1] + rng.normal(0, 0.1)]))
    stage.stay(thing, int(rng.integers(1, 4)), np.zeros(2))
    if rng.uniform() < 0.35:
        stage.paths[thing][-1] = np.array([left + right - exit_x, stage.place()[1]])
    stage.go(thing, stage.place())
