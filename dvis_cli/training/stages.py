"""The three stages of training: from a batch of clips to named losses.

    segmenter   every frame for itself; VidEoMT: clips                    trains  network.segmenter
    tracker     clips; the segmenter is frozen        (equations 4, 5)    trains  network.tracker
    refiner     longer clips; both others are frozen  (equations 6, 7)    trains  network.refiner

A frozen part runs in eval mode and without gradients. Networks may run under autocast; matching and losses never do.
Losses are named as the field does: `loss_ce`, `loss_mask`, `loss_dice` of the last layer, with `_0`, `_1`, ... of the
layers before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dvis_cli.run.model import DvisModel
from dvis_cli.segmenter.query_decoder import QueryDecoder
from dvis_cli.segmenter.segmenter import Segmenter
from dvis_cli.segmenter.videomt import VideoMT
from dvis_cli.tracker.memory import orders_with_memory
from dvis_cli.tracker.tracker import ReferringTracker

from .losses import Criterion, Losses, MatchedMasks
from .matcher import Assignment, ClipAssignment, Matcher, MatchingRule, Predicted
from .ownership import handed_over
from .points import Draw
from .targets import ClipTargets, FrozenFeatures


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's output for a batch of clips, float32."""

    class_logits: Tensor  # (B, T, Q, K+1), or (B, 1, Q, K+1) where one distribution holds for the whole clip
    mask_embeds: Tensor  # (B, T, Q, C)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a stage compares with the truth."""

    layers: list[Layer]  # first to last
    features: Tensor  # (B, T, C, h, w) float32 mask features
    guide: Layer | None = None  # of the frozen part before, where that is to be matched


class Stage(ABC):
    """What the three have in common: every layer is matched, and its losses are summed over a batch."""

    def __init__(self, network: DvisModel, matcher: Matcher, criterion: Criterion) -> None:
        self.network, self.matcher, self.criterion = network, matcher, criterion
        self.helpers: dict[str, nn.Module] = {}  # losses on the mask features of the segmenter

    def losses(
        self,
        inputs: Tensor | FrozenFeatures,
        targets: Sequence[ClipTargets],
        draws: Sequence[Draw],
        rule: MatchingRule,
    ) -> Losses:
        """Named losses of a batch.

        Args:
            inputs: (B, T, 3, H, W) normalised frames for the segmenter, the frozen segmenter's output for the others.
            targets, draws: of each clip.
            rule: how queries are assigned to objects.
        """
        outputs = self.forward(inputs, rule.guided)
        features, layers = outputs.features, outputs.layers
        losses: Losses = {}
        with torch.autocast(features.device.type, enabled=False):
            guide = None
            if outputs.guide is not None:
                guide = self._match(outputs.guide, features, targets, draws, rule)
            # The last layer comes first: the order in which points are drawn.
            named = [("", layers[-1]), *((f"_{i}", layer) for i, layer in enumerate(layers[:-1]))]
            for suffix, layer in named:
                assigned = guide or self._match(layer, features, targets, draws, rule)
                parts = self._compare(layer, features, assigned, targets, draws)
                losses |= {f"loss_{name}{suffix}": part for name, part in parts.items()}
            for name, helper in self.helpers.items():
                losses[f"loss_{name}"] = helper(features, targets)
        return losses

    @abstractmethod
    def forward(self, inputs: Tensor | FrozenFeatures, guided: bool) -> Outputs:
        """The outputs of all layers; with `guided` also that of the frozen part before."""

    @abstractmethod
    def assign(
        self, predicted: Predicted, targets: ClipTargets, draw: Draw, rule: MatchingRule
    ) -> ClipAssignment:
        """Match one clip."""

    def _match(
        self,
        layer: Layer,
        features: Tensor,
        targets: Sequence[ClipTargets],
        draws: Sequence[Draw],
        rule: MatchingRule,
    ) -> list[ClipAssignment]:
        clips = zip(layer.class_logits, layer.mask_embeds, features, targets, draws, strict=True)
        return [self.assign(Predicted(*clip), target, draw, rule) for *clip, target, draw in clips]

    def _compare(
        self,
        layer: Layer,
        features: Tensor,
        assigned: Sequence[ClipAssignment],
        targets: Sequence[ClipTargets],
        draws: Sequence[Draw],
    ) -> Losses:
        """A layer's losses. features: (B, T, C, h, w)."""
        flat = [pairs for clip in assigned for pairs in clip.masks]
        of_clips = [clip.classes for clip in assigned if clip.classes is not None]
        if of_clips:
            classes = self.criterion.class_loss(layer.class_logits.mean(1), of_clips, targets)
        else:
            classes = self.criterion.class_loss(layer.class_logits.flatten(0, 1), flat, targets)
        masks = matched_masks(layer.mask_embeds, features, assigned, targets)
        mask, dice = self.criterion.mask_losses(masks, draws)
        return {"ce": classes, "mask": mask, "dice": dice}


