"""Foreground masks of the people in the pose2sim clips: ISNet on a crop around each person.

    python follow.py DATA [CLIP | CLIP:PERSON ...]
        -> DATA/foreground/<clip>/<person>/<00000>.png, uint8, 255 = foreground

Boxes are written by hand (labels/people_boxes.json: clip -> person -> frame -> x0, y0, x1, y1, working size)
and interpolated. Where a person has a box for the first frame only, each next crop is the bounding box of the
last mask. Masks that are there already are kept.
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
PAD = 0.10  # of the box's larger side
NET_SIZE = 640
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


def interpolated(given: dict[str, list[float]], index: int) -> np.ndarray:
    frames = sorted(int(name) for name in given)
    table = np.array([given[str(f)] for f in frames], float)
    return np.array([np.interp(index, frames, table[:, k]) for k in range(table.shape[1])])


def follow(root: Path, clip: Clip, person: str, given: dict[str, list[float]], net: ISNet) -> None:
    out = root / "foreground" / clip.name / person
    out.mkdir(parents=True, exist_ok=True)
    box = interpolated(given, 0)
    for index, image in decode(root, clip):
        path = out / f"{index:05d}.png"
        if index % clip.step:
            continue
        if path.exists():
            mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        else:
            if len(given) > 1:
                box = interpolated(given, index)
            mask = foreground_in(image, padded(box, clip.width, clip.height), clip, net)
            cv2.imwrite(str(path), mask)
        box = next_box(mask, box)


def foreground_in(image: np.ndarray, box: np.ndarray, clip: Clip, net: ISNet) -> np.ndarray:
    """The net's mask of ``box`` (working size) of an image in the size of its file -> uint8, working size."""
    scale = np.array([image.shape[1] / clip.width, image.shape[0] / clip.height] * 2)
    x0, y0, x1, y1 = np.round(box * scale).astype(int)
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[y0:y1, x0:x1] = np.round(net(image[y0:y1, x0:x1]) * 255)
    return cv2.resize(mask, (clip.width, clip.height), interpolation=cv2.INTER_AREA)


def main(root: Path, names: list[str]) -> None:
    net = ISNet(root / "isnet.onnx", NET_SIZE)
    people = json.loads(BOXES.read_text())
    for name in names or people:
        clip, _, person = name.partition(":")
        for one in [person] if person else people[clip]:
            follow(root, CLIPS[clip], one, people[clip][one], net)
            print(clip, one, flush=True)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
