"""Access to the recorded numbers in `tests/data/goldens`, and to more of them where `$DVIS_GOLDENS` says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from dvis_cli.run.loading import load_model
from dvis_cli.run.model import DvisModel
from dvis_cli.run.settings import RunSettings
from dvis_cli.run.video import SegmentedVideo
from dvis_cli.structures import Frame, Geometry, VideoInfo, View
from dvis_cli.tracker.matching import match_frames
from dvis_cli.video.preprocess import preprocess
from dvis_cli.video.views import preprocess_views

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
        """`name`: a folder of `tests/data/goldens`, or "whole/<name>" for one of `$DVIS_GOLDENS`, nothing left out."""
        folder = folder_of(name)
        kind = "pad90." if name.startswith("whole/") else ""
        weights = next(folder.glob("weights*.safetensors"))
        facts = folder / (f"{kind}json" if kind else "final.json")
        return Golden(
            name,
            load_model(weights, device="cpu", precision="fp32"),
            dict(np.load(folder / f"{kind}stages.npz")),
            dict(np.load(folder / f"{kind}final.npz")),
            json.loads(facts.read_text()),
        )

    @property
    def folder(self) -> Path:
        return folder_of(self.name)

    @property
    def frames(self) -> np.ndarray:
        """(T, 90, 150, 3) uint8 RGB."""
        return self.final["frames_source"]

    def tensors(self) -> torch.Tensor:
        """(T, 3, 96, 160), preprocessed."""
        return torch.stack([preprocess(rgb, GEOMETRY) for rgb in self.frames])

    def source(
        self, views: Sequence[View] = (View(GEOMETRY),), frames: np.ndarray | None = None
    ) -> list[tuple[Frame, list[torch.Tensor]]]:
        """Frames, the recorded ones unless others are given, with the networks' inputs."""
        frames = self.frames if frames is None else frames
        return [(Frame(i, i / 10, rgb), preprocess_views(rgb, views)) for i, rgb in enumerate(frames)]

    def video(
        self,
        settings: RunSettings,
        source: Iterable[tuple[Frame, Sequence[torch.Tensor]]] | None = None,
        views: Sequence[View] = (View(GEOMETRY),),
        on_progress: Callable[[str, int], None] | None = None,
    ) -> SegmentedVideo:
        """The recorded frames, or others, on their way through the network."""
        info = VideoInfo("golden", "golden", 150, 90, 10.0, None, None, False)
        source = self.source(views) if source is None else source
        return SegmentedVideo(info, source, self.model, views, settings, on_progress)


def folder_of(name: str) -> Path:
    """See `Golden.load`."""
    if not name.startswith("whole/"):
        return FOLDER / name
    if "DVIS_GOLDENS" not in os.environ:
        pytest.skip("DVIS_GOLDENS does not say where the whole recordings are")
    return Path(os.environ["DVIS_GOLDENS"]) / name.removeprefix("whole/")


def whole(*names: str) -> list:
    """Parameters of slow tests: the whole recordings of these networks."""
    return [pytest.param(f"whole/{name}", marks=pytest.mark.slow) for name in names]


def match(last: torch.Tensor, current: torch.Tensor, published: bool = False) -> torch.Tensor:
    """(Q,) int64: the order of one frame's queries (Q, C), given the last frame's in track order."""
    return match_frames(current[None, None], last[None], published)[0, 0]


def error(ours: torch.Tensor, recorded: np.ndarray) -> float:
    """Largest difference as a share of the largest recorded value."""
    assert tuple(ours.shape) == recorded.shape
    return float(np.abs(ours.detach().numpy() - recorded).max() / np.abs(recorded).max())
