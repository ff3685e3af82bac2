"""Hand-drawn labels: polygons painted one over the other.

A label file: {"size": [width, height], "polygons": [[category, x0, y0, x1, y1, ...], ...]}. Later polygons
cover earlier ones. "category" is a VIPSeg name or "void"; a thing's name carries an instance, "car#1", and
polygons with the same name are one segment.
"""

from __future__ import annotations

import cv2
import numpy as np

COLOURS = [
    tuple(int(v) for v in cv2.cvtColor(np.uint8([[[h, 200, 255]]]), cv2.COLOR_HSV2BGR)[0, 0])
    for h in (np.arange(24) * 67) % 180
]
SHIFT = 4  # polygons keep fractions of a pixel: fixed point for cv2.fillPoly


def draw(labels: dict, width: int, height: int) -> tuple[np.ndarray, list[str]]:
    """Paint at width x height -> ids uint16 (height, width), 0 = void, and the names of ids 1, 2, ..."""
    scale = np.array([width / labels["size"][0], height / labels["size"][1]])
    names: list[str] = []
    ids = np.zeros((height, width), np.uint16)
    for name, *numbers in labels["polygons"]:
        if name != "void" and name not in names:
            names.append(name)
        value = 0 if name == "void" else names.index(name) + 1
        points = np.array(numbers, float).reshape(-1, 2) * scale
        cv2.fillPoly(ids, [np.round((points - 0.5) * (1 << SHIFT)).astype(np.int32)], value, shift=SHIFT)
    return ids, names
