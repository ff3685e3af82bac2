"""What spoils a frame: light change, blur, noise, and short bursts in which little can be recognised."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB


@dataclass(frozen=True, slots=True)
class Spoil:
    """How one frame is spoilt."""

    gain: float  # brightness, 1 = as it is
    tint: tuple[float, float, float]  # gain of each channel
    blur: float  # standard deviation in thousandths of a unit
    noise: float  # standard deviation in grey levels
    fade: float  # 0..1: how far colours go to grey


def plan_weather(frames: int, difficulty: float, rng: np.random.Generator) -> list[Spoil]:
    """Light that changes slowly, and bursts of 1 to 3 spoilt frames in a share of the videos."""
    time = np.arange(frames)
    gain = 1 + 0.14 * np.sin(rng.uniform(0.05, 0.3) * time + rng.uniform(0, 2 * np.pi))
    warm = 0.06 * np.sin(rng.uniform(0.05, 0.2) * time + rng.uniform(0, 2 * np.pi))
    blur, noise = rng.choice([0.0, 0.0, 4.0, 6.0]), rng.uniform(2, 9)
    plan = [
        Spoil(float(gain[t]), (1 + float(warm[t]), 1.0, 1 - float(warm[t])), float(blur), float(noise), 0.0)
        for t in range(frames)
    ]
    if rng.uniform() < 0.2 + 0.6 * difficulty:
        for start in rng.integers(1, max(2, frames), size=max(1, round(frames / 9))):
            burst = _burst(difficulty, rng)
            for t in range(int(start), min(frames, int(start) + int(rng.integers(1, 4)))):
                plan[t] = burst
    return plan


def _burst(difficulty: float, rng: np.random.Generator) -> Spoil:
    plain, hard = (1.0, 1.0, 1.0), 0.5 + difficulty
    kind = int(rng.integers(4))
    if kind == 0:
        return Spoil(1.0, plain, rng.uniform(18, 30) * hard, 5.0, rng.uniform(0, 0.6))
    if kind == 1:
        return Spoil(1.0, plain, 0.0, rng.uniform(40, 65) * hard, rng.uniform(0, 0.8))
    if kind == 2:
        return Spoil(rng.uniform(0.08, 0.2), plain, 5.0, rng.uniform(6, 10) * hard, 0.2)
    return Spoil(rng.uniform(1.7, 2.3), plain, rng.uniform(6, 14) * hard, 12.0, rng.uniform(0.3, 0.9))


def noise_bank(width: int, height: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Noise of unit variance to cut frames from: (H + 64, W + 64, 3)."""
    return rng.standard_normal((height + 64, width + 64, 3), dtype=np.float32)


def spoil_frame(
    image: Image, spoil: Spoil, unit: float, bank: npt.NDArray[np.float32], rng: np.random.Generator
) -> Image:
    """Apply to a frame; its size stays."""
    sigma = spoil.blur / 1000 * unit
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigma)  # type: ignore[assignment]
    values = image.astype(np.float32)
    if spoil.fade > 0:
        values += spoil.fade * (values.mean(axis=2, keepdims=True) - values)
    values *= np.array(spoil.tint, np.float32) * np.float32(spoil.gain)
    top, left = rng.integers(0, 64, size=2)
    values += np.float32(spoil.noise) * bank[top : top + image.shape[0], left : left + image.shape[1]]
    return np.clip(values, 0, 255, out=values).astype(np.uint8)
