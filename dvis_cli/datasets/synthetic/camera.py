"""The camera: pan and zoom over the scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MARGIN = 0.22  # of the frame, to every side: what the scene has beyond what a resting camera sees


@dataclass(frozen=True, slots=True)
class Camera:
    """Where the camera looks in every frame."""

    shift: npt.NDArray[np.float64]  # (frames, 2) x, y as parts of the frame
    zoom: npt.NDArray[np.float64]  # (frames,) 1 = as planned


def plan_camera(frames: int, rng: np.random.Generator) -> Camera:
    """A slow pan and zoom, now and then with a jerk."""
    time = np.arange(frames)[:, None]
    rate = rng.uniform(0.05, 0.22, (1, 2))
    reach = rng.uniform(0.03, 0.11, (1, 2))
    shift = reach * np.sin(rate * time + rng.uniform(0, 2 * np.pi, (1, 2)))
    for start in rng.integers(0, frames, size=int(rng.integers(0, 2))):
        shift[start:] += rng.uniform(-0.04, 0.04, 2)
    zoom = 1.1 + 0.12 * np.sin(rng.uniform(0.04, 0.16) * time[:, 0] + rng.uniform(0, 2 * np.pi))
    return Camera(np.clip(shift, -0.15, 0.15), zoom)


def view(camera: Camera, frame: int, width: int, height: int, unit: float) -> npt.NDArray[np.float64]:
    """The (2, 3) matrix from units to pixels of a frame of `width x height` pixels."""
    scale = unit * camera.zoom[frame]
    middle = np.array([width / 2, height / 2])
    target = middle / unit + camera.shift[frame] * np.array([width, height]) / unit
    offset = middle - scale * target
    return np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
