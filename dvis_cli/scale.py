"""One video at one scale: its frames through the networks, and the state that this needs.

    batches of frames -> segmenter -> tracker -> (window full) refiner -> (horizon full) tubes

Several of these run side by side when a video is seen at several scales; nothing here knows of the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .layers.masks import FeatureMasks
from .model import DvisModel, RunSettings
from .refiner.presence import judge_presence, odds_of_something
from .spool import Spool
from .structures import Geometry, RefinedTracks, SegmenterOutput, TrackerState, Tracks
from .tracker.matching import match_direct
from .tracker.memory import Memory, orders_with_memory


class ScaleNetwork:
    """Runs batches of frames of one size; after a horizon's last frame, `tubes` tells what was found.

    Memory: the mask features of a horizon wait in a spool, its queries (Q x C numbers a frame) in RAM.

    Args:
        geometry: of this scale.
        memory_budget: bytes of mask features kept in RAM.
    """

    def __init__(
        self, model: DvisModel, geometry: Geometry, settings: RunSettings, memory_budget: int
    ) -> None:
        self.model, self.geometry = model, geometry
        self.state = QueryState(model, settings)
        self._features = Spool(memory_budget)
        self._frames = 0  # of the horizon, so far

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Segment and track the next frames, each (3, H, W) and preprocessed."""
        with torch.inference_mode():
            output = self.model.segment(torch.stack(list(tensors)))
            self.state.add(output)
            for place, feature in enumerate(output.mask_features, start=self._frames):
                self._features.put(place, _to_numpy(feature))
        self._frames += len(tensors)

    def tubes(self) -> ScaleTubes:
        """End the horizon: refine what is left of it. The tubes are readable until the next `start_horizon`."""
        with torch.inference_mode():
            return ScaleTubes(self.state.finish_horizon(), self.state, self._features, self.geometry)

    def start_horizon(self) -> None:
        """Forget the decided frames; identities go on."""
        self._features.clear()
        self.state.start_horizon()
        self._frames = 0

    def close(self) -> None:
        """Give memory and disk space back."""
        self._features.clear()


class ScaleTubes:
    """A horizon at one scale: a `structures.Tubes`, with what fusion needs besides.

    Attributes:
        class_probs: (Q, K+1).
        queries: (Q, C) a frame, after the last norm.
    """

    def __init__(self, class_probs: Tensor, state: QueryState, features: Spool, geometry: Geometry) -> None:
        self.class_probs = class_probs
        self.geometry = geometry
        self.queries: Sequence[Tensor] = state.queries
        self._state, self._features = state, features

    @property
    def weights(self) -> Tensor:
        """(Q,): one scale is all there is."""
        return self.class_probs.new_ones(len(self.class_probs))

    def names(self, queries: Tensor) -> list[int]:
        """A query has its row in the tracks for the whole video."""
        return [int(query) for query in queries]

    def masks(self, place: int, queries: Tensor) -> FeatureMasks:
        """The masks of `queries` (N,) int64 in the frame at `place` of the horizon."""
        features = _to_tensor(self._features.get(place)).to(self._state.model.device)
        embeds, present = self._state.mask_embeds(place, queries), self._state.present(place, queries)
        return FeatureMasks(embeds, features, self.geometry, present)


