"""Access to the recorded numbers in `tests/data/goldens`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from dvis_cli.loading import load_model
from dvis_cli.model import DvisModel
from dvis_cli.structures import Frame, Geometry
from dvis_cli.video.preprocess import preprocess

FOLDER = Path(__file__).parent / "data" / "goldens"
NETWORKS = ("swin", "r50")
GEOMETRY = Geometry(output=(90, 150), resized=(90, 150), padded=(96, 160))


@dataclass(frozen=True)
class Golden:
    """One recorded network."""

    name: str
    model: DvisModel
    stages: dict[str, np.ndarray]
    final: dict[str, np.ndarray]
    facts: dict

    @staticmethod
    @lru_cache
    def load(name: str) -> Golden:
        folder = FOLDER / name
        return Golden(
            name,
            load_model(folder / "weights_offline.safetensors", device="cpu", precision="fp32"),
            dict(np.load(folder / "stages.npz")),
            dict(np.load(folder / "final.npz")),
            json.loads((folder / "final.json").read_text()),
        )

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def frames(self) -> np.ndarray:
        """(T, 90, 150, 3) uint8 RGB."""
        return self.final["frames_source"]

    def tensors(self) -> torch.Tensor:
        """(T, 3, 96, 160), preprocessed."""
        return torch.stack([preprocess(rgb, GEOMETRY) for rgb in self.frames])

    def source(self) -> list[tuple[Frame, torch.Tensor]]:
        """What a run takes."""
        pairs = zip(self.frames, self.tensors(), strict=True)
        return [(Frame(i, i / 10, rgb), tensor) for i, (rgb, tensor) in enumerate(pairs)]


def error(ours: torch.Tensor, recorded: np.ndarray) -> float:
    """Largest difference as a share of the largest recorded value."""
    assert tuple(ours.shape) == recorded.shape
    return float(np.abs(ours.detach().numpy() - recorded).max() / np.abs(recorded).max())
