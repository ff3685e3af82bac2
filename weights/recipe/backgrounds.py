"""Backgrounds with labels that people are pasted over: photos, and the street without its people."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from clips import CLIPS
from polygons import draw

LABELS = Path(__file__).parent / "labels"
WALLPAPERS = "lomiri-wallpapers-16.04/usr/share/backgrounds"
SAMPLES = "opencv-doc/usr/share/doc/opencv-doc/examples/data"
PHOTOS = {
    "aitzgorri": f"{WALLPAPERS}/aitzgorri_by_Aitzol_Berasategi.jpg",
    "picosdeeuropa": f"{WALLPAPERS}/picosdeeuropa_by_Aitzol_Berasategi.jpg",
    "sunset": f"{WALLPAPERS}/sunset_by_Aitzol_Berasategi.jpg",
    "building": f"{SAMPLES}/building.jpg",
    "home": f"{SAMPLES}/home.jpg",
    "leuven": f"{SAMPLES}/leuvenA.jpg",
}
STREETS = ("vtest",)  # clips of PHOTOS' kind: their median is an empty street


def load(root: Path, name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """uint8 BGR (H, W, 3), ids uint16 (H, W) and the names of ids 1, 2, ..."""
    labels = json.loads((LABELS / f"{name}.json").read_text())
    size = tuple(labels["size"])
    if name in STREETS:
        image = cv2.imread(str(root / "median" / f"{name}.png"))
        size = (CLIPS[name].width, CLIPS[name].height)
    else:
        image = cv2.imread(str(root / "raw" / PHOTOS[name]))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    ids, names = draw(labels, *size)
    return image, ids, names
