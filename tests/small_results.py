"""Result folders as `dvis segment` writes them, of films the tests encode themselves, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from media import write_video

from dvis_cli.coco_masks import encode
from dvis_cli.config import TaskName
from dvis_cli.structures import Category, FinishedFrame, InstanceFrame, PanopticFrame, Segment, VideoInfo
from dvis_cli.writers.frame_files import frame_files
from dvis_cli.writers.video_folder import Outputs, VideoFolderWriter

ROAD = Category(0, "road", False, (128, 64, 128))
PERSON = Category(7, "person", True, (220, 20, 60))
CAR = Category(9, "car, automobile", True, (0, 0, 142))
CATEGORIES = (ROAD, PERSON, CAR)
FPS = 12.5


def segments() -> dict[int, Segment]:
    """A road, two persons, a car: ids 1, 2, 3 and 300, which needs two bytes."""
    return {
        1: Segment(1, ROAD, 0.91),
        2: Segment(2, PERSON, 0.93),
        3: Segment(3, PERSON, 0.85),
        300: Segment(300, CAR, 0.97),
    }


def scene(index: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame `index`: its (height, width, 3) RGB and its ids. Person 3 is away in every third frame; void above."""
    ids = np.zeros((height, width), np.int32)
    ids[height // 4 :] = 1
    unit, step = min(height, width) / 12, index % 40
    for id, x, y, size in ((2, 0.2, 0.5, 2.2), (3, 0.55, 0.45, 1.6)):
        if id == 3 and index % 3 == 2:
            continue
        center = (round(width * x + step * unit / 8), round(height * y))
        shape = np.zeros((height, width), np.uint8)
        cv2.ellipse(shape, center, (round(size * unit), round(size * 1.5 * unit)), 20, 0, 360, 1, -1)
        ids[shape > 0] = id
    if index >= 1:  # the car comes in the second frame; it has a hole, and person 2 may cut it in two
        left = round(width * 0.3 + step * unit / 4)
        car = np.zeros((height, width), bool)
        car[height * 5 // 8 : height * 7 // 8, left : left + width // 4] = True
        car[height * 11 // 16 : height * 13 // 16, left + width // 10 : left + width // 6] = False
        ids[car & (ids == 1)] = 300
    rgb = np.full((height, width, 3), (90, 90, 90), np.uint8)
    for id, color in ((1, (70, 60, 70)), (2, (200, 40, 40)), (3, (40, 200, 40)), (300, (40, 40, 200))):
        rgb[ids == id] = color
    rgb[: height // 8, : width // 8] = (index * 5 % 250,) * 3
    return rgb, ids


def frames(
    count: int, height: int = 96, width: int = 128, task: TaskName = "panoptic"
) -> Iterator[FinishedFrame]:
    """What a run gives for the film."""
    known = segments()
    for index in range(count):
        rgb, ids = scene(index, height, width)
        if task == "semantic":
            classes = {0: 0, 1: 1, 2: 2, 3: 2, 300: 3}  # to contiguous class + 1
            ids = np.vectorize(classes.get, otypes=[np.int32])(ids)
            known = {n + 1: Segment(n + 1, category, 0.9) for n, category in enumerate(CATEGORIES)}
        present = {int(id): known[int(id)] for id in np.unique(ids) if id}
        if task == "instance":
            order = list(present)
            masks = dict(zip(order, encode(np.stack([ids == id for id in order])), strict=True))
            yield InstanceFrame(index, index / FPS, rgb, masks, present)
        else:
            yield PanopticFrame(index, index / FPS, rgb, ids, present)


def write_film(path: Path, count: int, height: int = 96, width: int = 128) -> Path:
    return write_video(path, [scene(index, height, width)[0] for index in range(count)], FPS)


def write_result(
    folder: Path,
    count: int = 6,
    height: int = 96,
    width: int = 128,
    task: TaskName = "panoptic",
    film: bool = True,
) -> Path:
    """`folder`/film.mp4 and its result `folder`/film/, whose path is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "film.mp4"
    if film:
        write_film(path, count, height, width)
    info = VideoInfo("film", str(path), width, height, FPS, count, count / FPS, False)
    run = {"mode": "online", "task": task, "model": {"name": "tiny"}}
    known = segments()
    if task == "semantic":
        known = {n + 1: Segment(n + 1, category, 0.9) for n, category in enumerate(CATEGORIES)}
    files = frame_files(task, CATEGORIES)
    with VideoFolderWriter(folder / "film", info, Outputs(overlay=None), run=run, files=files) as writer:
        for frame in frames(count, height, width, task):
            writer.add(frame)
        writer.finish([replace(one) for one in known.values()])
    return folder / "film"
