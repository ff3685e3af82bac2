"""How hard synthetic scenes are, and what they cost: `python tests/benchmarks/synthetic.py [400] [difficulty]`.

Prints averages of a video of 24 frames at 128x224, and the frames that one core paints in a second.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from itertools import combinations, pairwise

import cv2
import numpy as np

from dvis_cli.datasets.synthetic.plan import Scene, plan_scene
from dvis_cli.datasets.synthetic.rendering import FIRST_THING, number_segments, paint_video
from dvis_cli.datasets.synthetic.settings import Settings


def crossings(scene: Scene, limits: np.ndarray) -> int:
    """How often two look-alikes that are both inside come nearer than half the sum of their half extents."""
    count = 0
    for one, other in combinations(scene.things, 2):
        if one.look.category == other.look.category:
            inside = ((one.path > 0) & (one.path < limits)).all(axis=1)
            near = (np.hypot(*(one.path - other.path).T) < 0.5 * (one.half + other.half)) & inside
            count += int(near[0]) + int(np.count_nonzero(near[1:] & ~near[:-1]))
    return count


def main(videos: int, difficulty: float) -> None:
    cv2.setNumThreads(1)
    settings, total, steps = Settings(128, 224, difficulty=difficulty, seed=7), Counter[str](), []
    limits = np.array([settings.width, settings.height]) / settings.unit
    started = time.process_time()
    for index in range(videos):
        scene = plan_scene(settings, index)
        frames = [{s["id"] for s in frame.segments} for frame in paint_video(scene)]
        spoilt = sum(s.noise > 25 or s.blur > 8 or not 0.5 < s.gain < 1.5 for s in scene.weather)
        found = Counter(things=len(scene.things), crossings=crossings(scene, limits), spoilt_frames=spoilt)
        found["videos_with_bursts"] = int(spoilt > 0)
        segments = number_segments(scene)[1]
        for number, thing in enumerate(scene.things):
            segment = segments[FIRST_THING + number]["id"]
            sights = [time for time, ids in enumerate(frames) if segment in ids]
            found["frames_of_a_thing"] += len(sights)
            steps.append(np.hypot(*np.diff(thing.path, axis=0).T) * settings.unit)
            for before, after in pairwise(sights):
                way = thing.path[before + 1 : after]
                hidden = bool(((way > -0.05) & (way < limits + 0.05)).all())
                found["full_occlusions" if hidden else "returns"] += after > before + 1
        found["videos_with_full_occlusion"] = int(found["full_occlusions"] > 0)
        total += found
    spent = time.process_time() - started
    for name, count in total.items():
        print(f"{name}: {count / videos:.2f}")
    print(
        "pixels a frame, 5 25 50 75 95%:", np.percentile(np.concatenate(steps), [5, 25, 50, 75, 95]).round(1)
    )
    print(f"frames a CPU second: {videos * settings.frames / spent:.0f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400, float(sys.argv[2]) if len(sys.argv) > 2 else 0.5)
