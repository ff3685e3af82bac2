"""Which query answers for which object: the matching cost and the three rules that use it.

Segmenter: every frame for itself. Tracker: on the frame where an object first appears, and then for good
(equation 4). Refiner: once a clip, with the frames of a mask as one tall picture (equation 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .points import Draw, sample_maps, sample_truth
from .targets import ClipTargets

Convention = Literal["report", "official"]


@dataclass(frozen=True)
class CostWeights:
    """Of the matching cost and of the loss alike."""

    classes: float = 2.0
    mask: float = 5.0
    dice: float = 5.0


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a layer says of one clip.

    Class logits are (T, Q, K+1), or (1, Q, K+1) where one distribution holds for the whole clip.
    """

    class_logits: Tensor
    mask_embeds: Tensor  # (T, Q, C)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Pairs of one frame, or of a whole clip: query `queries[i]` answers for object `objects[i]`."""

    queries: Tensor  # (N,) int64
    objects: Tensor  # (N,) int64

    @staticmethod
    def empty(device: torch.device) -> Assignment:
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        return Assignment(nothing, nothing)


@dataclass(frozen=True, slots=True)
class Asked:
    """What one clip's queries are asked for."""

    masks: list[Assignment]  # of each frame; object N has no pixel anywhere
    classes: Assignment | None = None  # of the mean of the clip's logits; None: as the masks, frame by frame


class Matcher:
    """Solves assignments; draws `points` fresh points for each."""

    def __init__(self, weights: CostWeights, points: int) -> None:
        self.weights, self.points = weights, points

    def per_frame(
        self, predicted: Predicted, features: Tensor, targets: ClipTargets, draw: Draw
    ) -> list[Assignment]:
        """Match all objects of the clip in every frame. features: (T, C, h, w)."""
        objects = torch.arange(len(targets.classes), device=features.device)
        return [self.one_frame(predicted, features, targets, f, objects, draw) for f in range(len(features))]

    def first_appearance(
        self,
        predicted: Predicted,
        features: Tensor,
        targets: ClipTargets,
        draw: Draw,
        *,
        convention: Convention = "report",
        always_present: bool = False,
        appearance: float = 0.0,
    ) -> list[Assignment]:
        """Match each object on the frame where it first appears; that holds for all frames.

        Args:
            convention: "report" uses a query once per clip (equation 4); "official" lets objects that appear
                in different frames share one, as the published code does.
            always_present: count every object as present from the first frame on, as the official loader
                of panoptic data does.
            appearance: share of its largest area that must be seen of an object; 0: any pixel, as published.
        """
        first = targets.first(appearance)
        if always_present:
            first = torch.zeros_like(first)
        queries = torch.zeros_like(first)
        taken = torch.zeros(predicted.mask_embeds.shape[1], dtype=torch.bool, device=features.device)
        found = []
        for frame in sorted(set(first.tolist())):
            new = (first == frame).nonzero().squeeze(1)
            block = taken if convention == "report" else None
            pairs = self.one_frame(predicted, features, targets, frame, new, draw, block)
            queries[pairs.objects] = pairs.queries
            taken[pairs.queries] = True
            found.append(pairs.objects)
        objects = torch.cat(found) if found else first
        return [Assignment(queries[objects], objects)] * len(features)

    def whole_clip(
        self, predicted: Predicted, features: Tensor, targets: ClipTargets, draw: Draw
    ) -> Assignment:
        """Match once, the T frames of a mask taken as one tall picture (T * H, W)."""
        count = self.points * len(features)
        objects = torch.arange(len(targets.classes), device=features.device)
        if not len(objects):
            return Assignment.empty(features.device)
        points = draw(1, count)
        with torch.no_grad():
            logits = _tall_logits(predicted.mask_embeds, features, points[0])
            cost = self._cost(
                predicted.class_logits[0],
                logits,
                targets.ids.flatten(0, 1)[None],
                0,
                objects,
                targets,
                points,
            )
        return _solve(cost, objects)

    def one_frame(
        self,
        predicted: Predicted,
        features: Tensor,
        targets: ClipTargets,
        frame: int,
        objects: Tensor,
        draw: Draw,
        taken: Tensor | None = None,
    ) -> Assignment:
        """Match some of the objects in one frame; `taken` (Q,) bool answer for others already."""
        if not len(objects):
            return Assignment.empty(features.device)
        points = draw(1, self.points)
        with torch.no_grad():
            sampled = sample_maps(features[frame : frame + 1].float(), points)[0]
            logits = predicted.mask_embeds[frame].float() @ sampled
            class_logits = predicted.class_logits[frame if len(predicted.class_logits) > 1 else 0]
            cost = self._cost(class_logits, logits, targets.ids, frame, objects, targets, points)
            if taken is not None:
                cost[taken] = TAKEN
        return _solve(cost, objects)

    def _cost(
        self,
        class_logits: Tensor,
        logits: Tensor,
        ids: Tensor,
        row: int,
        objects: Tensor,
        targets: ClipTargets,
        points: Tensor,
    ) -> Tensor:
        """(Q, N) cost of class (Q, K+1), mask and dice at the points (Q, P) against N objects."""
        rows = torch.full_like(objects, row)
        truth = sample_truth(ids, rows, objects + 1, points.expand(len(objects), -1, -1))
        classes = class_logits.float().softmax(-1)[:, targets.classes[objects]]
        # Binary cross entropy against 0/1 truth is linear in the truth, so one product serves all pairs.
        mask = F.softplus(-logits) @ truth.T + F.softplus(logits) @ (1 - truth).T
        probability = logits.sigmoid()
        overlap = 2 * probability @ truth.T
        size = probability.sum(-1)[:, None] + truth.sum(-1)[None]
        dice = 1 - (overlap + 1) / (size + 1)
        weights = self.weights
        return weights.mask * mask / logits.shape[1] - weights.classes * classes + weights.dice * dice


TAKEN = 1e6  # cost of a query that answers for another object already


def _solve(cost: Tensor, objects: Tensor) -> Assignment:
    """Minimal assignment; a broken prediction (NaN) is matched like one of no merit."""
    rows, columns = linear_sum_assignment(cost.nan_to_num(nan=TAKEN).cpu().numpy())
    device = objects.device
    return Assignment(torch.from_numpy(rows).to(device), objects[torch.from_numpy(columns).to(device)])


def _tall_logits(embeds: Tensor, features: Tensor, points: Tensor) -> Tensor:
    """(Q, P) mask logits at points of the picture made of all frames one below the other.

    Each frame adds what its own rows contribute, which is right also where a point lies between the last row of
    one frame and the first of the next; no mask of all queries and frames is ever made.

    Args:
        embeds: (T, Q, C).
        features: (T, C, h, w).
        points: (P, 2).
    """
    frames, _, height, _ = features.shape
    total = embeds.new_zeros(embeds.shape[1], len(points), dtype=torch.float32)
    line = points[:, 1] * (frames * height) - 0.5  # row of the tall picture
    for frame in range(frames):
        top = frame * height
        near = ((line > top - 1) & (line < top + height)).nonzero().squeeze(1)
        local = torch.stack((points[near, 0], (line[near] + 0.5 - top) / height), dim=-1)
        sampled = sample_maps(features[frame : frame + 1].float(), local[None])[0]
        total[:, near] += embeds[frame].float() @ sampled
    return total
