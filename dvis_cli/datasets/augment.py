"""Random changes to annotated clips: picture and id map always move together, all frames of a clip alike.

A clip is `frames` (T, H, W, 3) uint8 RGB and `ids` (T, H, W) int16. Every function returns new arrays or
views, never changes what it was given, and draws from the generator that it was handed and from nothing else.
"""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Frames: TypeAlias = "npt.NDArray[np.uint8]"  # (T, H, W, 3)
Ids: TypeAlias = "npt.NDArray[np.int16]"  # (T, H, W)
Rng: TypeAlias = "np.random.Generator"

CROP_TRIES = 10
LUMA = np.array([0.299, 0.587, 0.114])
ZOOM = (1.15, 1.8)  # how much of a still the first view leaves out; larger than 1 gives the camera room
PACE = 0.03  # of the view's size per frame, at strength 1 the fastest pan
TURN = 15.0  # degrees, the largest roll
SHAKE = 0.003  # of the view's size, standard deviation of a hand's tremor


def resize_picture(rgb: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 to `size` (height, width): antialiased bilinear, as at inference."""
    if rgb.shape[:2] == size:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize(size[::-1], Image.Resampling.BILINEAR))


def resize_ids(ids: npt.NDArray[np.int16], size: tuple[int, int]) -> npt.NDArray[np.int16]:
    """(H, W) to `size` (height, width): each pixel takes the id at its centre."""
    if ids.shape == size:
        return ids
    return np.asarray(cv2.resize(ids, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.int16)


def flip(frames: Frames, ids: Ids) -> tuple[Frames, Ids]:
    """Mirror left and right."""
    return frames[:, :, ::-1], ids[:, :, ::-1]


def reverse(frames: Frames, ids: Ids) -> tuple[Frames, Ids]:
    """Play backwards."""
    return frames[::-1], ids[::-1]


def random_crop(frames: Frames, ids: Ids, size: tuple[int, int], rng: Rng) -> tuple[Frames, Ids]:
    """A window of `size` (height, width) or as much as there is, at the same place in all frames.

    Of a few windows the first one is taken in which there is any object.
    """
    height, width = min(size[0], ids.shape[1]), min(size[1], ids.shape[2])
    if (height, width) == ids.shape[1:]:
        return frames, ids
    for _ in range(CROP_TRIES):
        top = int(rng.integers(ids.shape[1] - height + 1))
        left = int(rng.integers(ids.shape[2] - width + 1))
        window = np.s_[:, top : top + height, left : left + width]
        if ids[window].any():
            break
    return frames[window], ids[window]


def jitter_color(frames: Frames, strength: float, rng: Rng) -> Frames:
    """Other light: brightness, contrast, saturation and tint, the same for all frames.

    Args:
        frames: (T, H, W, 3) uint8.
        strength: 0 (none) to 1 (brightness, contrast and saturation between nothing and double).
        rng: source of the draws.
    """
    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3)
    tint = 1 + strength * rng.uniform(-0.25, 0.25, 3)
    mean = float(frames[0].mean(axis=(0, 1)) @ LUMA)
    mixed = saturation * np.eye(3) + (1 - saturation) * LUMA[None]
    matrix = np.empty((3, 4))
    matrix[:, :3] = brightness * tint[:, None] * contrast * mixed
    matrix[:, 3] = brightness * tint * (1 - contrast) * mean
    count, height, width, _ = frames.shape
    tall = np.ascontiguousarray(frames).reshape(count * height, width, 3)
    return np.asarray(cv2.transform(tall, matrix), np.uint8).reshape(frames.shape)


def animate(
    rgb: npt.NDArray[np.uint8],
    ids: npt.NDArray[np.int16],
    size: tuple[int, int],
    frames: int,
    rng: Rng,
    strength: float = 1.0,
    fill: tuple[int, int, int] = (124, 116, 104),
) -> tuple[Frames, Ids]:
    """A clip out of one picture: a camera that pans, zooms, rolls and trembles over it.

    Args:
        rgb: (h, w, 3) uint8 RGB.
        ids: (h, w) int16.
        size: (height, width) of the clip in pixels.
        frames: how many.
        rng: source of the draws.
        strength: 0 shows the whole picture in every frame, 1 pans by up to 3% of the view a frame.
        fill: RGB where a rolled view looks over the picture's edge; there is nothing there (id 0).

    Returns:
        (frames, height, width, 3) uint8 and (frames, height, width) int16.
    """
    if strength == 0:
        repeated = np.repeat(resize_picture(rgb, size)[None], frames, axis=0)
        return repeated, np.repeat(resize_ids(ids, size)[None], frames, axis=0)
    views = camera_path(frames, rng, strength)
    # Shrink first, antialiased, to about the scale of the views; a warp alone would alias.
    zoom = float(np.median(views[:, 2]))
    large = tuple(max(1, min(round(side * zoom), full)) for side, full in zip(size, ids.shape, strict=True))
    picture = resize_picture(rgb, (large[0], large[1]))
    out = np.empty((frames, *size, 3), np.uint8)
    out_ids = np.empty((frames, *size), np.int16)
    for index, view in enumerate(views):
        _warp(picture, view, cv2.INTER_LINEAR, fill, out[index])
        _warp(ids, view, cv2.INTER_NEAREST, (0,), out_ids[index])
    return out, out_ids


def camera_path(frames: int, rng: Rng, strength: float = 1.0) -> npt.NDArray[np.float64]:
    """Where a camera looks in each frame.

    Returns:
        (frames, 4) float64: centre x and y in 0..1 of the picture, zoom >= 1, roll in radians.
    """
    time = np.linspace(0, 1, frames)
    start, end = np.sort(rng.uniform(*ZOOM, 2))
    room = min(1.0, strength)
    zoom = 1 + room * (start + (end - start) * time * min(1.0, frames / 20) - 1)
    if rng.random() < 0.5:
        zoom = zoom[::-1]
    free = (1 - 1 / zoom)[:, None] / 2  # how far the centre may stray from the middle
    heading = rng.uniform(0, 2 * np.pi)
    length = strength * PACE * rng.uniform(0, 1) * (frames - 1) / zoom.mean()
    bend = rng.uniform(-1, 1) * np.sin(np.pi * time)
    along, across = length * (time - 0.5), 0.5 * length * bend
    turned = np.array([[np.cos(heading), np.sin(heading)], [-np.sin(heading), np.cos(heading)]])
    middle = 0.5 + rng.uniform(-1, 1, 2) * free.min()
    centre = middle + np.stack([along, across], axis=1) @ turned
    centre += rng.normal(0, SHAKE * strength, (frames, 2))
    centre = np.clip(centre, 0.5 - free, 0.5 + free)
    roll = np.radians(TURN) * room * (rng.uniform(-0.5, 0.5) + rng.uniform(-0.5, 0.5) * time)
    zoom = np.maximum(1, zoom * (1 + rng.normal(0, SHAKE * strength, frames)))
    return np.column_stack([centre, zoom, roll])


def _warp(
    picture: np.ndarray, view: npt.NDArray[np.float64], how: int, fill: tuple[int, ...], out: np.ndarray
) -> None:
    """What `view` sees of `picture`, written to `out`; pixels are squares with centres at + 0.5."""
    x, y, zoom, roll = view
    (high, wide), (height, width) = picture.shape[:2], out.shape[:2]
    across, down = wide / (width * zoom), high / (height * zoom)  # picture pixels per pixel of the view
    cos, sin = np.cos(roll), np.sin(roll)
    matrix = np.array([[across * cos, -across * sin, 0.0], [down * sin, down * cos, 0.0]])
    matrix[:, 2] = (x * wide - 0.5, y * high - 0.5) - matrix[:, :2] @ ((width - 1) / 2, (height - 1) / 2)
    cv2.warpAffine(
        picture,
        matrix,
        (width, height),
        dst=out,
        flags=how | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=fill,
    )
