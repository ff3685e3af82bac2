"""The losses of a layer: class, mask and dice (report, equations 5 and 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
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


@dataclass(frozen=True, slots=True)
class MatchedMasks:
    """The M masks of assigned queries, clip after clip, and their truth: mask m is `ids[rows[m]] == wanted[m]`."""

    logits: Tensor  # (M, h, w) float32
    ids: Tensor  # (R, H, W)
    rows: Tensor  # (M,) int64
    wanted: Tensor  # (M,) int64
    present: Tensor  # (M,) bool: the truth has a pixel
    shares: list[int]  # of each clip, how many of the masks are its own
    tall: int = 1  # frames that a mask is made of; multiplies the points


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
        """Cross entropy, no-object weighted down, averaged by weight.

        Args:
            logits: (R, Q, K+1), a row per frame or per clip, clip after clip.
            pairs: of each row; a query that stands twice is assigned to the object that comes last.
            targets: of each clip.
        """
        no_object, each = logits.shape[2] - 1, len(logits) // len(targets)
        starts = np.cumsum([0, *(len(target.classes) for target in targets)])
        numbers = np.full(logits.shape[:2], -1)
        for row, pair in enumerate(pairs):
            numbers[row, pair.queries] = starts[row // each] + pair.objects
        device = logits.device
        last = torch.full((1,), no_object, dtype=torch.int64, device=device)
        classes = torch.cat([*(target.classes for target in targets), last])
        truth = classes[torch.from_numpy(numbers).to(device)]
        weight = torch.ones(no_object + 1, device=device)
        weight[no_object] = self.no_object
        loss = F.cross_entropy(logits.flatten(0, 1), truth.flatten(), weight, reduction="sum")
        return self.weights.classes * loss / process_mean(weight[truth].sum())

    def mask_losses(self, masks: MatchedMasks, draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
        """Binary cross entropy and dice, averaged over the masks of all processes. `draws`: of each clip."""
        total = process_mean(masks.logits.new_tensor(float(len(masks.logits)))).clamp(min=1)
        if not len(masks.logits):
            return masks.logits.sum(), masks.logits.sum()
        logits = masks.logits[:, None]
        settings, count = self.points, self.points.count * masks.tall
        points = torch.cat([
            uncertain_points(part, count, settings.oversample, settings.importance, draw)
            for part, draw in zip(logits.split(masks.shares), draws, strict=True)
            if len(part)
        ])  # fmt: skip
        sampled = sample_maps(logits, points)[:, 0]
        with torch.no_grad():
            truth = sample_truth(masks.ids, masks.rows, masks.wanted[:, None], points)[:, 0]
        cross_entropy = F.binary_cross_entropy_with_logits(sampled, truth, reduction="none").mean(1)
        probability = sampled.sigmoid()
        overlap = 2 * (probability * truth).sum(-1)
        dice = 1 - (overlap + 1) / (probability.sum(-1) + truth.sum(-1) + 1)
        if not self.empty_dice:
            dice = dice * masks.present
        return self.weights.mask * cross_entropy.sum() / total, self.weights.dice * dice.sum() / total


def process_mean(value: Tensor) -> Tensor:
    """The mean over all training processes; the value itself where there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        value = value.clone()
        torch.distributed.all_reduce(value)
        value = value / torch.distributed.get_world_size()
    return value
