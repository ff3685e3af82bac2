"""Which queries of different views are the same object: pairs by Hungarian matching, groups grown from pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .grid import soft_iou


@dataclass(frozen=True)
class Candidates:
    """The queries of one view that may stand for something, after a horizon."""

    queries: Tensor  # (N,) int64: rows of the view's tracks
    class_probs: Tensor  # (N, K+1) float32, "no object" last
    embeds: Tensor  # (N, C) float32: refined queries averaged over the frames


def finds_most(views: Sequence[Candidates]) -> int:
    """The view whose candidates have the largest sum of class probabilities; of equals the first."""
    sums = [float(view.class_probs[:, :-1].double().amax(dim=1).sum()) for view in views]
    return sums.index(max(sums))


@dataclass(frozen=True)
class Weights:
    """What an affinity is made of; the three add up to 1."""

    classes: float = 0.2  # similarity of the class distributions
    queries: float = 0.2  # cosine similarity of the queries
    masks: float = 0.6  # soft IoU over the horizon


def affinities(views: Sequence[Candidates], products: Tensor, weights: Weights) -> Tensor:
    """How much any two candidates look like one object.

    Args:
        views: N candidates in all.
        products: (N, N) of an `OverlapSums`, in the order of the views.

    Returns:
        (N, N) float64 in 0..1, symmetric, and 1 on the diagonal, up to rounding.
    """
    real = torch.cat([view.class_probs for view in views])[:, :-1].cpu().double()
    roots = (real / real.sum(dim=1, keepdim=True).clamp(min=1e-12)).sqrt()
    embeds = torch.cat([view.embeds for view in views]).cpu().double()
    units = (embeds / embeds.norm(dim=1, keepdim=True).clamp(min=1e-12)).nan_to_num(nan=0.0)
    return (
        weights.classes * (roots @ roots.T)
        + weights.queries * (units @ units.T).clamp(min=0)
        + weights.masks * soft_iou(products)
    )


def group(affinity: Tensor, counts: Sequence[int], accept: float) -> list[list[int]]:
    """Groups of candidates that are one object each, with at most one candidate of a view.

    Every two views are matched alone. The pairs then join groups, best pair first, as long as the two groups
    have no view in common and their members agree on average. No view is special: their order does not matter.

    Args:
        affinity: (N, N) float64, symmetric.
        counts: candidates of each view, N in all.
        accept: affinity from which two candidates may be one object.

    Returns:
        groups of candidate numbers, each ascending; every candidate is in exactly one.
    """
    table = affinity.cpu().numpy()
    view_of = np.repeat(np.arange(len(counts)), counts)
    groups = [[number] for number in range(len(view_of))]
    for _, one, other in sorted(_pairs(table, counts, accept)):
        a, b = groups[one], groups[other]
        if a is b or set(view_of[a]) & set(view_of[b]) or table[np.ix_(a, b)].mean() < accept:
            continue
        joined = sorted(a + b)
        for number in joined:
            groups[number] = joined
    return [members for number, members in enumerate(groups) if members[0] == number]


def _pairs(table: np.ndarray, counts: Sequence[int], accept: float) -> Iterator[tuple[float, int, int]]:
    """(-affinity, candidate, candidate) of every accepted pair of two views, each view at most once a pair of views."""
    ends = np.cumsum(counts)
    spans = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    for one, other in combinations(spans, 2):
        block = table[one, other]
        # A pair counts with what it has above the bar: two poor pairs must not outweigh a good one.
        rows, columns = linear_sum_assignment(np.maximum(block - accept, 0), maximize=True)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if block[row, column] >= accept:
                yield -float(block[row, column]), int(one.start) + row, int(other.start) + column
