"""The networks of one model. No state of a video is here: what a video remembers is in `state.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dvis_cli.config import MODES, Mode, ModelConfig
from dvis_cli.errors import UsageError
from dvis_cli.refiner.refiner import TemporalRefiner
from dvis_cli.segmenter.segmenter import Segmenter
from dvis_cli.structures import Category, SegmenterOutput
from dvis_cli.tracker.tracker import ReferringTracker


def refuse_missing_parts(wanted: Mode, most: Mode, who: str) -> None:
    """Raise `UsageError` where `wanted` is more than `who` can do, which is `most`."""
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
        """The mode to run in: `mode`, or the most that the model can do. Raises `UsageError`."""
        if mode is not None:
            refuse_missing_parts(mode, self.config.mode, f"model {self.config.name!r}")
        return mode or self.config.mode

    def segment(self, frames: Tensor) -> SegmenterOutput:
        """Run the segmenter on (T, 3, H, W) preprocessed frames, in the model's precision."""
        frames = frames.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.segmenter(frames)
