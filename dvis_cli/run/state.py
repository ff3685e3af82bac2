"""What a video remembers of its queries while its frames go through the networks.

    segmenter output -> tracker (or MinVIS' matching) -> (window full) refiner -> (horizon full) class probabilities

The networks have no state: what they need of earlier frames is kept here and handed to them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dvis_cli.refiner.presence import judge_presence, odds_of_something
from dvis_cli.structures import RefinedTracks, SegmenterOutput, TrackerState, Tracks
from dvis_cli.tracker.matching import match_frames
from dvis_cli.tracker.memory import Memory, orders_with_memory

from .model import DvisModel
from .settings import RunSettings


@dataclass
class HorizonQueries:
    """Of each frame of one horizon; may be read while the next horizon is under way.

    Masks come from the queries, and where the refiner's masks are blended with the tracker's, from the tracks too.
    """

    queries: list[Tensor] = field(default_factory=list)  # (Q, C) in track order, after the last norm
    tracks: list[Tensor] = field(default_factory=list)  # (Q, C)
    present: list[Tensor] = field(default_factory=list)  # (Q,) bool, where presence is judged


class QueryState:
    """The queries of one view: which is matched to which, and the classes so far.

    It keeps Q x C numbers a frame for the frames of a horizon, and the tracker's state.
    """

    def __init__(self, model: DvisModel, settings: RunSettings) -> None:
        self.model, self.settings = model, settings
        self._tracker_state: TrackerState | None = None
        self._memory: Memory | None = None  # of the tracks so far, where the model matches with one
        self._last: Tensor | None = None  # MinVIS: the last frame's matched queries, (Q, C)
        # What the refiner may look at: tracks (Q, C), memory (Q, C) and odds (Q,) of the last `window` frames.
        self._recent: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=settings.window)
        self._unrefined = 0
        self._logit_sum: Tensor | float = 0.0  # (Q, K+1) over the frames of the horizon
        self._refined_probs: Tensor | float = 0.0  # (Q, K+1), weighted by frames
        self._frames = 0
        self.horizon = HorizonQueries()

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
        """Begin with the next frames; identities go on."""
        self._logit_sum = self._refined_probs = 0.0
        self._frames = 0
        self.horizon = HorizonQueries()

    def mask_features(self, output: SegmenterOutput) -> Tensor:
        """(T, C, h, w): what the mode's mask embeddings are multiplied with."""
        online = self.model.tracker if self.settings.mode == "online" else None
        return output.mask_features if online is None else online.mask_features(output)

    def mask_embeds(self, frame: int, kept: Tensor, horizon: HorizonQueries | None = None) -> Tensor:
        """(N, C) mask embeddings of the kept queries in a frame of the horizon; None is the present one."""
        horizon = horizon or self.horizon
        model, queries = self.model, horizon.queries[frame]
        if self.settings.mode == "minvis":
            decoder = model.query_decoder
            embeds: Tensor = decoder.mask_head(decoder.heads_see(queries[kept]))
            return embeds
        assert model.tracker is not None
        if self.settings.mode == "online":
            return model.tracker.mask_embeds(queries, kept)
        assert model.refiner is not None
        embeds = model.refiner.mask_head(queries[kept])
        if not self._blended:
            return embeds
        # Masks are linear in their embeddings: the mean of these is the mean of the masks' logits.
        tracked: Tensor = model.tracker.mask_head(horizon.tracks[frame][kept])
        return tracked.lerp(embeds, model.config.refiner.blend)

    @property
    def _blended(self) -> bool:
        return self.settings.mode == "offline" and self.model.config.refiner.blend < 1

    def _count(self, class_logits: Tensor) -> None:
        """class_logits: (T, Q, K+1)."""
        self._logit_sum = self._logit_sum + class_logits.float().sum(dim=0)
        self._frames += len(class_logits)

    def _match(self, output: SegmenterOutput) -> None:
        """MinVIS: put each frame's queries in the order of the last frame's."""
        matched_by = self.model.query_decoder.matched_by
        last = None if self._last is None else matched_by(self._last)[None]
        orders = match_frames(matched_by(output.queries)[None], last)[0]
        frames = zip(output.queries, orders, strict=True)
        self.horizon.queries.extend(queries[order] for queries, order in frames)
        self._last = self.horizon.queries[-1]
        pairs = zip(output.class_logits, orders, strict=True)
        self._count(torch.stack([class_logits[order] for class_logits, order in pairs]))

    def _track(self, output: SegmenterOutput) -> None:
        tracker = self.model.tracker
        assert tracker is not None
        queries = output.queries.float()
        orders = self._remembered_orders(output) if tracker.needs_orders else None
        tracks: Tracks
        tracks, self._tracker_state = tracker(queries[None], self._tracker_state, orders)
        self._count(tracks.class_logits[0])
        if self.settings.mode == "online":
            self.horizon.queries.extend(tracks.queries[0])
            return
        odds = odds_of_something(output.class_logits).gather(1, tracks.indices[0])
        inputs = (part[0] for part in tracker.refiner_inputs(queries[None], tracks))
        for frame in zip(*inputs, odds, strict=True):
            self._recent.append(frame)
            self._unrefined += 1
            if self._unrefined == self.settings.window:
                self._refine()

    def _remembered_orders(self, output: SegmenterOutput) -> Tensor:
        """(1, T, Q) int64: which query continues each row of the tracks."""
        queries = output.queries.float()
        embeds = self.model.query_decoder.mask_head(queries)
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
        horizon, presence = self.horizon, self.model.config.refiner.presence
        horizon.queries.extend(refined.queries[0, -self._unrefined :])
        if self._blended:
            horizon.tracks.extend(tracks[0, -self._unrefined :])
        if presence:
            horizon.present.extend(judge_presence(odds, presence)[-self._unrefined :])
        probabilities = refined.class_logits[0].float().softmax(dim=-1)
        self._refined_probs = self._refined_probs + probabilities * self._unrefined
        self._unrefined = 0


def offline_class_probs(refined: Tensor, online: Tensor) -> Tensor:
    """Merge the refiner's and the tracker's classes of each query: the elementwise maximum over real classes.

    Args:
        refined: (Q, K+1) probabilities of the refiner.
        online: (Q, K+1) softmax of the tracker's time-averaged logits.

    Returns:
        (Q, K+1); "no object" is the refiner's alone.
    """
    return torch.cat((torch.maximum(refined, online)[:, :-1], refined[:, -1:]), dim=1)
