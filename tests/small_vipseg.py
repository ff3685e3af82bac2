"""A dataset in VIPSeg's layout, small enough to make in every test, and predictions for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from dvis_cli.challenge.vipseg import VIPSEG
from dvis_cli.cli import dataset, export
from dvis_cli.cli.evaluate import evaluate
from dvis_cli.cli.validate import validate
from dvis_cli.datasets.categories import vipseg_by_id
from dvis_cli.datasets.vipseg import VIPSeg
from dvis_cli.structures import PanopticFrame, Segment

HEIGHT, WIDTH = 24, 32
CLASSES = {255: 66, 700: 28, 90000: 60, 90001: 60, 123456: 48}  # segment id -> category id
NAMES = ("12_first", "7_second")

commands = typer.Typer()
commands.command("evaluate")(evaluate)
commands.command("validate")(validate)
commands.add_typer(dataset.app, name="dataset")
commands.add_typer(export.app, name="export")


def run(*arguments: str | Path) -> Result:
    """Call a command; failures that the real entry point prints are `result.exception`."""
    return CliRunner().invoke(commands, [str(argument) for argument in arguments])


def id_map(frame: int, shift: int = 0) -> np.ndarray:
    """(HEIGHT, WIDTH): tree above sky, a person and a car that move, a person that stays, a void border."""
    ids = np.full((HEIGHT, WIDTH), 255, dtype=np.int64)
    ids[HEIGHT // 2 :] = 700
    ids[4:10, 2 + frame + shift : 8 + frame + shift] = 90000
    ids[14:20, 20:27] = 90001
    ids[5:9, 15 - frame + shift : 20 - frame + shift] = 123456
    ids[:, 0] = 0
    return ids


def save_ids(path: Path, ids: np.ndarray) -> None:
    """An id PNG, written independently of the package."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(path)


def listed(ids: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"id": n, "category_id": c, "iscrowd": 0, "area": int((ids == n).sum())}
        for n, c in CLASSES.items()
        if (ids == n).any()
    ]


def make_dataset(root: Path, frames: int = 3, split: str = "val") -> VIPSeg:
    """Write images, masks and the split's json."""
    videos, annotations = [], []
    for name in NAMES:
        images, truths = [], []
        for frame in range(frames):
            stem, ids = f"{frame:08d}", id_map(frame)
            save_ids(root / "panomasksRGB" / name / f"{stem}.png", ids)
            folder = root / "images" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((ids % 251).astype(np.uint8)).convert("RGB").save(folder / f"{stem}.jpg")
            images.append({"id": stem, "width": WIDTH, "height": HEIGHT, "file_name": f"{stem}.png"})
            truths.append({"image_id": stem, "file_name": f"{stem}.png", "segments_info": listed(ids)})
        videos.append({"video_id": name, "images": images})
        annotations.append({"video_id": name, "annotations": truths})
    categories = [
        {"id": c.id, "name": c.name, "isthing": int(c.isthing), "color": list(c.color)}
        for c in vipseg_by_id().values()
    ]
    document = {"videos": videos, "annotations": annotations, "categories": categories}
    (root / f"panoptic_gt_VIPSeg_{split}.json").write_text(json.dumps(document))
    return VIPSeg.open(root, split)


def make_run(folder: Path, dataset: VIPSeg, shift: int = 0) -> Path:
    """Predictions written by the package's own writer: the truth, its moving objects `shift` pixels off."""
    numbers = {number: position + 1 for position, number in enumerate(CLASSES)}
    segments = [Segment(numbers[n], vipseg_by_id()[c], 0.9) for n, c in CLASSES.items()]
    for video in dataset.videos:
        with VIPSEG.writer(folder, video.video_id) as writer:
            for index, frame in enumerate(video.frames):
                ids = np.vectorize({0: 0, **numbers}.get)(id_map(index, shift)).astype(np.int32)
                rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
                writer.add(PanopticFrame(index, index / 25, rgb, ids, name=frame.stem))
            writer.finish(segments)
    VIPSEG.complete(folder, [video.video_id for video in dataset.videos])
    return folder
