"""The labelled clips as a data set in VIPSeg's layout, train and val.

    python dataset.py DATA OUT      needs frames (frames.py) and people (walkers.py, people.py)

Polygons give what stands still, people/<clip>/ who moves. What moved without a known owner and what a label
file calls unsure is void.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from clips import CLIPS, Clip, frame_path
from layout import NAMES, Split, category_of
from polygons import draw
from scene import polygons_of

LABELS = Path(__file__).parent / "labels"
PERSON = NAMES["person"].id
FIRST_PERSON = 1000  # segment id of track 0
OTHER = 255  # people/: moved, owner unknown
PART = 100  # frames of a training video at most


class Labels:
    """Per-frame ids of one clip."""

    def __init__(self, root: Path, clip: Clip):
        self.root, self.clip = root, clip
        self.polygons = polygons_of(root, clip)
        fix = LABELS / f"{clip.name}_tracks.json"
        self.unsure = json.loads(fix.read_text()).get("unsure", []) if fix.exists() else []

    def frame(self, index: int) -> tuple[np.ndarray, dict[int, int]]:
        """ids int32 (H, W) and the category of each id."""
        ids, names = draw(self.polygons(index), self.clip.width, self.clip.height)
        ids = ids.astype(np.int32)
        segments = {number + 1: category_of(name) for number, name in enumerate(names)}
        path = self.root / "people" / self.clip.name / f"{index:05d}.png"
        if path.exists():
            people = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.int32)
            for track, first, last in self.unsure:
                if first <= index <= last:
                    people[people == track] = OTHER
            moved = people > 0
            ids[moved] = np.where(people == OTHER, 0, FIRST_PERSON + people)[moved]
            segments.update({FIRST_PERSON + int(k): PERSON for k in np.unique(people) if 0 < k < OTHER})
        return ids, segments


def write(split: Split, root: Path, clip: Clip, span: tuple[int, int], part: int) -> None:
    labels = Labels(root, clip)
    frames = range(*span, clip.step)
    for start in range(0, len(frames), part):
        split.begin(f"{clip.name}_{frames[start]:03d}")
        for index in frames[start : start + part]:
            image = cv2.imread(str(frame_path(root, clip.name, index)))
            split.add(f"{index:05d}", image, *labels.frame(index))
    print(clip.name, split.name, len(frames), flush=True)


def main(root: Path, out: Path) -> None:
    train, val = Split(out, "train"), Split(out, "val")
    for clip in CLIPS.values():
        if clip.train:
            write(train, root, clip, clip.train, PART)
        if clip.val:
            write(val, root, clip, clip.val, 10**6)
    train.close()
    val.close()


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
