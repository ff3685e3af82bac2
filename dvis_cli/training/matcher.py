"""Which query is assigned to which object: the matching cost and the three rules that use it.

Segmenter: every frame for itself. Tracker: on the frame where an object first appears, for the whole clip
(equation 4). Refiner: once a clip, with the frames of a mask as one tall picture (equation 6).
Costs are computed on the device and fetched once a clip; assignments are solved and kept on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .points import Draw, sample_maps, sample_truth
from .targets import ClipTargets

Convention = Literal["report", "official"]
Ints = npt.NDArray[np.int64]
TAKEN = 1e6  # cost of a query that is assigned to another object already


@dataclass(frozen=True)
class CostWeights:
    """Of the matching cost and of the loss alike."""

    classes: float = 2.0
    mask: float = 5.0
    dice: float = 5.0


@dataclass(frozen=True)
class MatchingRule:
    """Which of the ways to assign queries to objects."""

    # Match by the output of the frozen part before; the report does so for the first half.
    guided: bool = False
    # "report" uses a query once per clip (equation 4); "official" lets objects that appear in different frames share
    # one, as the published code does.
    convention: Convention = "report"
    appearance: float = 0.0  # share of its largest area that an object must show to be matched; 0: any pixel
    patience: int | None = None  # frames a track may miss its object before another takes over; None: all


@dataclass(frozen=True, slots=True)
class Predicted:
    """A layer's output for one clip, all float32."""

    class_logits: Tensor  # (T, Q, K+1), or (1, Q, K+1) where one distribution holds for the whole clip
    mask_embeds: Tensor  # (T, Q, C)
    features: Tensor  # (T, C, h, w) mask features


@dataclass(frozen=True, slots=True)
class Assignment:
    """Pairs of one frame, or of a whole clip: query `queries[i]` is assigned to object `objects[i]`."""

    queries: Ints  # (N,)
    objects: Ints  # (N,)


@dataclass(frozen=True, slots=True)
class ClipAssignment:
    """The targets of one clip's queries."""

    masks: list[Assignment]  # of each frame, or one for the whole clip; object N has no pixel anywhere
    classes: Assignment | None = None  # of the mean of the clip's logits; None: as the masks


