"""The losses of a layer: class, mask and dice (spec, section 6; equations 5 and 7 of the report)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .matcher import Assignment, CostWeights
from .points import Draw, sample_maps, sample_truth, uncertain_points
from .targets import ClipTargets

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class PointSettings:
    """Where masks are compared."""

    count: int = 12544  # points of a mask (of a frame of it, for the refiner)
    oversample: float = 3.0
    importance: float = 0.75


class Criterion:
    """Weighted losses of one layer's predictions for a batch of clips."""

    def __init__(
        self, weights: CostWeights, points: PointSettings, no_object: float = 0.1, empty_dice: bool = True
    ) -> None:
        self.weights, self.points, self.no_object = weights, points, no_object
        self.empty_dice = empty_dice

    def class_loss(
        self, logits: Tensor, pairs: Sequence[Assignment], targets: Sequence[ClipTargets]
    ) -> Tensor:
        """Cross entropy, "no object" weighted down, averaged by weight.

        Args:
            logits: (R, Q, K+1), a row per frame (or per clip, for the refiner).
            pairs: of each row; a query that stands twice answers for the object that comes last.
            targets: of each row.
        """
        rows, queries, nothing = *logits.shape[:2], logits.shape[2] - 1
        truth = torch.full((rows, queries), nothing, dtype=torch.int64, device=logits.device)
        for row, (pair, target) in enumerate(zip(pairs, targets, strict=True)):
            truth[row, pair.queries] = target.classes[pair.objects]
        weight = torch.ones(nothing + 1, device=logits.device)
        weight[nothing] = self.no_object
        loss = F.cross_entropy(logits.float().flatten(0, 1), truth.flatten(), weight, reduction="sum")
        return self.weights.classes * loss / process_mean(weight[truth].sum())

    def mask_losses(
        self,
        masks: Tensor,
        ids: Tensor,
        rows: Tensor,
        wanted: Tensor,
        draws: list[tuple[int, Draw]],
        tall: int,
    ) -> tuple[Tensor, Tensor]:
        """Summed binary cross entropy and dice of matched masks.

        Args:
            masks: (M, h, w) logits.
            ids: (R, H, W) id maps; mask m is `ids[rows[m]] == wanted[m]`.
            draws: for each clip in turn, how many of the masks are its own, and its source of points.
            tall: frames that a mask is made of, 1 for single frames; multiplies the points.
        """
        if not len(masks):
            return masks.sum(), masks.sum()
        logits = masks[:, None].float()
        settings = self.points
        points = torch.cat([
            uncertain_points(part, settings.count * tall, settings.oversample, settings.importance, draw)
            for part, (_, draw) in zip(logits.split([n for n, _ in draws]), draws, strict=True)
            if len(part)
        ])  # fmt: skip
        sampled = sample_maps(logits, points)[:, 0]
        with torch.no_grad():
            truth = sample_truth(ids, rows, wanted, points)
        cross_entropy = F.binary_cross_entropy_with_logits(sampled, truth, reduction="none").mean(1).sum()
        probability = sampled.sigmoid()
        overlap = 2 * (probability * truth).sum(-1)
        dice = 1 - (overlap + 1) / (probability.sum(-1) + truth.sum(-1) + 1)
        if not self.empty_dice:
            dice = dice * _seen(ids, rows, wanted)
        return self.weights.mask * cross_entropy, self.weights.dice * dice.sum()


def _seen(ids: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
    """(M,) bool: the mask `ids[rows[m]] == wanted[m]` has a pixel."""
    values = ids.flatten(1).long()
    most = int(max(values.max(), wanted.max()))
    seen = torch.zeros(len(ids), most + 1, dtype=torch.bool, device=ids.device)
    return seen.scatter_(1, values, True)[rows, wanted.long()]


def process_mean(value: Tensor) -> Tensor:
    """The mean over all training processes; the value itself where there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        value = value.clone()
        torch.distributed.all_reduce(value)
        value = value / torch.distributed.get_world_size()
    return value
