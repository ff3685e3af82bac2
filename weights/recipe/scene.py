"""Which polygons label a frame: one set for a static camera, interpolated sets for a slow pan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from clips import Clip

LABELS = Path(__file__).parent / "labels"
RATIO, REACH, ERROR = 0.75, 25, 2.0  # of matches: Lowe's ratio, px between the two pictures, px of the fit


def polygons_of(root: Path, clip: Clip) -> Callable[[int], dict]:
    """frame index -> label document of that frame, in the clip's working size."""
    if clip.name.startswith(("single", "multi")):
        labels = json.loads((LABELS / f"pose{clip.name[-1]}.json").read_text())
        if clip.name.startswith("multi"):
            labels = moved(labels, between(root, f"single{clip.name[-1]}", clip.name))
        return lambda index: labels
    labels = json.loads((LABELS / f"{clip.name}.json").read_text())
    if "shots" in labels:
        return lambda index: interpolated(labels, index)
    return lambda index: labels


def interpolated(labels: dict, index: int) -> dict:
    """Of "shots": [{frame: polygons, ...}, ...], the polygons of this frame, their vertices interpolated."""
    for shot in labels["shots"]:
        frames = sorted(int(name) for name in shot)
        if frames[0] <= index <= frames[-1]:
            tables = [shot[str(f)] for f in frames]
            polygons = [
                [
                    rows[0][0],
                    *(
                        np.interp(index, frames, values)
                        for values in zip(*(r[1:] for r in rows), strict=True)
                    ),
                ]
                for rows in zip(*tables, strict=True)
            ]
            return {"size": labels["size"], "polygons": polygons}
    return {"size": labels["size"], "polygons": []}


def between(root: Path, source: str, target: str) -> np.ndarray:
    """Homography (3, 3) from one camera picture to another of almost the same view, by matched features."""
    pictures = [
        cv2.imread(str(root / "median" / f"{name}.png"), cv2.IMREAD_GRAYSCALE) for name in (source, target)
    ]
    sift = cv2.SIFT_create(4000)
    (points, features), (others, described) = (sift.detectAndCompute(picture, None) for picture in pictures)
    pairs = cv2.BFMatcher().knnMatch(features, described, k=2)
    good = [first for first, second in pairs if first.distance < RATIO * second.distance]
    p = np.float32([points[match.queryIdx].pt for match in good])
    q = np.float32([others[match.trainIdx].pt for match in good])
    near = np.abs(p - q).max(1) < REACH
    matrix, _ = cv2.findHomography(p[near], q[near], cv2.RANSAC, ERROR)
    return matrix


def moved(labels: dict, matrix: np.ndarray) -> dict:
    polygons = []
    for name, *numbers in labels["polygons"]:
        points = np.float32(numbers).reshape(1, -1, 2)
        polygons.append([name, *cv2.perspectiveTransform(points, matrix).reshape(-1).tolist()])
    return {"size": labels["size"], "polygons": polygons}
