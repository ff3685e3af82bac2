"""The three stages of training: from a batch of clips to named losses.

    segmenter   every frame for itself                                    trains  network.segmenter
    tracker     clips; the segmenter is frozen        (equations 4, 5)    trains  network.tracker
    refiner     longer clips; both others are frozen  (equations 6, 7)    trains  network.refiner

A frozen part runs in eval mode and without gradients. Losses are named as the field does: `loss_ce`, `loss_mask`,
`loss_dice` of the last layer, with `_0`, `_1`, ... of the layers before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from dvis_cli.run.model import DvisModel
from dvis_cli.segmenter.query_decoder import QueryDecoder
from dvis_cli.tracker.memory import orders_with_memory
from dvis_cli.tracker.tracker import ReferringTracker

from .losses import Criterion, Losses, process_mean
from .matcher import Asked, Assignment, Convention, Matcher, Predicted
from .ownership import HandoverRule, handed_over
from .points import Draw
from .targets import ClipTargets, FrozenFeatures

Layer = TypeVar("Layer")
StageName = Literal["segmenter", "tracker", "refiner"]


@dataclass(frozen=True)
class MatchingRule:
    """Which of the ways to assign queries to objects."""

    guided: bool  # match by what the frozen part before says; the report does so for the first half
    convention: Convention = "report"
    always_present: bool = False
    appearance: float = 0.0  # share of its largest area that an object must show to be matched
    patience: int | None = None  # frames a track may miss its object before another takes over; None: all


class Stage:
    """What the three have in common: matching, criterion, and the sums over a batch."""

    def __init__(self, network: DvisModel, matcher: Matcher, criterion: Criterion) -> None:
        self.network, self.matcher, self.criterion = network, matcher, criterion

    def _hand_over(
        self,
        logits: Tensor,
        embeds: Tensor,
        features: Tensor,
        targets: Sequence[ClipTargets],
        draws: Sequence[Draw],
        rule: MatchingRule,
    ) -> list[Asked]:
        """logits: (B, T or 1, Q, K+1)."""
        assert rule.patience is not None
        handover = HandoverRule(rule.patience, rule.appearance)
        return [
            handed_over(self.matcher, Predicted(*clip), features[b], targets[b], draws[b], handover)
            for b, clip in enumerate(zip(logits, embeds, strict=True))
        ]

    def _per_frame_losses(
        self,
        logits: Tensor,
        embeds: Tensor,
        features: Tensor,
        asked: Sequence[Asked],
        targets: Sequence[ClipTargets],
        draws: Sequence[Draw],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of a layer where each frame's mask counts for itself.

        Args:
            logits: (B, T, Q, K+1); T may be 1 where one distribution holds for the whole clip.
            embeds: (B, T, Q, C).
            features: (B, T, C, h, w).
            asked: of each clip.
        """
        frames = embeds.shape[1]
        flat = [pair for clip in asked for pair in clip.masks]
        of_clips = [clip.classes for clip in asked if clip.classes is not None]
        if of_clips:
            classes = self.criterion.class_loss(logits.mean(1), of_clips, targets)
        else:
            owners = [target for target in targets for _ in range(frames)]
            classes = self.criterion.class_loss(logits.flatten(0, 1), flat, owners)
        masks = matched_masks(embeds.flatten(0, 1), features.flatten(0, 1), flat)
        ids = torch.cat([target.ids for target in targets])
        counts = torch.tensor([len(pair.queries) for pair in flat])
        rows = torch.arange(len(flat)).repeat_interleave(counts).to(ids.device)
        wanted = torch.cat([pair.objects for pair in flat]) + 1
        shares = [
            (sum(len(pair.queries) for pair in clip.masks), draw)
            for clip, draw in zip(asked, draws, strict=True)
        ]
        mask, dice = self.criterion.mask_losses(masks, ids, rows, wanted, shares, tall=1)
        total = process_mean(mask.new_tensor(float(len(masks)))).clamp(min=1)
        return classes, mask / total, dice / total


