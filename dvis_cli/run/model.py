"""The networks of one model. No state of a video is here: what a video remembers is in `state.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvis_cli.config import MODES, Mode, ModelConfig, VideoMTConfig
from dvis_cli.errors import UsageError
from dvis_cli.refiner.refiner import TemporalRefiner
from dvis_cli.segmenter.query_decoder import QueryDecoder
from dvis_cli.segmenter.segmenter import Segmenter
from dvis_cli.segmenter.videomt import VideoMT
from dvis_cli.structures import Category, SegmenterOutput
from dvis_cli.tracker.in_place import InPlaceTracker
from dvis_cli.tracker.plus import PlusTracker
from dvis_cli.tracker.tracker import ReferringTracker

from .compiled import CompiledSegmenter
from .placement import tf32


def refuse_missing_parts(wanted: Mode, most: ModelConfig, who: str) -> None:
    """Raise `UsageError` where `wanted` is more than `who` can do, which is `most`."""
    if wanted not in MODES:
        raise UsageError(f"mode {wanted!r}: choose one of {', '.join(MODES)}")
    if most.family == "videomt" and wanted == "minvis":
        raise UsageError(
            f"mode 'minvis' matches queries from frame to frame, and those of {who} are matched already (VidEoMT): "
            "use --mode online"
        )
    if MODES.index(wanted) > MODES.index(most.mode):
        missing = "temporal refiner" if most.mode == "online" else "referring tracker"
        why = f"it is of kind {most.mode!r}; use --mode {most.mode}"
        if most.family == "videomt":
            why = "VidEoMT is published without one; use --mode online, or 'dvis train refiner --init FILE'"
        raise UsageError(f"mode {wanted!r} needs a {missing}, which {who} does not have: {why}")


class DvisModel(nn.Module):
    """The networks of one model, as far as its mode needs them."""

    def __init__(self, config: ModelConfig, categories: Sequence[Category]) -> None:
        super().__init__()
        self.config = config
        self.categories = tuple(categories)
        self.precision = "fp32"  # or "bf16": the segmenter under autocast
        self.compiled: CompiledSegmenter | None = None
        self.weights: str | None = None  # the file they came from
        sizes = (config.track_channels, config.mask_channels, config.num_classes)
        self.segmenter: Segmenter | VideoMT
        self.tracker: ReferringTracker | PlusTracker | InPlaceTracker | None = None
        if isinstance(config.backbone, VideoMTConfig):
            self.segmenter = VideoMT(config.backbone, config.num_classes)
            self.tracker = InPlaceTracker(self.segmenter)
        else:
            self.segmenter = Segmenter(config)
            if config.mode != "minvis":
                kind = PlusTracker if config.family == "dvis++" else ReferringTracker
                self.tracker = kind(config.tracker, *sizes)
        activation = F.gelu if config.family == "videomt" else F.relu
        self.refiner = (
            TemporalRefiner(config.refiner, *sizes, activation) if config.mode == "offline" else None
        )

    @property
    def device(self) -> torch.device:
        return next(self.segmenter.parameters()).device

    @property
    def query_decoder(self) -> QueryDecoder:
        """The segmenter's, in the two families that have one."""
        assert isinstance(self.segmenter, Segmenter), "VidEoMT has no query decoder"
        return self.segmenter.query_decoder

    def check_mode(self, mode: Mode | None) -> Mode:
        """The mode to run in: `mode`, the model's own, or the most that it can do. Raises `UsageError`."""
        if mode is not None:
            refuse_missing_parts(mode, self.config, f"model {self.config.name!r}")
            return mode
        most = self.config.mode
        own: Mode = self.config.decision.mode or most
        return own if MODES.index(own) < MODES.index(most) else most

    def segment(self, frames: Tensor, memory: Tensor | None = None) -> SegmenterOutput:
        """Run the segmenter on (T, 3, H, W) preprocessed frames, in the model's precision.

        `memory` is that of the output for the frames before, None at the beginning of a video.
        """
        frames, fast = frames.to(self.device), self.precision == "bf16"
        with (
            tf32(fast and self.device.type == "cuda"),
            torch.autocast(self.device.type, torch.bfloat16, enabled=fast),
        ):
            output: SegmenterOutput = (self.compiled or self.segmenter)(frames, memory)
            return output
