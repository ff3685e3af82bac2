"""Frames and their segments, painted from a scene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dvis_cli.datasets.categories import vipseg_by_id
from dvis_cli.datasets.segment_ids import SegmentIds
from dvis_cli.datasets.synthetic import classes
from dvis_cli.datasets.synthetic.camera import view
from dvis_cli.datasets.synthetic.plan import Scene, Thing
from dvis_cli.datasets.synthetic.shapes import Color, Points, pose
from dvis_cli.datasets.synthetic.textures import REACH, SIDE
from dvis_cli.datasets.synthetic.weather import spoil_frame

SMALLEST = 12 / (128 * 224)  # part of the frame below which a segment becomes void
FIRST_THING = 128  # in a label plane: smaller values are VIPSeg's stuff ids, larger ones things
SHIFT = 4  # binary digits of a fraction of a pixel in polygons

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB
Plane = npt.NDArray[np.uint8]  # (H, W)
Matrix = npt.NDArray[np.float64]  # (2, 3) affine


@dataclass(frozen=True, slots=True)
class PaintedFrame:
    """A frame and its truth."""

    image: npt.NDArray[np.uint8]  # (H, W, 3) RGB
    ids: npt.NDArray[np.uint8]  # (H, W, 3) RGB, an id is R + 256 G + 65536 B, 0 void
    segments: list[dict[str, int]]  # id, category_id, iscrowd, area in pixels


def paint_video(scene: Scene) -> Iterator[PaintedFrame]:
    """Paint the frames of a scene in order."""
    colors, segments = number_segments(scene)
    rng = scene.settings.random(scene.index, 1)
    for frame in range(scene.settings.frames):
        image, labels = _paint(scene, frame)
        counts = np.bincount(labels.ravel(), minlength=256)
        smallest = SMALLEST * labels.size
        kept = [int(v) for v in np.flatnonzero(counts) if counts[v] >= smallest]
        palette = np.zeros((256, 3), np.uint8)
        palette[kept] = colors[kept]
        image = spoil_frame(image, scene.weather[frame], scene.settings.unit, scene.noise, rng)
        listed = [{**segments[v], "iscrowd": 0, "area": int(counts[v])} for v in kept]
        yield PaintedFrame(image, palette[labels], listed)


def number_segments(scene: Scene) -> tuple[npt.NDArray[np.uint8], dict[int, dict[str, int]]]:
    """Colours (256, 3) and {id, category_id}, both by value in a label plane: thing `n` is `FIRST_THING + n`."""
    ids, colors = SegmentIds(vipseg_by_id()), np.zeros((256, 3), np.uint8)
    raw = {category: category + 1 for category in classes.STUFF}
    for number, thing in enumerate(scene.things):
        raw[FIRST_THING + number] = (thing.look.category + 1) * 100 + number
    segments = {}
    for value, code in raw.items():
        segment = ids.id_of(code)
        colors[value] = segment & 255, segment >> 8 & 255, segment >> 16
        segments[value] = {"id": segment, "category_id": ids.category_of(code).id}
    return colors, segments


def _paint(scene: Scene, frame: int) -> tuple[Image, Plane]:
    """Image and label plane, unspoilt."""
    settings = scene.settings
    size = settings.width, settings.height
    matrix = view(scene.camera, frame, *size, settings.unit)
    placed = _placed(matrix, scene.backdrop.origin, settings.unit)
    image = _warp(scene.backdrop.image, placed, size, cv2.BORDER_REFLECT)
    labels = _warp(scene.backdrop.labels, placed, size, cv2.BORDER_REFLECT, cv2.INTER_NEAREST)
    for number, thing in enumerate(scene.things):
        _paint_thing(image, labels, FIRST_THING + number, thing, frame, matrix)
    if scene.screen is not None:
        placed = _placed(matrix, scene.screen.origin, settings.unit)
        alpha = _warp(scene.screen.alpha, placed, size, cv2.BORDER_CONSTANT)
        colors = _warp(scene.screen.image, placed, size, cv2.BORDER_REPLICATE)
        _cover(image, labels, colors, alpha, scene.screen.category)
    return image, labels


def _warp(
    plane: Plane, matrix: Matrix, size: tuple[int, int], border: int, how: int = cv2.INTER_LINEAR
) -> Plane:
    return np.asarray(cv2.warpAffine(plane, matrix, size, flags=how, borderMode=border), np.uint8)


def _placed(matrix: Matrix, origin: tuple[float, float], unit: float) -> Matrix:
    """From the pixels of a painted plane, whose first is at `origin` (units), to those of the frame."""
    linear = matrix[:, :2]
    return np.column_stack([linear / unit, linear @ np.array(origin) + matrix[:, 2]])


def _paint_thing(image: Image, labels: Plane, value: int, thing: Thing, frame: int, matrix: Matrix) -> None:
    """Paint a thing over image and labels, in place."""
    angle, half = thing.angle[frame], thing.half
    cos, sin = np.cos(angle) * half, np.sin(angle) * half
    local = np.array([[cos * thing.facing, -sin], [sin * thing.facing, cos]])
    linear = matrix[:, :2] @ local
    offset = matrix[:, :2] @ thing.path[frame] + matrix[:, 2]
    parts = [(part.points @ linear.T + offset, part.color) for part in pose(thing.look, thing.phase[frame])]
    every = np.concatenate([points for points, _ in parts])
    low = np.maximum(np.floor(every.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(every.max(axis=0)).astype(int) + 2, (labels.shape[1], labels.shape[0]))
    if (high <= low).any():
        return
    moved = [(points - low, color) for points, color in parts]
    colors, alpha = _paint_parts(thing, moved, linear, offset - low, (high - low).tolist())
    window = slice(low[1], high[1]), slice(low[0], high[0])
    _cover(image[window], labels[window], colors, alpha, value)


def _paint_parts(
    thing: Thing,
    parts: list[tuple[Points, Color | None]],
    linear: npt.NDArray[np.float64],
    middle: npt.NDArray[np.float64],
    size: list[int],
) -> tuple[Image, Plane]:
    """Colours and coverage (0..255) of a thing in a window of `size` (width, height) pixels.

    `parts` are in pixels of the window; `linear` (2, 2) and `middle` (2,) take local coordinates there.
    """
    scale = 2 * REACH / SIDE
    texture = np.column_stack([linear * scale, middle - linear @ np.array([REACH, REACH])])
    textured = _warp(thing.look.texture, texture, (size[0], size[1]), cv2.BORDER_REPLICATE)
    colors, alpha = textured.copy(), np.zeros(textured.shape[:2], np.uint8)
    for points, color in parts:
        polygon = np.round(points * (1 << SHIFT)).astype(np.int32)
        cv2.fillPoly(alpha, [polygon], 255, cv2.LINE_AA, SHIFT)
        if color is not None:
            cv2.fillPoly(colors, [polygon], color, cv2.LINE_AA, SHIFT)
        else:
            inside = np.zeros_like(alpha)
            cv2.fillPoly(inside, [polygon], 255, cv2.LINE_AA, SHIFT)
            colors[inside > 127] = textured[inside > 127]
    return colors, alpha


def _cover(image: Image, labels: Plane, colors: Image, alpha: Plane, value: int) -> None:
    """Paint over with a darker rim, in place."""
    left, top, width, height = cv2.boundingRect(alpha)
    window = slice(top, top + height), slice(left, left + width)
    rim = cv2.erode(alpha, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)[window]
    opaque = alpha[window][..., None].astype(np.float32) / 255
    shade = 0.6 + 0.4 * rim[..., None].astype(np.float32) / 255
    image[window] = (image[window] * (1 - opaque) + colors[window] * (shade * opaque)).astype(np.uint8)
    labels[alpha > 127] = value
