"""Writing a data set in VIPSeg's layout, frame by frame."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from dvis_cli.datasets.categories import vipseg_categories

# The classes that the material shows; the bundled model's class list.
_LISTED = yaml.safe_load((Path(__file__).parent / "labels" / "classes.yaml").read_text())
COVERED = frozenset(_LISTED["things"]) | frozenset(_LISTED["stuff"])
CATEGORIES = tuple(category for category in vipseg_categories() if category.name in COVERED)
NAMES = {category.name: category for category in CATEGORIES}


def category_of(segment: str) -> int:
    """Category id of a segment's name, "car#1" or "road"."""
    name = segment.partition("#")[0]
    if name not in NAMES:
        raise SystemExit(f"'{name}' is no class of COVERED")
    if ("#" in segment) != bool(NAMES[name].isthing):
        raise SystemExit(f"'{segment}': a thing has an instance, stuff has none")
    return NAMES[name].id


class Split:
    """One split: add frames video by video, then close it."""

    def __init__(self, root: Path, name: str):
        self.root, self.name = root, name
        self.videos: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def begin(self, video_id: str) -> None:
        self.video_id = video_id
        self.videos.append({"video_id": video_id, "images": []})
        self.annotations.append({"video_id": video_id, "annotations": []})
        for folder in ("images", "panomasksRGB"):
            (self.root / folder / video_id).mkdir(parents=True, exist_ok=True)

    def add(self, stem: str, image: np.ndarray, ids: np.ndarray, segments: Mapping[int, int]) -> None:
        """image uint8 BGR (H, W, 3); ids (H, W), 0 = void; segments: id -> category id, may name absent ids."""
        height, width = ids.shape
        rgb = np.stack([ids & 255, (ids >> 8) & 255, (ids >> 16) & 255], -1).astype(np.uint8)
        cv2.imwrite(
            str(self.root / "images" / self.video_id / f"{stem}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 93]
        )
        cv2.imwrite(str(self.root / "panomasksRGB" / self.video_id / f"{stem}.png"), rgb[..., ::-1])
        values, areas = np.unique(ids[ids > 0], return_counts=True)
        info = [
            {"id": int(v), "category_id": segments[int(v)], "iscrowd": 0, "area": int(a)}
            for v, a in zip(values, areas, strict=True)
        ]
        self.videos[-1]["images"].append(
            {"id": stem, "width": width, "height": height, "file_name": f"{stem}.jpg"}
        )
        self.annotations[-1]["annotations"].append(
            {"image_id": stem, "file_name": f"{stem}.png", "segments_info": info}
        )

    def close(self) -> None:
        categories = [
            {"id": c.id, "name": c.name, "isthing": int(c.isthing), "color": list(c.color)}
            for c in CATEGORIES
        ]
        document = {"videos": self.videos, "annotations": self.annotations, "categories": categories}
        path = self.root / f"panoptic_gt_VIPSeg_{self.name}.json"
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(document))
        beside.replace(path)
