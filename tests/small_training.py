"""A data set and a recipe small enough to train in a test: a disc and a square drift over grass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

CATEGORIES = [
    {"id": 7, "name": "disc", "isthing": 1, "color": [200, 40, 40]},
    {"id": 3, "name": "square", "isthing": 1, "color": [40, 40, 200]},
    {"id": 5, "name": "lawn", "isthing": 0, "color": [40, 160, 40]},
]
HEIGHT, WIDTH, FRAMES = 64, 96, 8
MODEL = {
    "mode": "offline",
    "backbone": {"kind": "resnet", "blocks": [1, 1, 1, 1], "stem_channels": 16, "bottleneck_channels": 8},
    "pixel_decoder": {"channels": 32, "mask_channels": 32, "layers": 1, "heads": 4, "ffn": 64},
    "query_decoder": {"channels": 32, "queries": 8, "layers": 2, "heads": 4, "ffn": 64},
    "tracker": {"layers": 2, "heads": 4, "ffn": 64, "matching": "direct"},
    "refiner": {"layers": 2, "heads": 4, "ffn": 64},
    "input": {"short_side": 64},
    "decision": {"score_threshold": 0.4},
}


def make_dataset(root: Path, videos: int = 3, split: str = "train", seed: int = 0) -> Path:
    """VIPSeg's layout: `videos` of FRAMES frames."""
    rng = np.random.default_rng(seed)
    listed, annotated = [], []
    for number in range(videos):
        name = f"{split}{number}"
        starts, speeds = rng.uniform(15, 45, (2, 2)), rng.uniform(-2, 2, (2, 2))
        frames = [_frame(starts + speeds * t, rng) for t in range(FRAMES)]
        infos = [_write(root, name, f"{t:05d}", *frame) for t, frame in enumerate(frames)]
        listed.append({"video_id": name, "images": [image for image, _ in infos]})
        annotated.append({"video_id": name, "annotations": [truth for _, truth in infos]})
    document = {"videos": listed, "annotations": annotated, "categories": CATEGORIES}
    (root / f"panoptic_gt_VIPSeg_{split}.json").write_text(json.dumps(document))
    return root


def _frame(centers: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ids = np.full((HEIGHT, WIDTH), 30)
    ids[(y - centers[0, 0]) ** 2 + (x - centers[0, 1]) ** 2 < 12**2] = 10
    ids[(abs(y - centers[1, 0]) < 9) & (abs(x - centers[1, 1]) < 11)] = 20
    colors = np.zeros((31, 3))
    colors[[10, 20, 30]] = [c["color"] for c in CATEGORIES]
    rgb = colors[ids] + rng.normal(0, 8, (HEIGHT, WIDTH, 1))
    return rgb.clip(0, 255).astype(np.uint8), ids


def _write(root: Path, video: str, stem: str, rgb: np.ndarray, ids: np.ndarray) -> tuple[dict, dict]:
    images, masks = root / "images" / video, root / "panomasksRGB" / video
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(images / f"{stem}.jpg", quality=95)
    packed = np.stack([ids % 256, ids // 256, ids * 0], -1).astype(np.uint8)
    Image.fromarray(packed).save(masks / f"{stem}.png")
    classes = {10: 7, 20: 3, 30: 5}
    segments = [
        {"id": int(n), "category_id": classes[int(n)], "iscrowd": 0, "area": int((ids == n).sum())}
        for n in np.unique(ids)
    ]
    image = {"id": stem, "width": WIDTH, "height": HEIGHT, "file_name": f"{stem}.jpg"}
    return image, {"image_id": stem, "file_name": f"{stem}.png", "segments_info": segments}


def write_recipe(path: Path, **common: object) -> Path:
    """A recipe of seconds."""
    document = {
        "model": MODEL,
        "common": {
            "iterations": 6,
            "batch": 2,
            "clip": {"short_sides": [64], "crop": None},
            "points": {"count": 64},
            "checkpoint_every": 2,
            "validate_every": 0,
            **common,
        },
        "tracker": {"clip": {"frames": 3}},
        "refiner": {"clip": {"frames": 4}},
    }
    path.write_text(yaml.safe_dump(document))
    return path