class SegmenterStage(Stage):
    """Mask2Former on single frames."""

    def forward(self, inputs: Tensor | FrozenFeatures, guided: bool) -> Outputs:
        assert isinstance(inputs, Tensor)
        segmenter = self.network.segmenter
        assert isinstance(segmenter, Segmenter)
        pixels = segmenter.pixel_decoder(segmenter.backbone(inputs.flatten(0, 1)))
        layers = [
            predict(segmenter.query_decoder, queries.unflatten(0, inputs.shape[:2]))
            for queries in segmenter.query_decoder.every_layer(pixels)
        ]
        return Outputs(layers, pixels.mask_features.float().unflatten(0, inputs.shape[:2]))

    def assign(
        self, predicted: Predicted, targets: ClipTargets, draw: Draw, rule: MatchingRule
    ) -> ClipAssignment:
        return ClipAssignment(self.matcher.per_frame(predicted, targets, draw))


class VideoMTStage(Stage):
    """VidEoMT on clips: its rows are tracks, so an object keeps the query of its first appearance."""

    def forward(self, inputs: Tensor | FrozenFeatures, guided: bool) -> Outputs:
        segmenter = self.network.segmenter
        assert isinstance(inputs, Tensor) and isinstance(segmenter, VideoMT)
        outputs = [segmenter(clip) for clip in inputs]
        features = torch.stack([output.mask_features for output in outputs]).float()
        return Outputs([predict(segmenter, torch.stack([output.queries for output in outputs]))], features)

    def assign(
        self, predicted: Predicted, targets: ClipTargets, draw: Draw, rule: MatchingRule
    ) -> ClipAssignment:
        return ClipAssignment(self.matcher.first_appearance(predicted, targets, draw, rule))


class TrackerStage(Stage):
    """The referring tracker on clips of a frozen segmenter's queries, from the first frame of each clip on."""

    def forward(self, inputs: Tensor | FrozenFeatures, guided: bool) -> Outputs:
        tracker = self.network.tracker
        assert isinstance(tracker, ReferringTracker) and isinstance(inputs, FrozenFeatures)
        queries, order = tracker.every_layer(inputs.queries, orders_of(self.network, inputs))
        guide = None
        if guided:
            with torch.no_grad():
                ordered = inputs.queries.gather(2, order.unsqueeze(-1).expand_as(inputs.queries))
                guide = predict(self.network.query_decoder, ordered)
        return Outputs([predict(tracker, layer) for layer in queries], inputs.mask_features, guide)

    def assign(
        self, predicted: Predicted, targets: ClipTargets, draw: Draw, rule: MatchingRule
    ) -> ClipAssignment:
        if rule.patience is not None:
            return handed_over(self.matcher, predicted, targets, draw, rule)
        return ClipAssignment(self.matcher.first_appearance(predicted, targets, draw, rule))


class RefinerStage(Stage):
    """The temporal refiner on clips of a frozen tracker's tracks, each clip as a whole."""

    def forward(self, inputs: Tensor | FrozenFeatures, guided: bool) -> Outputs:
        tracker, refiner = self.network.tracker, self.network.refiner
        assert tracker is not None and refiner is not None and isinstance(inputs, FrozenFeatures)
        with torch.no_grad():
            tracks = tracker(inputs.queries, None, orders_of(self.network, inputs))[0]
            before, memory = tracker.refiner_inputs(inputs.queries, tracks)
            guide = None
            if guided:
                online = tracks.class_logits.mean(dim=1, keepdim=True).float()
                guide = Layer(online, tracker.mask_head(tracks.queries).float())
        layers = [
            Layer(refined.class_logits.float().unsqueeze(1), refiner.mask_head(refined.queries).float())
            for refined in refiner.every_layer(before, memory)
        ]
        return Outputs(layers, inputs.mask_features, guide)

    def assign(
        self, predicted: Predicted, targets: ClipTargets, draw: Draw, rule: MatchingRule
    ) -> ClipAssignment:
        if rule.patience is not None:
            return handed_over(self.matcher, predicted, targets, draw, rule)
        return ClipAssignment([self.matcher.whole_clip(predicted, targets, draw)])


