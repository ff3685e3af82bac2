"""Foreground masks of the people in the pose2sim clips: ISNet on a crop that follows each person.

    python follow.py DATA [CLIP ...]     -> DATA/foreground/<clip>/<person>/<00000>.png, uint8, 255 = foreground

A person starts at a box written by hand (labels/people_boxes.json: clip -> person -> frame -> x0, y0, x1, y1, working
size); each next crop is the bounding box of the last mask, padded. A box given for a later frame replaces the crop there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from clips import CLIPS, Clip
from frames import decode
from isnet import ISNet

BOXES = Path(__file__).parent / "labels" / "people_boxes.json"
PAD = 0.14  # of the box's larger side
THRESHOLD = 128
GROWTH = 0.12  # of the box's larger side: the most that a side may move outwards from frame to frame


def padded(box: np.ndarray, width: int, height: int) -> np.ndarray:
    pad = PAD * max(box[2] - box[0], box[3] - box[1])
    grown = box + pad * np.array([-1, -1, 1, 1])
    return np.clip(grown, 0, [width, height, width, height])


def next_box(mask: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Bounding box of the parts of ``mask`` that touch the middle of ``box``, its sides not far outside of ``box``."""
    _, parts = cv2.connectedComponents((mask >= THRESHOLD).astype(np.uint8))
    x0, y0, x1, y1 = box.astype(int)
    dx, dy = (x1 - x0) // 5, (y1 - y0) // 5
    names, counts = np.unique(parts[y0 + dy : y1 - dy, x0 + dx : x1 - dx], return_counts=True)
    names = names[(names > 0) & (counts > 40)]
    ys, xs = np.where(np.isin(parts, names))
    if not len(xs):
        return box
    found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], float)
    step = GROWTH * max(x1 - x0, y1 - y0)
    low, high = box - step * np.array([1, 1, 1, 1]), box + step * np.array([1, 1, 1, 1])
    return np.clip(found, low, high)


def follow(root: Path, clip: Clip, people: dict[str, dict[str, list[float]]], net: ISNet) -> None:
    boxes: dict[str, np.ndarray] = {}
    for name in people:
        (root / "foreground" / clip.name / name).mkdir(parents=True, exist_ok=True)
    for index, image in decode(root, clip):
        if index % clip.step:
            continue
        scale = np.array([image.shape[1] / clip.width, image.shape[0] / clip.height] * 2)
        for name, given in people.items():
            if str(index) in given:
                boxes[name] = np.array(given[str(index)], float)
            crop = np.round(padded(boxes[name], clip.width, clip.height) * scale).astype(int)
            mask = np.zeros(image.shape[:2], np.uint8)
            window = (slice(crop[1], crop[3]), slice(crop[0], crop[2]))
            mask[window] = np.round(net(image[window]) * 255)
            mask = cv2.resize(mask, (clip.width, clip.height), interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(root / "foreground" / clip.name / name / f"{index:05d}.png"), mask)
            boxes[name] = next_box(mask, boxes[name])


if __name__ == "__main__":
    cv2.setNumThreads(1)
    root = Path(sys.argv[1])
    net = ISNet(root / "isnet.onnx", 640)
    people = json.loads(BOXES.read_text())
    for name in sys.argv[2:] or people:
        follow(root, CLIPS[name], people[name], net)
        print(name, flush=True)
