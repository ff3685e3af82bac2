"""YOLO segmentation: a text file a frame, a line an object: class, then a polygon in shares of width and height."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from dvis_cli.files import output_errors
from dvis_cli.structures import FinishedFrame

from .job import Job, Writer
from .seen import seen_in

SIMPLER_BY = (1.5, 1.0, 0.5)  # pixels that an outline may be off, tried in turn
MOST_CHANGED = 0.004  # share of the area that simplifying may change
MOST_JOINED = 0.008  # and that the lines between the parts of an object may add
INTO_PIXEL = 0.25  # of a pixel: a corner stays in its pixel whether its place is rounded or cut off


class Yolo(Writer):
    """`labels/train/000000.txt`, `images/train/` where they are wanted, `data.yaml` with the classes, from 0.

    An object in several parts is one polygon whose parts are joined by lines, as trainers join them; where the lines
    would add to its area, the parts are polygons of their own.
    """

    def __init__(self, path: Path, job: Job) -> None:
        super().__init__(path, job)
        self._labels = self.folder("labels", "train")
        self._numbers = {one.id: place for place, one in enumerate(job.categories())}
        self._split = 0

    def add(self, frame: FinishedFrame) -> None:
        height, width = self.job.size
        lines = []
        for one in seen_in(frame, self.job.chosen):
            found = polygons(one.inside)
            self._split += len(found) > 1
            for polygon in found:
                shares = (polygon + one.box[:2] + INTO_PIXEL) / (width, height)
                text = " ".join(f"{value:.6f}" for value in shares.ravel())
                lines.append(f"{self._numbers[one.segment.category.id]} {text}\n")
        name = self.job.names[frame.index]
        with output_errors(self.path):
            (self._labels / f"{name}.txt").write_text("".join(lines), "ascii")
        self.add_image(frame, "images", "train", f"{name}.jpg")

    def close(self) -> None:
        names = [f"  {place}: {json.dumps(one.name)}\n" for place, one in enumerate(self.job.categories())]
        with output_errors(self.path):
            text = "path: .\ntrain: images/train\nval: images/train\nnames:\n" + "".join(names)
            (self.path / "data.yaml").write_text(text, "utf-8")
        if self._split:
            self.job.warn(f"yolo: {self._split} masks in far parts became several polygons each")


def polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Outlines of a mask, that fill to it again: one, or one a part where lines between parts would change its area.

    Args:
        mask: (height, width) bool with at least one pixel.

    Returns:
        (n, 2) int corners (x, y) each, n >= 3, in pixels.
    """
    contours, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    area = int(mask.sum())
    outer = [place for place in range(len(contours)) if tree[0][place][3] < 0]
    parts = []
    for place in outer:
        holes = [contours[n][:, 0] for n in range(len(contours)) if tree[0][n][3] == place]
        parts.append(_simplified([contours[place][:, 0], *holes], mask.shape))
    whole = join([ring for part in parts for ring in part])
    if len(parts) == 1 or abs(int(fill(whole, mask.shape).sum()) - area) <= MOST_JOINED * area:
        return [whole]
    return [join(part) for part in parts]


def join(rings: list[np.ndarray]) -> np.ndarray:
    """One closed line through all rings: out to each from the nearest corner of those before, and back the same way."""
    line = rings[0]
    for ring in rings[1:]:
        distances = ((line[:, None] - ring[None]) ** 2).sum(-1)
        here, there = np.unravel_index(int(distances.argmin()), distances.shape)
        turned = np.roll(ring, -there, axis=0)
        line = np.concatenate((line[: here + 1], turned, turned[:1], line[here:]))
    return line if len(line) >= 3 else np.concatenate((line, np.repeat(line[-1:], 3 - len(line), axis=0)))


def fill(polygon: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(height, width) uint8, 0 or 1: the polygon as OpenCV fills it, and with it those who read the format."""
    return cv2.fillPoly(np.zeros(size, np.uint8), [polygon.astype(np.int32)], 1)


def _simplified(rings: list[np.ndarray], size: tuple[int, ...]) -> list[np.ndarray]:
    """The rings with as few corners as leave the area as it is, nearly."""
    exact = int(fill(join(rings), size).sum())
    for far in SIMPLER_BY:
        fewer = [cv2.approxPolyDP(ring, far, True)[:, 0] if len(ring) > 4 else ring for ring in rings]
        fewer = [new if len(new) >= 3 else old for new, old in zip(fewer, rings, strict=True)]
        if abs(int(fill(join(fewer), size).sum()) - exact) <= MOST_CHANGED * exact:
            return fewer
    return rings