class Matcher:
    """Solves assignments; draws `points` fresh points for each."""

    def __init__(self, weights: CostWeights, points: int) -> None:
        self.weights, self.points = weights, points

    def per_frame(self, predicted: Predicted, targets: ClipTargets, draw: Draw) -> list[Assignment]:
        """Match all objects of the clip in every frame."""
        objects = np.arange(len(targets.classes))
        frames = range(len(predicted.features))
        return [solve(cost, objects) for cost in self.costs(predicted, targets, frames, draw)]

    def first_appearance(
        self, predicted: Predicted, targets: ClipTargets, draw: Draw, rule: MatchingRule
    ) -> list[Assignment]:
        """Match each object on the frame where it first appears; that holds for all frames."""
        first = targets.first(rule.appearance)
        queries, found = np.zeros_like(first), []
        taken = np.zeros(predicted.mask_embeds.shape[1], dtype=bool)
        frames = np.unique(first).tolist()
        for frame, cost in zip(frames, self.costs(predicted, targets, frames, draw), strict=True):
            exclusive = taken if rule.convention == "report" else None
            pairs = solve(cost, np.flatnonzero(first == frame), exclusive)
            queries[pairs.objects] = pairs.queries
            taken[pairs.queries] = True
            found.append(pairs.objects)
        objects = np.concatenate(found) if found else first
        return [Assignment(queries[objects], objects)] * len(predicted.features)

    def whole_clip(self, predicted: Predicted, targets: ClipTargets, draw: Draw) -> Assignment:
        """Match once, the T frames of a mask taken as one tall picture (T * H, W)."""
        objects = np.arange(len(targets.classes))
        if not len(objects):
            return Assignment(objects, objects)
        points = draw(1, self.points * len(predicted.features))
        points = points[:, points[0, :, 1].argsort()]  # from top to bottom
        with torch.no_grad():
            logits = _tall_logits(predicted, points[0])[None]
            tall = targets.ids.flatten(0, 1)[None]
            cost = self._cost(predicted.class_logits, logits, tall, targets.classes, points)
        return solve(cost[0], objects)

    def costs(
        self, predicted: Predicted, targets: ClipTargets, frames: Sequence[int], draw: Draw
    ) -> npt.NDArray[np.float32]:
        """(F, Q, N) on the host: the costs of all queries and objects in some frames."""
        if not len(frames) or not len(targets.classes):
            return np.zeros((len(frames), predicted.mask_embeds.shape[1], len(targets.classes)), np.float32)
        index = list(frames)
        points = torch.cat([draw(1, self.points) for _ in index])
        with torch.no_grad():
            sampled = torch.cat([
                sample_maps(predicted.features[frame : frame + 1], points[i : i + 1])
                for i, frame in enumerate(index)
            ])  # fmt: skip
            logits = predicted.mask_embeds[index] @ sampled
            shared = len(predicted.class_logits) == 1
            class_logits = predicted.class_logits[[0] * len(index) if shared else index]
            return self._cost(class_logits, logits, targets.ids[index], targets.classes, points)

    def _cost(
        self, class_logits: Tensor, logits: Tensor, ids: Tensor, classes: Tensor, points: Tensor
    ) -> npt.NDArray[np.float32]:
        """(F, Q, N) cost of class (F, Q, K+1) and mask logits at the points (F, Q, P) against all objects of `ids`."""
        frames, device = len(logits), logits.device
        wanted = torch.arange(1, len(classes) + 1, device=device).expand(frames, -1)
        truth = sample_truth(ids, torch.arange(frames, device=device), wanted, points).transpose(1, 2)
        # Binary cross entropy against 0/1 truth is linear in the truth, so one product serves all pairs.
        mask = F.softplus(-logits) @ truth + F.softplus(logits) @ (1 - truth)
        probability = logits.sigmoid()
        size = probability.sum(-1)[:, :, None] + truth.sum(1)[:, None]
        dice = 1 - (2 * probability @ truth + 1) / (size + 1)
        likely = class_logits.softmax(-1)[..., classes]
        weights = self.weights
        cost = weights.mask * mask / logits.shape[2] - weights.classes * likely + weights.dice * dice
        # A broken prediction (NaN) is matched like one of no merit.
        return fetch(cost.nan_to_num(nan=TAKEN))


def solve(
    cost: npt.NDArray[np.float32], objects: Ints, taken: npt.NDArray[np.bool_] | None = None
) -> Assignment:
    """The Hungarian method on some of the N objects of costs (Q, N); `taken` (Q,) queries only if no other is left."""
    cost = cost[:, objects]
    if taken is not None:
        cost[taken] = TAKEN
    rows, columns = linear_sum_assignment(cost)
    return Assignment(rows, objects[columns])


def fetch(values: Tensor) -> npt.NDArray[Any]:
    """A tensor on the host. The device is waited for, so this is done once a clip and layer and never in a loop."""
    return values.cpu().numpy()


def _tall_logits(predicted: Predicted, points: Tensor) -> Tensor:
    """(Q, P) mask logits at points (P, 2), from top to bottom, of the picture made of all frames one below the other.

    Each frame adds what its own rows contribute, which is right also where a point lies between the last row of
    one frame and the first of the next; no mask of all queries and frames is ever made.
    """
    embeds, features = predicted.mask_embeds, predicted.features
    frames, _, height, _ = features.shape
    line = (points[:, 1] * (frames * height) - 0.5).contiguous()  # row of the tall picture
    tops = height * torch.arange(frames, device=line.device, dtype=line.dtype)
    # The points that a frame has a part in, as those of its rows or of the gaps beside them.
    starts, stops = torch.searchsorted(line, tops - 1, right=True), torch.searchsorted(line, tops + height)
    total = embeds.new_zeros(embeds.shape[1], len(points))
    for frame, (start, stop) in enumerate(fetch(torch.stack((starts, stops), dim=1)).tolist()):
        y = (line[start:stop] + 0.5 - frame * height) / height
        local = torch.stack((points[start:stop, 0], y), dim=-1)
        sampled = sample_maps(features[frame : frame + 1], local[None])[0]
        total[:, start:stop] += embeds[frame] @ sampled
    return total