class QueryState:
    """The queries of one video: who is matched to whom, and what is known of each so far.

    It keeps Q x C numbers a frame for the frames of a horizon, and what the tracker remembers.
    """

    def __init__(self, model: DvisModel, settings: RunSettings) -> None:
        self.model, self.settings = model, settings
        self._tracker_state: TrackerState | None = None
        self._memory: Memory | None = None  # of what was matched before, where the model matches with one
        self._last: Tensor | None = None  # MinVIS: the last frame's matched queries, (Q, C)
        # What the refiner may look at: tracks (Q, C), memory (Q, C) and odds (Q,) of the last `window` frames.
        self._recent: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=settings.window)
        self._unrefined = 0
        self._logit_sum: Tensor | float = 0.0  # (Q, K+1) over the frames of the horizon
        self._refined_probs: Tensor | float = 0.0  # (Q, K+1), weighted by frames
        self._frames = 0
        # (Q, C) a frame of the horizon, after the norm: masks come from these, and where the refiner's masks are
        # blended with the tracker's, from the tracks too.
        self.queries: list[Tensor] = []
        self._tracks: list[Tensor] = []
        self._present: list[Tensor] = []  # (Q,) bool a frame, where presence is judged

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
        self._tracks.clear()
        self._present.clear()

    def mask_embeds(self, frame: int, kept: Tensor) -> Tensor:
        """(N, C) mask embeddings of the kept queries in a frame of the horizon."""
        model, mode = self.model, self.settings.mode
        heads = {
            "minvis": model.segmenter.query_decoder,
            "online": model.tracker,
            "offline": model.refiner,
        }
        head = heads[mode]
        assert head is not None
        embeds: Tensor = head.mask_head(self.queries[frame][kept])
        if not self._blended:
            return embeds
        assert model.tracker is not None
        # Masks are linear in their embeddings: the mean of these is the mean of the masks' logits.
        tracked: Tensor = model.tracker.mask_head(self._tracks[frame][kept])
        return tracked.lerp(embeds, model.config.refiner.blend)

    def present(self, frame: int, kept: Tensor) -> Tensor | None:
        """(N,) bool: which of the kept queries are there in a frame of the horizon; None where that is not judged."""
        return self._present[frame][kept] if self._present else None

    @property
    def _blended(self) -> bool:
        return self.settings.mode == "offline" and self.model.config.refiner.blend < 1

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
        orders = self._remembered_orders(output) if tracker.needs_orders else None
        tracks: Tracks
        tracks, self._tracker_state = tracker(queries[None], self._tracker_state, orders)
        self._count(tracks.class_logits[0])
        if self.settings.mode == "online":
            self.queries.extend(tracks.queries[0])
            return
        odds = odds_of_something(output.class_logits).gather(1, tracks.indices[0])
        for frame in zip(tracks.queries[0], tracker.frame_forward(queries), odds, strict=True):
            self._recent.append(frame)
            self._unrefined += 1
            if self._unrefined == self.settings.window:
                self._refine()

    def _remembered_orders(self, output: SegmenterOutput) -> Tensor:
        """(1, T, Q) int64: which query goes on in each row of the tracks."""
        queries = output.queries.float()
        embeds = self.model.segmenter.query_decoder.mask_head(queries)
        orders, self._memory = orders_with_memory(
            queries, output.class_logits, embeds, output.mask_features, self._memory
        )
        return orders[None]

    def _refine(self) -> None:
        """Refine the frames that have not been, with as many frames before them as the window holds."""
        refiner = self.model.refiner
        if not self._unrefined or refiner is None:
            return
        tracks, memory, odds = (torch.stack(part) for part in zip(*self._recent, strict=True))
        tracks = tracks[None]
        refined: RefinedTracks = refiner(tracks, memory[None])
        self.queries.extend(refined.queries[0, -self._unrefined :])
        if self._blended:
            self._tracks.extend(tracks[0, -self._unrefined :])
        if self.model.config.refiner.presence:
            self._present.extend(judge_presence(odds, self.model.config.refiner.presence)[-self._unrefined :])
        probabilities = refined.class_logits[0].float().softmax(dim=-1)
        self._refined_probs = self._refined_probs + probabilities * self._unrefined
        self._unrefined = 0


def offline_class_probs(refined: Tensor, online: Tensor) -> Tensor:
    """Merge what the refiner and the tracker think of each query: the elementwise maximum over real classes.

    Args:
        refined: (Q, K+1) probabilities of the refiner.
        online: (Q, K+1) softmax of the tracker's time-averaged logits.

    Returns:
        (Q, K+1); how likely a query is no object is the refiner's word alone.
    """
    return torch.cat((torch.maximum(refined, online)[:, :-1], refined[:, -1:]), dim=1)


def _to_numpy(features: Tensor) -> np.ndarray:
    """A copy on the CPU; bf16, which numpy does not have, as its bits."""
    features = features.detach().cpu()
    return (features.view(torch.int16) if features.dtype == torch.bfloat16 else features).numpy().copy()


def _to_tensor(array: np.ndarray) -> Tensor:
    """The inverse of `_to_numpy`."""
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
