"""One set of tubes from the candidates of several views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .grid import BLANK
from .matching import Candidates, Weights, affinities, group


@dataclass(frozen=True)
class FusionSettings:
    """The choices of the method (docs/fusion.md)."""

    weights: Weights = field(default_factory=Weights)
    accept: float = 0.7  # affinity from which two queries may be one object
    # Soft IoU in a frame with the mask of the view that finds most, below which a member's does not count there.
    agree: float = 0.4
    # A single is dropped that shares this much of its mask with stronger tubes of its class.
    repeat: float = 0.5


DEFAULTS = FusionSettings()


@dataclass(frozen=True)
class FusedTubes:
    """What the views found over a horizon, each thing once: N tubes of S views."""

    members: Tensor  # (N, S) int64: the tube's query in each view, -1 where a view has none
    numbers: Tensor  # (N, S) int64: the same as numbers of candidates, those of all views in a row
    class_probs: Tensor  # (N, K+1) float32
    weights: Tensor  # (N,) float32 in 0..1: share of the views that saw it


def fuse(
    views: Sequence[Candidates],
    products: Tensor,
    confident: float | None = None,
    settings: FusionSettings = DEFAULTS,
) -> FusedTubes:
    """Make one set of tubes.

    Args:
        views: the candidates of each view, N in all.
        products: (N, N) of an `OverlapSums`, in the order of the views.
        confident: class probability above which a decision keeps a tube. Views that would bring a tube below it
            are then left out of the tube, and a tube that nobody is sure of is left out altogether. None: every
            candidate is in a tube, and a tube is the mean of all of its members.
        settings: the choices of the method.

    Returns:
        tubes in the order of the first view's queries, then those that only others saw, strongest first.
    """
    probs = torch.cat([view.class_probs for view in views]).float().cpu()
    counts = [len(view.queries) for view in views]
    view_of = [number for number, count in enumerate(counts) for _ in range(count)]
    groups = group(affinities(views, products, settings.weights), counts, settings.accept)
    drafts = [draft for members in groups if (draft := _draft(members, probs, len(views), confident))]
    drafts = _without_repeats(drafts, view_of, products, settings.repeat)
    return _tubes(drafts, views, view_of, probs.shape[1])


@dataclass(frozen=True)
class _Draft:
    """A tube in terms of candidate numbers."""

    members: list[int]  # ascending
    class_probs: Tensor  # (K+1,) float32
    weight: float  # share of the views that saw it

    @property
    def label(self) -> int:
        """The likeliest real class."""
        return int(self.class_probs[:-1].argmax())

    @property
    def score(self) -> float:
        return self.weight * float(self.class_probs[:-1].max())


def _draft(members: list[int], probs: Tensor, views: int, confident: float | None) -> _Draft | None:
    """Average the members; where a decision would not keep the average, only those that it keeps alone."""
    mean = _mean(probs[members])
    if confident is not None and not _is_sure(mean, confident):
        members = [member for member in members if _is_sure(probs[member], confident)]
        if not members:
            return None
        # They may be sure of different classes: the strongest class is the tube's, and its mask is the mean of all.
        labels = probs[members].argmax(dim=1)
        label = max(labels.unique().tolist(), key=lambda one: float(probs[members, one].sum()))
        mean = _mean(probs[members][labels == label])
    return _Draft(members, mean, len(members) / views)


def _mean(class_probs: Tensor) -> Tensor:
    """(N, K+1) to (K+1,). Of equal rows it is that row, bit for bit: the sum is made in twice the precision."""
    return class_probs.double().mean(dim=0).float()


def _is_sure(class_probs: Tensor, confident: float) -> bool:
    """Whether a decision keeps this distribution, (K+1,)."""
    score, label = class_probs.max(dim=0)
    return int(label) != len(class_probs) - 1 and bool(score > confident)


def _without_repeats(
    drafts: list[_Draft], view_of: Sequence[int], products: Tensor, limit: float
) -> list[_Draft]:
    """Drop the singles whose mask lies mostly in stronger tubes of their class: copies, pieces, sums of pieces.

    Stronger is what several views saw, and better singles of other views. What a single's own view alone saw
    beside it stays: to choose between them is the business of the decision, as without fusion.
    """
    average = torch.zeros(len(drafts), len(products), dtype=torch.float64)
    for row, draft in zip(average, drafts, strict=True):
        row[draft.members] = 1 / len(draft.members)
    shared = average @ products @ average.T  # (N, N): soft intersections of tubes
    kept = [n for n, draft in enumerate(drafts) if len(draft.members) > 1]
    singles = [n for n, draft in enumerate(drafts) if len(draft.members) == 1]
    for n in sorted(singles, key=lambda n: -drafts[n].score):
        home = view_of[drafts[n].members[0]]
        rivals = [
            r
            for r in kept
            if drafts[r].label == drafts[n].label
            and (len(drafts[r].members) > 1 or view_of[drafts[r].members[0]] != home)
        ]
        if float(shared[n, rivals].sum()) <= limit * (float(shared[n, n]) + BLANK):
            kept.append(n)
    return [drafts[n] for n in sorted(kept)]


def agreeing(tubes: FusedTubes, agreement: Tensor, reference: int, first: int) -> Tensor:
    """The members whose masks make a tube's mask in one frame.

    Where two views follow different objects for a while, the mean of their masks is neither: then the reference
    view's mask is the tube's.

    Args:
        agreement: (N_reference, N) bool of an `OverlapSums`, of this frame.
        reference: its view.
        first: number of this view's first candidate.

    Returns:
        (N, S) int64, like `members`.
    """
    own = tubes.numbers[:, reference, None]
    left_out = (
        (own >= 0) & (tubes.numbers >= 0) & ~agreement[(own - first).clamp(min=0), tubes.numbers.clamp(min=0)]
    )
    return tubes.members.masked_fill(left_out, -1)


def _tubes(
    drafts: list[_Draft], views: Sequence[Candidates], view_of: Sequence[int], classes: int
) -> FusedTubes:
    """Candidate numbers to query numbers, in the final order."""
    queries = [query for view in views for query in view.queries.tolist()]

    def order(draft: _Draft) -> tuple[int, float]:
        first = draft.members[0]
        return (0, queries[first]) if view_of[first] == 0 else (1, -draft.score)

    drafts = sorted(drafts, key=order)
    members = torch.full((len(drafts), len(views)), -1, dtype=torch.int64)
    numbers = members.clone()
    for row, draft in enumerate(drafts):
        for number in draft.members:
            members[row, view_of[number]] = queries[number]
            numbers[row, view_of[number]] = number
    device = views[0].class_probs.device
    probs = [draft.class_probs for draft in drafts]
    return FusedTubes(
        members.to(device),
        numbers,
        (torch.stack(probs) if probs else torch.zeros(0, classes)).to(device),
        torch.tensor([draft.weight for draft in drafts], dtype=torch.float32, device=device),
    )
