"""Segmenter -> tracker -> refiner for one video, and the per-video state. Nothing else holds such state.

    frames -> segmenter -> tracker -> (window full) refiner -> (horizon full) panoptic decision -> frames

A *window* is what the refiner sees at once; a *horizon* is the frames whose classes and masks are decided
together. Both cover an ordinary clip by default, which is then treated as the reference treats it: as a
whole. A longer video flows through in bounded memory and bounded disk space.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from .config import MODES, Mode, ModelConfig
from .errors import UsageError
from .refiner.refiner import TemporalRefiner
from .segmenter.segmenter import Segmenter
from .spool import Spool
from .structures import (
    Category,
    Frame,
    Geometry,
    PanopticFrame,
    RefinedTracks,
    Segment,
    SegmenterOutput,
    TrackerState,
    Tracks,
)
from .tasks.panoptic import Identities, WinnerMaps, keep_queries, offline_class_probs
from .tracker.matching import match_direct
from .tracker.tracker import ReferringTracker

DEFAULT_WINDOW = 300  # frames; what the official demo refines at once


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
    window: int = DEFAULT_WINDOW  # frames the refiner sees at once
    horizon: int = DEFAULT_WINDOW  # frames decided together; at least the window
    memory_budget: int = 64 * 2**20  # bytes of waiting data kept in RAM; more goes to a temporary file
    score_threshold: float = 0.8
    overlap_threshold: float = 0.8
    batch: int = 1  # frames the segmenter sees at once

    def __post_init__(self) -> None:
        for name in ("window", "horizon", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)} must be at least 1 frame")
        for name in ("score_threshold", "overlap_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name}={getattr(self, name)} must lie in 0..1")
        if self.memory_budget < 0:
            raise UsageError(f"memory_budget={self.memory_budget} bytes must not be negative")
        if self.horizon < self.window:
            raise UsageError(f"horizon={self.horizon} must not be shorter than window={self.window}")


class QueryState:
    """The queries of one video: who is matched to whom, and what is known of each so far.

    It keeps Q x C numbers a frame for the frames of a horizon, and what the tracker remembers.
    """

    def __init__(self, model: DvisModel, settings: RunSettings) -> None:
        self.model, self.settings = model, settings
        self._tracker_state: TrackerState | None = None
        self._last: Tensor | None = None  # MinVIS: the last frame's matched queries, (Q, C)
        # What the refiner may look at: the tracks and memories of the last `window` frames, each (Q, C).
        self._recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=settings.window)
        self._unrefined = 0
        self._logit_sum: Tensor | float = 0.0  # (Q, K+1) over the frames of the horizon
        self._refined_probs: Tensor | float = 0.0  # (Q, K+1), weighted by frames
        self._frames = 0
        self.queries: list[
            Tensor
        ] = []  # (Q, C) a frame of the horizon, after the norm: masks come from these

    def add(self, output: SegmenterOutput) -> None:
        """Take in the next frames."""
        if self.settings.mode == "minvis":
            self._match(output)
        else:
            self._track(output)

    def finish_horizon(self) -> Tensor:
        """Refine what is left of a window and return the class probabilities (Q, K+1) of the horizon."""
        if self.settings.mode == "offline":
            self._refine()
        online = (self._logit_sum / self._frames).softmax(dim=-1)  # type: ignore[union-attr]
        if self.settings.mode != "offline":
            return online
        return offline_class_probs(self._refined_probs / self._frames, online)  # type: ignore[arg-type]

    def start_horizon(self) -> None:
        """Forget the decided frames; identities go on."""
        self._logit_sum = self._refined_probs = 0.0
        self._frames = 0
        self.queries.clear()

    def mask_embeds(self, frame: int, kept: Tensor) -> Tensor:
        """(N, C) mask embeddings of the kept queries in a frame of the horizon."""
        model = self.model
        heads = {
            "minvis": model.segmenter.query_decoder,
            "online": model.tracker,
            "offline": model.refiner,
        }
        head = heads[self.settings.mode]
        assert head is not None
        return head.mask_head(self.queries[frame][kept])

    def _count(self, class_logits: Tensor) -> None:
        """class_logits: (T, Q, K+1)."""
        self._logit_sum = self._logit_sum + class_logits.float().sum(dim=0)
        self._frames += len(class_logits)

    def _match(self, output: SegmenterOutput) -> None:
        """MinVIS: put each frame's queries in the order of the last frame's."""
        logits = []
        for queries, class_logits in zip(output.queries, output.class_logits, strict=True):
            if self._last is not None:
                order = match_direct(self._last, queries).to(queries.device)
                queries, class_logits = queries[order], class_logits[order]
            self._last = queries
            self.queries.append(queries)
            logits.append(class_logits)
        self._count(torch.stack(logits))

    def _track(self, output: SegmenterOutput) -> None:
        tracker = self.model.tracker
        assert tracker is not None
        queries = output.queries.float()
        tracks: Tracks
        tracks, self._tracker_state = tracker(queries[None], self._tracker_state)
        self._count(tracks.class_logits[0])
        if self.settings.mode == "online":
            self.queries.extend(tracks.queries[0])
            return
        for pair in zip(tracks.queries[0], tracker.frame_forward(queries), strict=True):
            self._recent.append(pair)
            self._unrefined += 1
            if self._unrefined == self.settings.window:
                self._refine()

    def _refine(self) -> None:
        """Refine the frames that have not been, with as many frames before them as the window holds."""
        refiner = self.model.refiner
        if not self._unrefined or refiner is None:
            return
        tracks = torch.stack([track for track, _ in self._recent])[None]
        memory = torch.stack([memory for _, memory in self._recent])[None]
        refined: RefinedTracks = refiner(tracks, memory)
        self.queries.extend(refined.queries[0, -self._unrefined :])
        probabilities = refined.class_logits[0].float().softmax(dim=-1)
        self._refined_probs = self._refined_probs + probabilities * self._unrefined
        self._unrefined = 0


OnProgress = Callable[[str, int], None]  # stage ("network", "masks", "files"), frames of the video done in it


class PanopticRun:
    """One video through the model: iterate it over preprocessed frames, then read `segments`."""

    def __init__(
        self,
        model: DvisModel,
        geometry: Geometry,
        settings: RunSettings,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.model, self.geometry, self.settings = model, geometry, settings
        self.on_progress = on_progress or (lambda stage, frame: None)
        self.state = QueryState(model, settings)
        self.identities = Identities(model.categories)

    @property
    def segments(self) -> list[Segment]:
        """All segments found so far; complete once the frames have run out."""
        return self.identities.segments

    def frames(self, source: Iterable[tuple[Frame, Tensor]]) -> Iterator[PanopticFrame]:
        """Segment a video.

        Args:
            source: each frame with its preprocessed tensor (3, H, W), all of one size.

        Yields:
            finished frames in order. Those of a decided horizon come out between the batches of the next one,
            so that whoever writes them works beside the network.
        """
        horizon, budget = self.settings.horizon, self.settings.memory_budget
        waiting: list[Frame] = []
        finished: Iterator[PanopticFrame] = iter(())
        with Spool(budget // 2) as features:
            results = Spool(budget // 4)  # frames and winner maps; that of the last horizon may be alive, too
            for batch in _batched(source, self.settings.batch, horizon):
                self._network(batch, len(waiting), features)
                for frame, _ in batch:
                    results.put(("rgb", len(waiting)), frame.rgb)
                    waiting.append(Frame(frame.index, frame.pts, _NO_PIXELS, frame.name))
                yield from islice(finished, len(batch))
                if len(waiting) == horizon:
                    yield from finished
                    finished = self._finished(waiting, results, self._decide(waiting, features, results))
                    waiting, results = [], Spool(budget // 4)
            yield from finished
            if waiting:
                yield from self._finished(waiting, results, self._decide(waiting, features, results))

    def _network(self, batch: list[tuple[Frame, Tensor]], first: int, features: Spool) -> None:
        """Segment and track a batch; its mask features wait under their places in the horizon."""
        with torch.inference_mode():
            output = self.model.segment(torch.stack([tensor for _, tensor in batch]))
            self.state.add(output)
            for place, feature in enumerate(output.mask_features, start=first):
                features.put(place, _to_numpy(feature))
        self.on_progress("network", batch[-1][0].index + 1)

    def _decide(self, waiting: list[Frame], features: Spool, results: Spool) -> np.ndarray:
        """The panoptic decision over a horizon: winner maps and counts, then the table of ids."""
        settings, device = self.settings, self.model.device
        with torch.inference_mode():
            kept = keep_queries(self.state.finish_horizon(), settings.score_threshold)
            maps = WinnerMaps(kept, self.geometry)
            for i, frame in enumerate(waiting):
                self.on_progress("masks", frame.index + 1)
                feature = _to_tensor(features.get(i)).to(device)
                results.put(("winners", i), maps.frame(self.state.mask_embeds(i, kept.queries), feature))
        features.clear()
        self.state.start_horizon()
        return self.identities.table(kept, maps.counts, settings.overlap_threshold)

    def _finished(self, waiting: list[Frame], results: Spool, table: np.ndarray) -> Iterator[PanopticFrame]:
        """The frames of a decided horizon, one at a time."""
        by_id = {segment.id: segment for segment in self.segments}
        with results:
            for i, frame in enumerate(waiting):
                ids = table[results.get(("winners", i))]
                present = {int(n): by_id[int(n)] for n in np.unique(ids) if n}
                rgb = results.get(("rgb", i))
                yield PanopticFrame(frame.index, frame.pts, rgb, ids, present, frame.name)


_NO_PIXELS = np.empty((0, 0, 3), np.uint8)  # of a frame whose pixels wait in the spool


def _batched(
    source: Iterable[tuple[Frame, Tensor]], size: int, horizon: int
) -> Iterator[list[tuple[Frame, Tensor]]]:
    """Lists of up to `size` frames; a list never crosses the end of a horizon."""
    batch: list[tuple[Frame, Tensor]] = []
    for count, item in enumerate(source, start=1):
        batch.append(item)
        if len(batch) == size or count % horizon == 0:
            yield batch
            batch = []
    if batch:
        yield batch


def _to_numpy(features: Tensor) -> np.ndarray:
    """A copy on the CPU; bf16, which numpy does not have, as its bits."""
    features = features.detach().cpu()
    return (features.view(torch.int16) if features.dtype == torch.bfloat16 else features).numpy().copy()


def _to_tensor(array: np.ndarray) -> Tensor:
    """The inverse of `_to_numpy`."""
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
