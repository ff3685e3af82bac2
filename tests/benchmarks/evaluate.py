"""How long `dvis evaluate` takes: 20 videos x 20 frames x 720x1280, VPQ (5 windows) and STQ together.

    python tests/benchmarks/evaluate.py [--workers 2] [--keep FOLDER]

Makes a dataset and a prediction of moving ellipses over stuff (made once with --keep), scores it, and prints
the time from the first read to the last number and each worker's largest resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dvis_cli.challenge.scoring import evaluate
from dvis_cli.challenge.vipseg import frame_annotation
from dvis_cli.datasets.categories import vipseg_categories
from dvis_cli.datasets.vipseg import VIPSeg
from dvis_cli.writers.panoptic_png import write_panoptic_png

VIDEOS, FRAMES, HEIGHT, WIDTH = 20, 20, 720, 1280
THINGS, STUFF = 14, 6


def make_dataset(root: Path) -> None:
    """Ground truth in `root`, a prediction (each shape a few pixels off) in `root/run`."""
    categories = sorted(vipseg_categories(), key=lambda category: category.id)
    truth: list[dict[str, Any]] = []
    guess: list[dict[str, Any]] = []
    videos: list[dict[str, Any]] = []
    for number in range(VIDEOS):
        name = f"{number:03d}_bench"
        for folder in (root / "panomasksRGB" / name, root / "run" / "pan_pred" / name):
            folder.mkdir(parents=True, exist_ok=True)
        entries = make_video(root, name, np.random.default_rng(number))
        truth.append({"video_id": name, "annotations": entries[0]})
        guess.append({"video_id": name, "annotations": entries[1]})
        images = [
            {"id": e["image_id"], "width": WIDTH, "height": HEIGHT, "file_name": e["file_name"]}
            for e in entries[0]
        ]
        videos.append({"video_id": name, "images": images})
    listed = [
        {"id": c.id, "name": c.name, "isthing": int(c.isthing), "color": list(c.color)} for c in categories
    ]
    document = {"videos": videos, "annotations": truth, "categories": listed}
    (root / "panoptic_gt_VIPSeg_val.json").write_text(json.dumps(document))
    (root / "run" / "pred.json").write_text(json.dumps({"annotations": guess}))


def make_video(
    root: Path, name: str, random: np.random.Generator
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write one video's PNGs; returns its entries in the two jsons."""
    categories = vipseg_categories()
    things = random.choice(58, THINGS) + 0
    stuff = random.choice(np.arange(58, 124), STUFF, replace=False)
    classes = {i + 1: categories[int(c)].id for i, c in enumerate([*stuff, *things])}
    ids = {number: int(random.integers(2**10, 2**24)) for number in classes}
    lookup = np.array([0, *ids.values()], dtype=np.int64)
    shapes = random.uniform(0.05, 0.95, (THINGS, 6))
    speeds = random.normal(0, 8, (THINGS, 2))
    entries: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for frame in range(FRAMES):
        stem = f"{frame:08d}"
        for side, folder in enumerate((root / "panomasksRGB", root / "run" / "pan_pred")):
            drawn = draw(shapes, speeds * frame + 4 * side, 3 * side)
            path = folder / name / f"{stem}.png"
            write_panoptic_png(path, lookup[drawn])
            categories_by_id = {ids[number]: category for number, category in classes.items()}
            entry = frame_annotation(stem, lookup[drawn], categories_by_id)
            entries[side].append({"image_id": stem, **entry})
    return entries


def draw(shapes: np.ndarray, shifts: np.ndarray, void: int) -> np.ndarray:
    """(HEIGHT, WIDTH) numbers: stuff 1..6 in columns with wavy edges, things 7.. as ellipses, a void border."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    drawn = (1 + (x + 12 * np.sin(y / 17 + void)) * STUFF / (WIDTH + 24)).astype(np.int64).clip(1, STUFF)
    for number, (shape, shift) in enumerate(zip(shapes, shifts, strict=True)):
        centre = shape[0] * WIDTH + shift[0], shape[1] * HEIGHT + shift[1]
        radius = 30 + 150 * shape[2], 30 + 120 * shape[3]
        wave = 1 + 0.15 * np.sin(np.arctan2(y - centre[1], x - centre[0]) * (3 + int(8 * shape[4])))
        inside = ((x - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2 < wave
        drawn[inside] = STUFF + 1 + number
    drawn[: 4 + void] = 0
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="make the data here, or use what is here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.keep or Path(temporary)
        if not (root / "run" / "pred.json").is_file():
            make_dataset(root)
        started = time.perf_counter()
        result = evaluate(root / "run", VIPSeg.open(root, "val"), workers=options.workers)
        seconds = time.perf_counter() - started
    who = resource.RUSAGE_CHILDREN if options.workers > 1 else resource.RUSAGE_SELF
    memory = resource.getrusage(who).ru_maxrss / 1024
    print(f"{result.videos} videos, {result.frames} frames of {WIDTH}x{HEIGHT}, {options.workers} workers")
    print(f"VPQ {result.results['vpq'].mean():.3f}  STQ {result.results['stq'].stq:.5f}")
    print(f"{seconds:.1f} s, largest worker {memory:.0f} MB")


if __name__ == "__main__":
    main()