class SegmenterStage(Stage):
    """Mask2Former on single frames: every layer is matched and compared."""

    def losses(self, frames: Tensor, targets: Sequence[ClipTargets], draws: Sequence[Draw]) -> Losses:
        """frames: (B, T, 3, H, W), normalised."""
        batch, count = frames.shape[:2]
        segmenter = self.network.segmenter
        pixels = segmenter.pixel_decoder(segmenter.backbone(frames.flatten(0, 1)))
        features = pixels.mask_features.float().unflatten(0, (batch, count))
        parts = []
        for queries in last_first(segmenter.query_decoder.every_layer(pixels)):
            queries = queries.unflatten(0, (batch, count))
            logits, embeds = predict(segmenter.query_decoder, queries)
            asked = [
                Asked(self.matcher.per_frame(Predicted(*clip), features[b], targets[b], draws[b]))
                for b, clip in enumerate(zip(logits, embeds, strict=True))
            ]
            parts.append(self._per_frame_losses(logits, embeds, features, asked, targets, draws))
        return named(parts)


class TrackerStage(Stage):
    """The referring tracker on clips of a frozen segmenter's queries."""

    def losses(
        self,
        inputs: FrozenFeatures,
        targets: Sequence[ClipTargets],
        draws: Sequence[Draw],
        rule: MatchingRule,
    ) -> Losses:
        """Track from the first frame of each clip on and compare every block's output."""
        tracker = self.network.tracker
        assert tracker is not None
        layers, order = tracker.every_layer(inputs.queries, orders_of(self.network, inputs))
        features = inputs.mask_features
        guide: list[Asked] | None = None
        if rule.guided:
            with torch.no_grad():
                index = order.unsqueeze(-1).expand_as(inputs.queries)
                ordered = inputs.queries.gather(2, index)
                guide = self._match(
                    *predict(self.network.segmenter.query_decoder, ordered), features, targets, draws, rule
                )
        parts = []
        for queries in last_first(layers):
            logits, embeds = predict(tracker, queries)
            asked = guide or self._match(logits, embeds, features, targets, draws, rule)
            parts.append(self._per_frame_losses(logits, embeds, features, asked, targets, draws))
        return named(parts)

    def _match(
        self,
        logits: Tensor,
        embeds: Tensor,
        features: Tensor,
        targets: Sequence[ClipTargets],
        draws: Sequence[Draw],
        rule: MatchingRule,
    ) -> list[Asked]:
        if rule.patience is not None:
            return self._hand_over(logits, embeds, features, targets, draws, rule)
        return [
            Asked(
                self.matcher.first_appearance(
                    Predicted(logits[b], embeds[b]),
                    features[b],
                    targets[b],
                    draws[b],
                    convention=rule.convention,
                    always_present=rule.always_present,
                    appearance=rule.appearance,
                )
            )
            for b in range(len(targets))
        ]


