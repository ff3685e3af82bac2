"""Assignments that change hands when a track loses its object: not in the report, off by default.

Equation 4 assigns an object to the query that had it first, for the whole clip. Where frame-by-frame matching often
loses objects, that trains what cannot be known: after a track has gone over to a look-alike its references hold
nothing of the old object, yet that object's mask is its target in every later frame, and the target of the query that
finds the object again is an empty mask. Here the owner keeps its object as target for a few more frames, which it can
learn; then a query that covers the object takes over, as a new tube would in the output.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from dvis_cli.layers.masks import coarse_masks

from .matcher import Assignment, ClipAssignment, Matcher, MatchingRule, Predicted, fetch, solve
from .points import Draw
from .targets import ClipTargets

COVERED = 0.5  # IoU of a mask and an object from which on the one covers the other
SEEN = 0.1  # IoU from which on a mask shows something of an object
GRID = 64  # cells of the longer side at which overlaps are measured, at most

Overlap = npt.NDArray[np.float32]  # (Q, N) IoU of masks and objects in one frame


def handed_over(
    matcher: Matcher, predicted: Predicted, targets: ClipTargets, draw: Draw, rule: MatchingRule
) -> ClipAssignment:
    """The owners of each frame of a clip. An object has no owner before it first appears.

    Returns:
        masks: of each frame the owners. A query that owns something at other times has an empty mask as target (object
        N has no pixel), unless it alone sees an object. classes: of each query the object that it owned longest, for
        the clip's mean logits, which the decision reads.
    """
    assert rule.patience is not None
    overlaps, visible = overlap_of(predicted, targets)
    count = len(targets.classes)
    first = targets.first(rule.appearance)
    starts = sorted({frame for frame in first.tolist() if frame < len(overlaps)})
    costs = dict(zip(starts, matcher.costs(predicted, targets, starts, draw), strict=True))
    owner, missed = [-1] * count, [0] * count
    owners: list[dict[int, int]] = []  # of each frame: query -> object
    for frame, (overlap, seen) in enumerate(zip(overlaps, visible, strict=True)):
        if frame in costs:
            taken = np.isin(np.arange(len(overlap)), owner)
            pairs = solve(costs[frame], np.flatnonzero(first == frame), taken)
            for query, n in zip(pairs.queries.tolist(), pairs.objects.tolist(), strict=True):
                owner[n] = query
        for n in range(count):
            if owner[n] >= 0 and seen[n]:
                missed[n] = 0 if overlap[owner[n], n] >= COVERED else missed[n] + 1
        _pass_on(overlap, owner, missed, rule.patience)
        owners.append({query: n for n, query in enumerate(owner) if query >= 0})
    times = Counter(pair for frame_owners in owners for pair in frame_owners.items())
    longest = {query: n for (query, n), _ in reversed(times.most_common())}
    masks = []
    for owned, overlap in zip(owners, overlaps, strict=True):
        idle = set(longest) - set(owned) - _only_ones(overlap, owned)
        masks.append(_assignment({**dict.fromkeys(sorted(idle), count), **owned}))
    return ClipAssignment(masks, _assignment(longest))


def _only_ones(overlap: Overlap, owned: dict[int, int]) -> set[int]:
    """Queries that see something of an object that its owner does not cover, or that has no owner."""
    covered = {n for query, n in owned.items() if overlap[query, n] >= COVERED}
    alone = [n for n in range(overlap.shape[1]) if n not in covered]
    return set(np.flatnonzero((overlap[:, alone] >= SEEN).any(1)).tolist())


def _assignment(objects: dict[int, int]) -> Assignment:
    """`objects`: query -> object."""
    return Assignment(np.array(list(objects), np.int64), np.array(list(objects.values()), np.int64))


def _pass_on(overlap: Overlap, owner: list[int], missed: list[int], patience: int) -> None:
    """Give objects that were missed too long to free queries that cover them; changes `owner` and `missed`."""
    lost = [n for n, times in enumerate(missed) if times > patience]
    if not lost:
        return
    kept = {q for n, q in enumerate(owner) if n not in lost}
    free = [q for q in range(len(overlap)) if q not in kept]
    gain = overlap[free][:, lost]
    for row, column in zip(*linear_sum_assignment(gain * (gain >= COVERED), maximize=True), strict=True):
        if gain[row, column] >= COVERED:
            taker, n = free[row], lost[column]
            # An object whose owner is taken away has none until a query covers it.
            for other in lost:
                if other != n and owner[other] == taker:
                    owner[other] = -1
            owner[n], missed[n] = taker, 0


@torch.no_grad()
def overlap_of(
    predicted: Predicted, targets: ClipTargets
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """(T, Q, N) IoU of masks (logit above 0) and objects on a coarse grid, and (T, N): visible in any cell."""
    logits = coarse_masks(predicted.mask_embeds, predicted.features, GRID)
    numbers = torch.arange(1, len(targets.classes) + 1, device=logits.device)
    cells = F.interpolate(targets.ids[None].float(), size=logits.shape[2:], mode="nearest-exact")[0]
    truth = (cells.flatten(1)[:, None] == numbers[:, None]).float()
    masks = (logits.flatten(2) > 0).float()
    both = masks @ truth.transpose(1, 2)
    union = masks.sum(2)[:, :, None] + truth.sum(2)[:, None] - both
    return fetch(both / union.clamp(min=1)), fetch(truth.any(2))
