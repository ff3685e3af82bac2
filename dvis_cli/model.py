"""The networks of one model, and how one video is run through them. No state of a video is here: see
`scale.py` (queries and mask features) and `video_run.py` (frames that wait, and what is decided on them).

A *window* is what the refiner sees at once; a *horizon* is the frames whose classes and masks are decided
together. Both cover an ordinary clip by default, which is then treated as the reference treats it: as a
whole. A longer video flows through in bounded memory and bounded disk space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .config import MODES, TASKS, DecisionConfig, Mode, ModelConfig, TaskName
from .errors import UsageError
from .refiner.refiner import TemporalRefiner
from .segmenter.segmenter import Segmenter
from .structures import Category, SegmenterOutput
from .tracker.tracker import ReferringTracker

DEFAULT_TOP_K = 20  # tubes of instance segmentation; what the official code keeps


def refuse_missing_parts(wanted: Mode, most: Mode, who: str) -> None:
    """Raise `UsageError` when `who`, which can do at `most` that, is asked for more."""
    if wanted not in MODES:
        raise UsageError(f"mode {wanted!r}: choose one of {', '.join(MODES)}")
    if MODES.index(wanted) > MODES.index(most):
        missing = "temporal refiner" if most == "online" else "referring tracker"
        raise UsageError(
            f"mode {wanted!r} needs a {missing}, which {who} does not have: it is of kind {most!r}; use --mode {most}"
        )


class DvisModel(nn.Module):
    """The networks of one model, as far as its mode needs them."""

    def __init__(self, config: ModelConfig, categories: Sequence[Category]) -> None:
        super().__init__()
        self.config = config
        self.categories = tuple(categories)
        self.precision = "fp32"  # or "bf16": the segmenter under autocast
        self.weights: str | None = None  # the file they came from
        sizes = (config.query_decoder.channels, config.pixel_decoder.mask_channels, config.num_classes)
        self.segmenter = Segmenter(config)
        has_tracker = config.mode != "minvis"
        self.tracker = ReferringTracker(config.tracker, *sizes) if has_tracker else None
        self.refiner = TemporalRefiner(config.refiner, *sizes) if config.mode == "offline" else None

    @property
    def device(self) -> torch.device:
        return self.segmenter.query_decoder.query_feat.device

    def check_mode(self, mode: Mode | None) -> Mode:
        """The mode to run in: the one asked for, or the most that the model can do. Raises `UsageError`."""
        if mode is not None:
            refuse_missing_parts(mode, self.config.mode, f"model {self.config.name!r}")
        return mode or self.config.mode

    def segment(self, frames: Tensor) -> SegmenterOutput:
        """Run the segmenter on (T, 3, H, W) preprocessed frames, in the model's precision."""
        frames = frames.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.segmenter(frames)


@dataclass(frozen=True)
class RunSettings:
    """How one video is run."""

    mode: Mode
    task: TaskName = "panoptic"
    window: int = DecisionConfig.window  # frames the refiner sees at once
    horizon: int = DecisionConfig.window  # frames decided together; at least the window
    memory_budget: int = 64 * 2**20  # bytes of waiting data kept in RAM; more goes to a temporary file
    score_threshold: float = 0.8
    overlap_threshold: float = 0.8
    top_k: int = DEFAULT_TOP_K  # instance: tubes kept of a horizon
    batch: int = 1  # frames the segmenter sees at once

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UsageError(f"task {self.task!r}: choose one of {', '.join(TASKS)}")
        for name in ("window", "horizon", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)} must be at least 1 frame")
        if self.top_k < 1:
            raise UsageError(f"top_k={self.top_k} must be at least 1")
        for name in ("score_threshold", "overlap_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name}={getattr(self, name)} must lie in 0..1")
        if self.memory_budget < 0:
            raise UsageError(f"memory_budget={self.memory_budget} bytes must not be negative")
        if self.horizon < self.window:
            raise UsageError(f"horizon={self.horizon} must not be shorter than window={self.window}")
