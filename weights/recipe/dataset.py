"""Ids of the hand-labelled clips' frames; needs frames (frames.py) and people (walkers.py, people.py).

Polygons give what stands still, people/<clip>/ who moves. What moved without a known owner and what a label
file calls unsure is void.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from clips import Clip
from layout import NAMES, category_of
from polygons import draw
from scene import polygons_of

LABELS = Path(__file__).parent / "labels"
PERSON = NAMES["person"].id
FIRST_PERSON = 1000  # segment id of track 0
OTHER = 255  # people/: moved, owner unknown


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
        segments = {}
        for number, name in enumerate(names):
            if name.partition("#")[0] in NAMES:
                segments[number + 1] = category_of(name)
            else:
                ids[ids == number + 1] = 0  # a class that the model does not have
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
