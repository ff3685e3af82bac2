"""One video at several scales: each through the networks on its own, then one set of tubes (docs/fusion.md).

frames -> scale.py, once for each view -> (horizon full) overlaps, frame by frame -> fusion/ -> tubes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .fusion.grid import CoarseGrid, OverlapSums
from .fusion.masks import MeanMasks, MirroredMasks
from .fusion.matching import Candidates
from .fusion.names import TubeNames
from .fusion.tubes import DEFAULTS, FusedTubes, FusionSettings, fuse
from .model import DvisModel, RunSettings
from .scale import ScaleNetwork, ScaleTubes
from .structures import FrameMasks, View

CANDIDATE = (
    0.1  # class probability from which a query may be part of a tube, where a task has a higher threshold
)


class MultiScaleNetwork:
    """The networks on one video in several views: a `video_run.VideoNetwork`.

    An input is the tensors (3, H, W) of a frame, one for each view.

    Args:
        views: scales, mirrored or not; the first is the one whose order of queries is kept.
        memory_budget: bytes of mask features kept in RAM, all views together.
        on_fused: told the number of frames of the video whose overlaps are measured.
    """

    def __init__(
        self,
        model: DvisModel,
        views: Sequence[View],
        settings: RunSettings,
        memory_budget: int,
        on_fused: Callable[[int], None] = lambda frames: None,
        fusion: FusionSettings = DEFAULTS,
    ) -> None:
        share = memory_budget // len(views)
        self.views, self.settings, self.fusion = tuple(views), settings, fusion
        self.scales = [ScaleNetwork(model, view.geometry, settings, share) for view in views]
        self._grid = CoarseGrid(views)
        self._names = TubeNames(model.config.query_decoder.queries)
        self._on_fused = on_fused
        self._frames = self._fused = 0  # of the horizon so far; of the video

    def add(self, inputs: Sequence[Sequence[Tensor]]) -> None:
        """Segment and track the next frames in every view."""
        for scale, tensors in zip(self.scales, zip(*inputs, strict=True), strict=True):
            scale.add(tensors)
        self._frames += len(inputs)

    def tubes(self) -> MultiScaleTubes:
        """End the horizon: refine every view, then fuse. Readable until the next `start_horizon`."""
        # The panoptic decision has a threshold; the others use whatever there is, by its score. Where sums over
        # queries decide, as they do for semantic maps, what is there twice must count twice.
        task, fusion = self.settings.task, self.fusion
        confident = self.settings.score_threshold if task == "panoptic" else None
        bar = -1.0 if confident is None else min(CANDIDATE, confident)
        if task == "semantic":
            fusion = replace(fusion, repeat=math.inf)
        with torch.inference_mode():
            found = [scale.tubes() for scale in self.scales]
            candidates = [_candidates(tubes, bar) for tubes in found]
            fused = fuse(candidates, self._overlaps(found, candidates), confident, fusion)
        return MultiScaleTubes(self.views, found, fused, self._names, thresholded=confident is not None)

    def _overlaps(self, found: Sequence[ScaleTubes], candidates: Sequence[Candidates]) -> Tensor:
        """(N, N): sums over the horizon for any two candidates, one frame's masks at a time."""
        sums = OverlapSums([len(view.queries) for view in candidates])
        for place in range(self._frames):
            masks = []
            for number, (tubes, view) in enumerate(zip(found, candidates, strict=True)):
                own = tubes.masks(place, view.queries)
                masks.append(self._grid.masks(number, own.embeds, own.features))
            sums.add(masks)
            self._on_fused(self._fused + place + 1)
        return sums.products

    def start_horizon(self) -> None:
        """Forget the decided frames; identities go on."""
        for scale in self.scales:
            scale.start_horizon()
        self._fused += self._frames
        self._frames = 0

    def close(self) -> None:
        """Give memory and disk space back."""
        for scale in self.scales:
            scale.close()


class MultiScaleTubes:
    """A horizon in several views: a `structures.Tubes`.

    Attributes:
        class_probs: (N, K+1); for tasks without a threshold they have the weights in them.
        weights: (N,).
    """

    def __init__(
        self,
        views: Sequence[View],
        found: Sequence[ScaleTubes],
        fused: FusedTubes,
        names: TubeNames,
        thresholded: bool,
    ) -> None:
        self.members = fused.members
        self.class_probs = fused.class_probs if thresholded else fused.class_probs * fused.weights[:, None]
        self.weights = fused.weights if thresholded else torch.ones_like(fused.weights)
        self._views, self._found, self._names = views, found, names

    def names(self, queries: Tensor) -> list[int]:
        """The tubes' numbers over horizons."""
        once = queries.unique()
        names = dict(zip(once.tolist(), self._names.of(self.members[once]), strict=True))
        return [names[query] for query in queries.tolist()]

    def masks(self, place: int, queries: Tensor) -> MeanMasks:
        """The masks of `queries` (N,) int64 in the frame at `place` of the horizon."""
        members = self.members[queries]
        parts: list[FrameMasks] = []
        for view, tubes, column in zip(self._views, self._found, members.T, strict=True):
            own = tubes.masks(place, column[column >= 0])
            parts.append(MirroredMasks(own) if view.mirrored else own)
        return MeanMasks(members, parts)


def _candidates(tubes: ScaleTubes, bar: float) -> Candidates:
    """The queries of a view that are something real with a probability above the bar."""
    rows = (tubes.class_probs[:, :-1].amax(dim=1) > bar).nonzero().squeeze(1)
    embeds = torch.stack([queries[rows].float() for queries in tubes.queries]).mean(dim=0)
    return Candidates(rows, tubes.class_probs[rows], embeds)