def predict(heads: QueryDecoder | ReferringTracker | VideoMT, queries: Tensor) -> Layer:
    """The class logits and mask embeddings of queries (B, T, Q, C)."""
    return Layer(heads.class_head(queries).float(), heads.mask_head(queries).float())


def orders_of(network: DvisModel, inputs: FrozenFeatures) -> Tensor | None:
    """(B, T, Q) int64: the orders of clips for a tracker that is not to match by itself; None for one that is."""
    if network.tracker is None or not network.tracker.needs_orders:
        return None
    with torch.no_grad(), torch.autocast(inputs.queries.device.type, enabled=False):
        heads = predict(network.query_decoder, inputs.queries)
        clips = zip(inputs.queries, heads.class_logits, heads.mask_embeds, inputs.mask_features, strict=True)
        return torch.stack([orders_with_memory(*clip, None)[0] for clip in clips])


def matched_masks(
    embeds: Tensor, features: Tensor, assigned: Sequence[ClipAssignment], targets: Sequence[ClipTargets]
) -> MatchedMasks:
    """The masks of the assigned queries alone: frame by frame, or each object's T frames as one tall mask.

    Args:
        embeds: (B, T, Q, C).
        features: (B, T, C, h, w).
    """
    frames, device = embeds.shape[1], embeds.device
    tall = frames if len(assigned[0].masks) == 1 else 1
    flat = [pairs for clip in assigned for pairs in clip.masks]
    counts = [len(pairs.queries) for pairs in flat]
    objects = np.concatenate([pairs.objects for pairs in flat])
    rows = np.repeat(np.arange(len(flat)), counts)
    if tall > 1:
        parts = [
            torch.einsum("tnc,tchw->nthw", embed[:, pairs.queries], feature).flatten(1, 2)
            for embed, feature, pairs in zip(embeds, features, flat, strict=True)
        ]
        logits, ids = torch.cat(parts), torch.stack([target.ids.flatten(0, 1) for target in targets])
    else:
        logits = _frame_masks(embeds.flatten(0, 1), features.flatten(0, 1), flat)
        ids = torch.cat([target.ids for target in targets])
    shares = [sum(len(pairs.queries) for pairs in clip.masks) for clip in assigned]
    return MatchedMasks(
        logits,
        ids,
        torch.from_numpy(rows).to(device),
        torch.from_numpy(objects + 1).to(device),
        torch.from_numpy(_present(assigned, targets)).to(device),
        shares,
        tall,
    )


def _present(assigned: Sequence[ClipAssignment], targets: Sequence[ClipTargets]) -> np.ndarray:
    """(M,) bool: which of the assigned masks have a pixel."""
    found: list[np.ndarray] = []
    for clip, target in zip(assigned, targets, strict=True):
        areas = np.pad(target.areas, ((0, 1), (0, 0)))  # object N has none
        if len(clip.masks) == 1:
            areas = areas.sum(axis=1, keepdims=True)
        found += [areas[pairs.objects, frame] > 0 for frame, pairs in enumerate(clip.masks)]
    return np.concatenate(found)


def _frame_masks(embeds: Tensor, features: Tensor, pairs: Sequence[Assignment]) -> Tensor:
    """(M, h, w) mask logits of the assigned queries of F frames: embeds (F, Q, C), features (F, C, h, w)."""
    counts = np.array([len(pair.queries) for pair in pairs])
    index = np.zeros((len(pairs), counts.max(initial=0)), np.int64)
    for row, pair in zip(index, pairs, strict=True):
        row[: len(pair.queries)] = pair.queries
    chosen = embeds.gather(
        1, torch.from_numpy(index).to(embeds.device).unsqueeze(-1).expand(-1, -1, embeds.shape[-1])
    )
    real = np.flatnonzero(np.arange(index.shape[1]) < counts[:, None])
    masks = torch.einsum("fnc,fchw->fnhw", chosen, features).flatten(0, 1)
    return masks[torch.from_numpy(real).to(embeds.device)]
