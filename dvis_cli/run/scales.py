"""The networks on one video, in a list of one or more views (docs/fusion.md).

frames -> each view: segmenter, state.py -> (horizon full) overlaps, frame by frame -> fusion/ -> tubes
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dvis_cli.errors import DvisWarning
from dvis_cli.fusion.grid import CoarseGrid, OverlapSums
from dvis_cli.fusion.matching import Candidates, finds_most
from dvis_cli.fusion.names import TubeNames
from dvis_cli.fusion.tubes import DEFAULTS, FusionSettings, agreeing, fuse
from dvis_cli.layers.masks import FrameMasks, Tubes, ViewMasks
from dvis_cli.layers.transfer import fetch, send
from dvis_cli.structures import SegmenterOutput, View

from .features import Features
from .model import DvisModel
from .settings import RunSettings
from .state import QueryState

CANDIDATE = 0.1  # class probability from which a query may be part of a tube


class BatchSize:
    """Frames that the segmenter sees at once: as many as the settings say, until memory runs out."""

    def __init__(self, frames: int) -> None:
        self.frames = frames

    def halve(self, tried: int) -> None:
        """So many frames were too many."""
        self.frames = tried // 2
        warnings.warn(
            f"out of memory with {tried} frames at once: going on with {self.frames} (--batch)",
            DvisWarning,
            stacklevel=2,
        )
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


class ScaleHorizon:
    """What one view keeps of a horizon, to make masks of until its decision is made.

    Args:
        state: whose `horizon` it is.
        features: empty.
    """

    def __init__(self, view: View, state: QueryState, features: Features) -> None:
        self.view, self.features, self.frames = view, features, 0
        self._state, self._queries = state, state.horizon
        # The last rows that masks were made of, here and there.
        self._sent: tuple[Tensor, Tensor] | None = None

    def put(self, features: Sequence[Tensor] | Tensor) -> None:
        """Keep the mask features of the next frames, (T, C, h, w)."""
        for frame in features:
            self.features.put(self.frames, frame)
            self.frames += 1

    def masks(self, frame: int, queries: Tensor) -> ViewMasks:
        """The masks of `queries` (N,) int64, on the CPU, in a frame of the horizon."""
        # They are the same for all frames of a panoptic decision.
        if self._sent is None or self._sent[0] is not queries:
            self._sent = queries, send(queries, self.features.device)
        features, rows = self.features.get(frame), self._sent[1]
        embeds = self._state.mask_embeds(frame, rows, self._queries)
        present = self._queries.present[frame][rows] if self._queries.present else None
        return ViewMasks(embeds, features, self.view.geometry, self.view.mirrored, present)


class Scale:
    """One view of a video: its queries (`state`) and what it keeps of the present horizon.

    Args:
        rooms: bytes of mask features that may stay on the device, and in RAM.
        batch: shared by all views.
    """

    def __init__(
        self, model: DvisModel, view: View, settings: RunSettings, rooms: tuple[int, int], batch: BatchSize
    ) -> None:
        self.model, self.view, self._batch = model, view, batch
        self.state = QueryState(model, settings)
        self._memory: Tensor | None = None  # of a segmenter that has one
        self._rooms = rooms
        self.horizon = self._new_horizon()

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Segment and track the next frames, each (3, H, W) and preprocessed."""
        left = list(tensors)
        while left:
            part = left[: self._batch.frames]
            output = self._segment(part)
            if output is None:
                # Only now: the failed attempt's tensors are gone.
                if self.horizon.features.leave_device():
                    self._rooms = 0, self._rooms[1]
                else:
                    self._batch.halve(len(part))
                continue
            self._memory = output.memory
            self.state.add(output)
            self.horizon.put(self.state.mask_features(output))
            del left[: len(part)]

    def _segment(self, frames: Sequence[Tensor]) -> SegmenterOutput | None:
        """The segmenter on some frames; None where memory runs out, though fewer or nothing else there might do."""
        try:
            return self.model.segment(torch.stack(list(frames)), self._memory)
        except torch.OutOfMemoryError:
            if len(frames) == 1 and not self.horizon.features.any_on_device:
                raise
            return None

    def start_horizon(self) -> None:
        """Begin with the next frames; identities go on. The horizon before stays readable until it is closed."""
        self.state.start_horizon()
        self.horizon = self._new_horizon()

    def close(self) -> None:
        """Give memory and disk space of the present horizon back."""
        self.horizon.features.clear()

    def _new_horizon(self) -> ScaleHorizon:
        return ScaleHorizon(self.view, self.state, Features(self.model.device, *self._rooms))


