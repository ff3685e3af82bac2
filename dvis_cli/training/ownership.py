"""Which query answers for which object when a track may lose its object: not in the report, off by default.

Equation 4 gives an object to the query that had it first, for the whole clip. Where frame-by-frame matching often
loses objects, that teaches what cannot be known: after a track has gone over to a look-alike its references say
nothing of the old object, yet it is asked for it in every later frame, and whichever query finds the object again is
asked to be silent. Here the owner is asked for its object for a few more frames, which is what it can learn; then a
query that covers the object takes over, as a new tube would in the output.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dvis_cli.layers.masks import coarse_masks

from .matcher import Asked, Assignment, Matcher, Predicted
from .points import Draw
from .targets import ClipTargets

COVERED = 0.5  # IoU of a mask and an object from which on the one covers the other
SEEN = 0.1  # IoU from which on a mask shows something of an object
GRID = 64  # cells of the longer side at which overlaps are measured, at most


@dataclass(frozen=True)
class HandoverRule:
    """When an object goes over to another query."""

    patience: int  # visible frames that the owner may miss its object in a row
    appearance: float = 0.0  # share of its largest area that an object must show to be matched at first


def handed_over(
    matcher: Matcher,
    predicted: Predicted,
    features: Tensor,
    targets: ClipTargets,
    draw: Draw,
    rule: HandoverRule,
) -> Asked:
    """The owners of each frame of a clip.

    An object has no owner before it first appears.

    Args:
        features: (T, C, h, w).

    Returns:
        the owners of each frame, who are asked for their object's mask. A query that owns something at other times is
        asked for an empty mask (object N has no pixel), unless it alone sees an object. The class is asked of the
        clip's mean logits, as the decision reads them: of the object that a query owned longest.
    """
    overlaps, visible = overlap_of(predicted, features, targets)
    count = len(targets.classes)
    device = features.device
    first = targets.first(rule.appearance).tolist()
    owner, missed = [-1] * count, [0] * count
    owners: list[dict[int, int]] = []  # of each frame: query -> object
    for frame, (overlap, seen) in enumerate(zip(overlaps, visible.tolist(), strict=True)):
        new = torch.tensor([n for n in range(count) if first[n] == frame], dtype=torch.int64, device=device)
        taken = torch.zeros(len(overlap), dtype=torch.bool, device=device)
        taken[[q for q in owner if q >= 0]] = True
        pairs = matcher.one_frame(predicted, features, targets, frame, new, draw, taken)
        for query, n in zip(pairs.queries.tolist(), pairs.objects.tolist(), strict=True):
            owner[n] = query
        for n in range(count):
            if owner[n] >= 0 and seen[n]:
                missed[n] = 0 if overlap[owner[n], n] >= COVERED else missed[n] + 1
        _pass_on(overlap, owner, missed, rule.patience)
        owners.append({query: n for n, query in enumerate(owner) if query >= 0})
    times = Counter(pair for frame in owners for pair in frame.items())
    longest = {query: n for (query, n), _ in reversed(times.most_common())}
    masks = []
    for owned, overlap in zip(owners, overlaps, strict=True):
        idle = set(longest) - set(owned) - _only_ones(overlap, owned)
        masks.append(_assignment({**dict.fromkeys(sorted(idle), count), **owned}, device))
    return Asked(masks, _assignment(longest, device))


def _only_ones(overlap: Tensor, owned: dict[int, int]) -> set[int]:
    """Queries that see something of an object that its owner does not cover, or that has no owner."""
    covered = {n for query, n in owned.items() if overlap[query, n] >= COVERED}
    alone = [n for n in range(overlap.shape[1]) if n not in covered]
    return set((overlap[:, alone] >= SEEN).any(1).nonzero().squeeze(1).tolist())


def _assignment(objects: dict[int, int], device: torch.device) -> Assignment:
    """`objects`: query -> object."""
    return Assignment(
        torch.tensor(list(objects), dtype=torch.int64, device=device),
        torch.tensor(list(objects.values()), dtype=torch.int64, device=device),
    )


def _pass_on(overlap: Tensor, owner: list[int], missed: list[int], patience: int) -> None:
    """Give objects that were missed too long to free queries that cover them; changes `owner` and `missed`."""
    lost = [n for n, times in enumerate(missed) if times > patience]
    if not lost:
        return
    kept = {q for n, q in enumerate(owner) if n not in lost}
    free = [q for q in range(len(overlap)) if q not in kept]
    gain = overlap[free][:, lost].cpu().numpy()
    for row, column in zip(*linear_sum_assignment(gain * (gain >= COVERED), maximize=True), strict=True):
        if gain[row, column] >= COVERED:
            taker, n = free[row], lost[column]
            # An object whose owner is taken away has none until a query covers it.
            for other in lost:
                if other != n and owner[other] == taker:
                    owner[other] = -1
            owner[n], missed[n] = taker, 0


def overlap_of(predicted: Predicted, features: Tensor, targets: ClipTargets) -> tuple[Tensor, Tensor]:
    """(T, Q, N) IoU of masks (logit above 0) and objects on a coarse grid, and (T, N) bool: seen in any cell."""
    numbers = torch.arange(1, len(targets.classes) + 1, device=features.device)
    overlaps, visible = [], []
    with torch.no_grad():
        for logits, ids in zip(coarse_masks(predicted.mask_embeds, features, GRID), targets.ids, strict=True):
            masks = logits.flatten(1) > 0
            cells = F.interpolate(
                ids[None, None].float(), size=logits.shape[1:], mode="nearest-exact"
            ).flatten()
            truth = cells[None] == numbers[:, None]
            both = masks.float() @ truth.float().T
            union = masks.sum(1)[:, None] + truth.sum(1)[None] - both
            overlaps.append(both / union.clamp(min=1))
            visible.append(truth.any(1))
    return torch.stack(overlaps), torch.stack(visible)
