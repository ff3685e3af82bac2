"""What differs from the background of a static camera, its shadows taken off."""

from __future__ import annotations

import cv2
import numpy as np

DIFFERENCE = 9.5  # Lab units (L 0..100), after a slight blur
CHROMA_WEIGHT = 1.5
SHADOW_DARKER = (0.55, 0.98)  # lightness over the background's
SHADOW_CHROMA = 6.0  # Lab units


def lab(bgr: np.ndarray) -> np.ndarray:
    """uint8 BGR (H, W, 3) -> float32 Lab, L 0..100."""
    return cv2.cvtColor(bgr.astype(np.float32) / 255, cv2.COLOR_BGR2Lab)


def foreground(frame: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two Lab images -> bool (H, W) changed, bool (H, W) changed only as a shadow changes it."""
    delta = cv2.GaussianBlur(frame - background, (0, 0), 0.8)
    chroma = np.hypot(delta[..., 1], delta[..., 2])
    distance = np.sqrt(delta[..., 0] ** 2 + CHROMA_WEIGHT * chroma**2)
    changed = (distance > DIFFERENCE).astype(np.uint8)
    changed = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    changed = cv2.morphologyEx(changed, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)) > 0
    ratio = (background[..., 0] + delta[..., 0]) / np.maximum(background[..., 0], 1)
    low, high = SHADOW_DARKER
    return changed, changed & (ratio > low) & (ratio < high) & (chroma < SHADOW_CHROMA)
