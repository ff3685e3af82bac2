"""One frame and its segment ids to one picture for people."""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np

from dvis_cli.structures import Segment
from dvis_cli.writers.labels import Anchors, draw_labels
from dvis_cli.writers.palette import segment_color
from dvis_cli.writers.panoptic_png import relabel

OverlayStyle = Literal["blend", "masks", "side-by-side"]
OVERLAY_STYLES: tuple[str, ...] = get_args(OverlayStyle)

# How much of a pixel is the segment's colour: objects stand out, the scene around them stays a scene.
_THING_TINT = 0.52
_STUFF_TINT = 0.33


def draw_overlay(
    rgb: np.ndarray,
    ids: np.ndarray,
    segments: dict[int, Segment],
    style: OverlayStyle = "blend",
    anchors: Anchors | None = None,
    numbered: bool = True,
    labelled: bool = True,
) -> np.ndarray:
    """Draw segments over a frame.

    Args:
        rgb: (height, width, 3) uint8; not changed.
        ids: (height, width) integer segment ids, 0 = void. Ids that `segments` does not name count as void.
        segments: the frame's segments by id.
        style: `blend` tints the frame; `masks` shows flat colours, void black; `side-by-side` puts the
            source left of the blend.
        anchors: where the last frame's labels were, updated in place; hand the same dictionary in for
            every frame of a video and labels do not jump.
        numbered: labels of things have their ids.
        labelled: write names at all.

    Returns:
        (height, width, 3) uint8 RGB, twice as wide for `side-by-side`.

    Raises:
        ValueError: an unknown style, or sizes of `rgb` and `ids` that differ.
    """
    if style not in OVERLAY_STYLES:
        raise ValueError(f"overlay style {style!r} not known; styles: {', '.join(OVERLAY_STYLES)}")
    if rgb.shape[:2] != ids.shape:
        raise ValueError(f"frame of {rgb.shape[1]}x{rgb.shape[0]} with ids of {ids.shape[1]}x{ids.shape[0]}")
    present = [segments[id] for id in sorted(segments) if id > 0]
    rows = {segment.id: row for row, segment in enumerate(present, start=1)}
    index = relabel(ids, rows, np.uint8 if len(present) < 256 else np.uint16)
    colors = np.zeros((len(present) + 1, 3), np.float32)
    colors[1:] = [segment_color(segment) for segment in present] if present else 0
    picture = _masks(index, colors) if style == "masks" else _blend(rgb, index, colors, present)
    if labelled:
        draw_labels(picture, index, present, anchors, numbered)
    return np.hstack((rgb, picture)) if style == "side-by-side" else picture


def _blend(rgb: np.ndarray, index: np.ndarray, colors: np.ndarray, present: list[Segment]) -> np.ndarray:
    tint = np.zeros((len(colors), 1), np.float32)
    tint[1:, 0] = [_THING_TINT if segment.category.isthing else _STUFF_TINT for segment in present]
    source_share = np.broadcast_to(255.0 * (1.0 - tint), colors.shape)
    kept = cv2.multiply(rgb, _paint(index, source_share), scale=1 / 255)
    picture = cv2.add(kept, _paint(index, colors * tint))
    outline = 0.35 * colors + 0.65 * 255.0
    outline[0] = 235.0
    cv2.copyTo(_paint(index, outline), _borders(index), picture)
    return picture


def _masks(index: np.ndarray, colors: np.ndarray) -> np.ndarray:
    picture = _paint(index, colors)
    # A dark line between flat colours: two classes may share one.
    cv2.copyTo(_paint(index, colors * 0.55), _borders(index), picture)
    return picture


def _paint(index: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """`colors[index]` as (height, width, 3) uint8."""
    table = np.rint(colors).astype(np.uint8)
    if index.dtype == np.uint8:  # the usual case has a fast path in OpenCV
        padded = np.zeros((256, 1, 3), np.uint8)
        padded[: len(table), 0] = table
        return cv2.applyColorMap(index, padded)
    return table[index]


def _borders(index: np.ndarray) -> np.ndarray:
    """Where segments meet: (height, width) uint8 0 or 1, a line of one pixel at 400 lines, five at 4K."""
    line = max(1, round(min(index.shape) / 400))
    kernel = np.ones((line + 1, line + 1), np.uint8)
    return (cv2.morphologyEx(index, cv2.MORPH_GRADIENT, kernel) > 0).astype(np.uint8)
