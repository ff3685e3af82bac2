"""Cut labelled people out of the training clips, as short RGBA sequences, and vehicles that are seen whole.

    python cutouts.py DATA      -> DATA/cutouts/person_<clip>_<track>_<first frame>.npz, car_<clip>_<number>.npz

A file holds "000", "001", ...: uint8 BGRA (h, w, 4), and "feet": float32 (T, 2), the middle of the lower edge
in pixels of the frame. A run of frames is taken where the person is whole: away from the picture's border and
from everybody else, of steady size.
"""

from __future__ import annotations

import sys
from pathlib import Path

import backgrounds
import cv2
import numpy as np
from clips import CLIPS, Clip, frame_path

SHORTEST, LONGEST = 6, 40  # frames of a run
STEADY = 0.3  # of the height: how much it may change from frame to frame
BORDER, APART = 3, 4  # pixels
SMALLEST = 900  # pixels of a mask
FEATHER = 0.7  # pixels, sigma of the mask's edge
OTHER = 255


def whole(people: np.ndarray, track: int) -> tuple[int, int, int, int] | None:
    """The person's box x0, y0, x1, y1 if nothing touches or cuts the person."""
    mask = (people == track).astype(np.uint8)
    if mask.sum() < SMALLEST:
        return None
    x, y, w, h = cv2.boundingRect(mask)
    height, width = mask.shape
    if x < BORDER or y < BORDER or x + w > width - BORDER or y + h > height - BORDER or h < 1.2 * w:
        return None
    near = cv2.dilate(mask, np.ones((2 * APART + 1, 2 * APART + 1), np.uint8)) > 0
    touching = (people[near] != 0) & (people[near] != track)
    return None if touching.any() else (x, y, x + w, y + h)


def cut(image: np.ndarray, people: np.ndarray, track: int, box: tuple[int, int, int, int]) -> np.ndarray:
    x0, y0, x1, y1 = box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2
    alpha = (people[y0:y1, x0:x1] == track).astype(np.float32)
    alpha = cv2.GaussianBlur(alpha, (0, 0), FEATHER)
    return np.dstack([image[y0:y1, x0:x1], np.round(alpha * 255).astype(np.uint8)])


def runs(root: Path, clip: Clip):
    """Yield (track, first frame, [(frame, box), ...])."""
    open_runs: dict[int, list[tuple[int, tuple[int, int, int, int]]]] = {}
    first, end = clip.train or (0, 0)
    for frame in range(first, end, clip.step):
        path = root / "people" / clip.name / f"{frame:05d}.png"
        people = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.exists() else None
        found = {}
        if people is not None:
            for track in np.unique(people[(people > 0) & (people < OTHER)]).tolist():
                box = whole(people, track)
                if box:
                    found[track] = box
        for track in list(open_runs):
            last = open_runs[track][-1][1]
            box = found.get(track)
            steady = box and abs((box[3] - box[1]) - (last[3] - last[1])) < STEADY * (last[3] - last[1])
            if not steady or len(open_runs[track]) == LONGEST:
                yield track, open_runs.pop(track)
        for track, box in found.items():
            open_runs.setdefault(track, []).append((frame, box))
    yield from open_runs.items()


def vehicles(root: Path, out: Path) -> None:
    """Parked cars of the empty streets: sequences of one frame."""
    for name in backgrounds.STREETS:
        image, ids, names = backgrounds.load(root, name)
        for number, segment in enumerate(names):
            x, y, w, h = cv2.boundingRect((ids == number + 1).astype(np.uint8))
            inside = (
                x >= BORDER
                and y >= BORDER
                and x + w + BORDER <= ids.shape[1]
                and y + h + BORDER <= ids.shape[0]
            )
            if segment.startswith("car#") and inside:
                picture = cut(image, ids, number + 1, (x, y, x + w, y + h))
                feet = np.float32([[x + w / 2, y + h]])
                np.savez(out / f"car_{name}_{segment[4:]}.npz", feet=feet, **{"000": picture})


def main(root: Path) -> None:
    out = root / "cutouts"
    out.mkdir(exist_ok=True)
    vehicles(root, out)
    for clip in CLIPS.values():
        count = 0
        for track, run in runs(root, clip):
            if len(run) < SHORTEST:
                continue
            frames = {}
            for number, (frame, box) in enumerate(run):
                people = cv2.imread(
                    str(root / "people" / clip.name / f"{frame:05d}.png"), cv2.IMREAD_GRAYSCALE
                )
                frames[f"{number:03d}"] = cut(
                    cv2.imread(str(frame_path(root, clip.name, frame))), people, track, box
                )
            feet = np.float32([[(b[0] + b[2]) / 2, b[3]] for _, b in run])
            np.savez(out / f"person_{clip.name}_{track}_{run[0][0]:05d}.npz", feet=feet, **frames)
            count += 1
        print(clip.name, count, flush=True)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main(Path(sys.argv[1]))