class Scales:
    """Runs batches of frames through every view; after a horizon's last frame, `tubes` is what was found.

    Args:
        views: one or more; the first is the one whose order of queries is kept.
        on_fused: called with the number of frames of the video whose overlaps are measured.
    """

    def __init__(
        self,
        model: DvisModel,
        views: Sequence[View],
        settings: RunSettings,
        on_fused: Callable[[int], None] = lambda frames: None,
        fusion: FusionSettings = DEFAULTS,
    ) -> None:
        # The other half is for what waits in `WaitingFrames`.
        budget = settings.memory_budget // 2 // len(views)
        on_device, batch = settings.device_budget // len(views), BatchSize(settings.batch)
        self.scales = [Scale(model, view, settings, (on_device, budget), batch) for view in views]
        # Where sums over queries decide, as they do for semantic maps, what is there twice must count twice.
        self.fusion = replace(fusion, repeat=math.inf, agree=0.0) if settings.task == "semantic" else fusion
        # The panoptic decision has a threshold; the others use whatever there is, by its score.
        self._confident = settings.score_threshold if settings.task == "panoptic" else None
        self._grid = CoarseGrid(views)
        self._names = TubeNames(model.config.queries)
        self._on_fused = on_fused
        self._frames = self._fused = 0  # of the horizon so far; of the video

    @torch.inference_mode()
    def add(self, inputs: Sequence[Sequence[Tensor]]) -> None:
        """Segment and track the next frames: for each of them a tensor (3, H, W) for each view."""
        for scale, tensors in zip(self.scales, zip(*inputs, strict=True), strict=True):
            scale.add(tensors)
        self._frames += len(inputs)

    @torch.inference_mode()
    def tubes(self) -> Tubes:
        """End the horizon: refine every view, then fuse. Readable until it is closed, also beside the next horizon.

        What is decided from is on the CPU; masks are made on the model's device.
        """
        probs = fetch(*(scale.state.finish_horizon() for scale in self.scales))
        horizons = [scale.horizon for scale in self.scales]

        def close() -> None:
            for horizon in horizons:
                horizon.features.clear()

        if len(self.scales) == 1:  # nothing to fuse: every query is a tube, and its row the number
            weights, only = torch.ones_like(probs[0][:, 0]), horizons[0]
            return Tubes(
                probs[0], weights, lambda n, rows: FrameMasks([only.masks(n, rows)]), Tensor.tolist, close
            )
        candidates = [self._candidates(*one) for one in zip(self.scales, probs, strict=True)]
        reference = finds_most(candidates)
        first = sum(len(view.queries) for view in candidates[:reference])
        overlaps = self._overlaps(candidates, reference)
        fused = fuse(candidates, overlaps.products, self._confident, self.fusion)
        members, class_probs, weights = fused.members, fused.class_probs, fused.weights
        if self._confident is None:  # the weights become part of the scores
            class_probs, weights = class_probs * weights[:, None], torch.ones_like(weights)
        return Tubes(
            class_probs,
            weights,
            lambda frame, tubes: _masks(
                horizons, frame, agreeing(fused, overlaps.agreements[frame], reference, first)[tubes]
            ),
            lambda tubes: self._numbers(members, tubes),
            close,
        )

    def start_horizon(self) -> None:
        """Begin with the next frames; identities go on."""
        for scale in self.scales:
            scale.start_horizon()
        self._fused += self._frames
        self._frames = 0

    def close(self) -> None:
        """Give memory and disk space back."""
        for scale in self.scales:
            scale.close()

    def _numbers(self, members: Tensor, tubes: Tensor) -> list[int]:
        once = tubes.unique()
        numbers = dict(zip(once.tolist(), self._names.of(members[once]), strict=True))
        return [numbers[tube] for tube in tubes.tolist()]

    def _candidates(self, scale: Scale, class_probs: Tensor) -> Candidates:
        """The queries of a view that are something real with a probability above the bar."""
        bar = -1.0 if self._confident is None else min(CANDIDATE, self._confident)
        rows = (class_probs[:, :-1].amax(dim=1) > bar).nonzero().squeeze(1)
        there = send(rows, scale.model.device)
        embeds = torch.stack([queries[there].float() for queries in scale.state.horizon.queries]).mean(dim=0)
        return Candidates(rows, class_probs[rows], *fetch(embeds))

    def _overlaps(self, candidates: Sequence[Candidates], reference: int) -> OverlapSums:
        """Sums over the horizon for any two candidates, one frame's masks at a time."""
        sums = OverlapSums([len(view.queries) for view in candidates], reference, self.fusion.agree)
        for frame in range(self._frames):
            masks = []
            for view, (scale, found) in enumerate(zip(self.scales, candidates, strict=True)):
                own = scale.horizon.masks(frame, found.queries)
                seen = self._grid.masks(view, own.embeds, own.features)
                masks.append(seen if own.present is None else seen * own.present[:, None])
            sums.add(masks)
            self._on_fused(self._fused + frame + 1)
        return sums


def _masks(horizons: Sequence[ScaleHorizon], frame: int, members: Tensor) -> FrameMasks:
    """members: (N, S) int64."""
    columns = zip(horizons, members.T, strict=True)
    return FrameMasks([horizon.masks(frame, column[column >= 0]) for horizon, column in columns], members)
