"""A synthetic dataset on disk, in VIPSeg's 720P layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dvis_cli.datasets.categories import vipseg_by_id
from dvis_cli.datasets.parallel import parallel_map
from dvis_cli.datasets.synthetic import classes
from dvis_cli.datasets.synthetic.plan import Settings, plan_scene
from dvis_cli.datasets.synthetic.rendering import paint_video
from dvis_cli.datasets.vipseg import JSON_PREFIX

LEDGER = ".synth"
QUALITY = 92  # of the JPEGs


def write_dataset(
    out: Path,
    settings: Settings,
    videos: int,
    split: str = "train",
    workers: int = 1,
    on_video: Callable[[str], None] = lambda video_id: None,
) -> None:
    """Write a split of `videos` videos."""
    write = partial(write_video, out, settings, split)
    entries = []
    for entry in parallel_map(write, range(videos), workers):
        entries.append(entry)
        on_video(entry["video_id"])
    by_id = vipseg_by_id()
    categories = [
        {"id": c, "name": by_id[c].name, "isthing": int(by_id[c].isthing), "color": list(by_id[c].color)}
        for c in sorted(classes.THINGS + classes.STUFF)
    ]
    document = {
        "videos": [{"video_id": e["video_id"], "images": e["images"]} for e in entries],
        "annotations": [{"video_id": e["video_id"], "annotations": e["annotations"]} for e in entries],
        "categories": categories,
    }
    _write(out / f"{JSON_PREFIX}{split}.json", json.dumps(document).encode())


def write_video(out: Path, settings: Settings, split: str, index: int) -> dict[str, Any]:
    """Paint and write video `index`; the result is its part of the json."""
    video_id = f"{split}_{index:05d}"
    images, masks = out / "images" / video_id, out / "panomasksRGB" / video_id
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    entry: dict[str, Any] = {"video_id": video_id, "images": [], "annotations": []}
    for number, painted in enumerate(paint_video(plan_scene(settings, index))):
        stem = f"{number:08d}"
        _write(images / f"{stem}.jpg", _encode(".jpg", painted.image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY]))
        _write(masks / f"{stem}.png", _encode(".png", painted.ids, []))
        entry["images"].append(
            {"id": stem, "width": settings.width, "height": settings.height, "file_name": f"{stem}.png"}
        )
        entry["annotations"].append(
            {"image_id": stem, "file_name": f"{stem}.png", "segments_info": painted.segments}
        )
    return entry


def _encode(suffix: str, rgb: npt.NDArray[np.uint8], options: list[int]) -> bytes:
    return cv2.imencode(suffix, rgb[..., ::-1], options)[1].tobytes()


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