class RefinerStage(Stage):
    """The temporal refiner on clips of a frozen tracker's tracks."""

    def losses(
        self,
        inputs: FrozenFeatures,
        targets: Sequence[ClipTargets],
        draws: Sequence[Draw],
        rule: MatchingRule,
    ) -> Losses:
        """Refine each clip as a whole and compare every block's output."""
        tracker, refiner = self.network.tracker, self.network.refiner
        assert tracker is not None and refiner is not None
        features = inputs.mask_features
        with torch.no_grad():
            tracks = tracker(inputs.queries, None, orders_of(self.network, inputs))[0]
            memory = tracker.frame_forward(inputs.queries)
            guide: list[Assignment] | None = None
            if rule.guided:
                embeds = tracker.mask_head(tracks.queries)
                online = tracks.class_logits.mean(dim=1)
                guide = self._match(online, embeds, features, targets, draws)
        parts = []
        for refined in last_first(refiner.every_layer(tracks.queries, memory)):
            embeds = refiner.mask_head(refined.queries).float()
            logits = refined.class_logits.float()
            if rule.patience is not None:
                once = logits.unsqueeze(1)  # one frame's worth of logits: they hold for the whole clip
                asked = self._hand_over(once, embeds, features, targets, draws, rule)
                parts.append(self._per_frame_losses(once, embeds, features, asked, targets, draws))
                continue
            pairs = guide or self._match(logits, embeds, features, targets, draws)
            parts.append(self._clip_losses(logits, embeds, features, pairs, targets, draws))
        return named(parts)

    def _match(
        self,
        logits: Tensor,
        embeds: Tensor,
        features: Tensor,
        targets: Sequence[ClipTargets],
        draws: Sequence[Draw],
    ) -> list[Assignment]:
        return [
            self.matcher.whole_clip(Predicted(logits[b][None], embeds[b]), features[b], targets[b], draws[b])
            for b in range(len(targets))
        ]

    def _clip_losses(
        self,
        logits: Tensor,
        embeds: Tensor,
        features: Tensor,
        pairs: Sequence[Assignment],
        targets: Sequence[ClipTargets],
        draws: Sequence[Draw],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of a layer where the T masks of an object are one tall picture. logits: (B, Q, K+1)."""
        classes = self.criterion.class_loss(logits, pairs, targets)
        masks = torch.cat([
            torch.einsum("tnc,tchw->nthw", embeds[b][:, pair.queries], features[b]).flatten(1, 2)
            for b, pair in enumerate(pairs)
        ])  # fmt: skip
        ids = torch.stack([target.ids.flatten(0, 1) for target in targets])
        counts = torch.tensor([len(pair.queries) for pair in pairs])
        rows = torch.arange(len(pairs)).repeat_interleave(counts).to(ids.device)
        wanted = torch.cat([pair.objects for pair in pairs]) + 1
        shares = [(len(pair.queries), draw) for pair, draw in zip(pairs, draws, strict=True)]
        mask, dice = self.criterion.mask_losses(masks, ids, rows, wanted, shares, tall=features.shape[1])
        total = process_mean(mask.new_tensor(float(len(masks)))).clamp(min=1)
        return classes, mask / total, dice / total


def predict(heads: QueryDecoder | ReferringTracker, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits (..., K+1) and mask embeddings (..., C) of queries (..., C), float32."""
    return heads.class_head(queries).float(), heads.mask_head(queries).float()


def orders_of(network: DvisModel, inputs: FrozenFeatures) -> Tensor | None:
    """(B, T, Q) int64: the orders of clips for a tracker that is not to match by itself; None for one that is."""
    if network.tracker is None or not network.tracker.needs_orders:
        return None
    with torch.no_grad():
        logits, embeds = predict(network.segmenter.query_decoder, inputs.queries)
        clips = zip(inputs.queries, logits, embeds, inputs.mask_features, strict=True)
        return torch.stack([orders_with_memory(*clip, None)[0] for clip in clips])


def matched_masks(embeds: Tensor, features: Tensor, pairs: Sequence[Assignment]) -> Tensor:
    """(M, h, w) mask logits of the matched queries alone, frame by frame.

    Args:
        embeds: (F, Q, C).
        features: (F, C, h, w).
        pairs: of each of the F frames.
    """
    most = max((len(pair.queries) for pair in pairs), default=0)
    index = torch.zeros(len(pairs), most, dtype=torch.int64, device=embeds.device)
    real = torch.zeros(len(pairs), most, dtype=torch.bool, device=embeds.device)
    for row, pair in enumerate(pairs):
        index[row, : len(pair.queries)] = pair.queries
        real[row, : len(pair.queries)] = True
    chosen = embeds.gather(1, index.unsqueeze(-1).expand(-1, -1, embeds.shape[-1]))
    return torch.einsum("fnc,fchw->fnhw", chosen, features)[real]


def last_first(layers: list[Layer]) -> list[Layer]:
    """The order in which layers are compared, and so draw their points: the last, then from the first on."""
    return [layers[-1], *layers[:-1]]


def named(parts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Losses:
    """`parts`: the last layer's (class, mask, dice), then those of the layers before it, first to last."""
    losses: Losses = {}
    for i, (classes, mask, dice) in enumerate(parts):
        suffix = "" if i == 0 else f"_{i - 1}"
        losses |= {f"loss_ce{suffix}": classes, f"loss_mask{suffix}": mask, f"loss_dice{suffix}": dice}
    return losses
