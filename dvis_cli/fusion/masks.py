"""Masks of tubes from masks of their members."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from dvis_cli.structures import FrameMasks


def mean_masks(members: Tensor, masks: Iterable[Tensor]) -> Tensor:
    """Average the masks of each tube's members.

    The mean is taken as the first member's mask plus the mean difference from it, so that the mean of equal masks
    is that mask, bit for bit.

    Args:
        members: (N, S) int64 of `FusedTubes`: -1 where a view has no member.
        masks: of each view in turn, (n, height, width): of the tubes that have a member in it, in the order of
            the tubes. Made one view at a time, so that two views' masks never wait together.

    Returns:
        (N, height, width).
    """
    present = members >= 0
    shares = 1 / present.sum(dim=1)
    seen = torch.zeros(len(members), dtype=torch.bool, device=members.device)
    first: Tensor | None = None
    change: Tensor | None = None
    for inside, part in zip(present.T, masks, strict=True):
        if first is None:
            first = part.new_zeros((len(members), *part.shape[1:]))
        new, again = inside & ~seen, inside & seen
        first[new] = part[new[inside]]
        if again.any():
            change = torch.zeros_like(first) if change is None else change
            change[again] += part[again[inside]] - first[again]
        seen |= inside
    assert first is not None, "no views"
    return first if change is None else first + change * shares[:, None, None]


class MeanMasks:
    """The masks of N tubes in one frame: a `structures.FrameMasks` made of those of the views.

    Args:
        members: (N, S) int64 of `FusedTubes`.
        views: of each view the masks of the tubes that have a member in it, in the order of the tubes.
    """

    def __init__(self, members: Tensor, views: Sequence[FrameMasks]) -> None:
        self.members, self.views = members, views
        inside = (members >= 0).long()
        before = torch.cat((inside.new_zeros(1, inside.shape[1]), inside.cumsum(dim=0)))
        self._before: list[list[int]] = (
            before.T.tolist()
        )  # of each view: how many members the first n tubes have

    def __len__(self) -> int:
        return len(self.members)

    def probabilities(self, part: slice) -> Tensor:
        """(n, height, width) in 0..1: the mean of the members' probabilities at the output size."""
        return self._mean(part, lambda view, own: view.probabilities(own))

    def logits(self, part: slice) -> Tensor:
        """(n, height, width) in -1..1, positive inside: members vote with `2 sigmoid(logit) - 1`."""
        return self._mean(part, lambda view, own: (view.logits(own) / 2).tanh())

    def band(self, rows: slice) -> Tensor:
        """(N, rows, width): some rows of what `probabilities` gives for all."""
        return self._mean(slice(None), lambda view, _: view.band(rows))

    def cells(self) -> None:
        """The views have cells of different sizes."""

    def _mean(self, part: slice, masks_of: Callable[[FrameMasks, slice], Tensor]) -> Tensor:
        """Average some tubes over the views; one that has no member of them is not asked."""
        start, stop, _ = part.indices(len(self.members))
        owns = [slice(before[start], before[stop]) for before in self._before]
        asked = [s for s, own in enumerate(owns) if own.start < own.stop]
        return mean_masks(self.members[part, asked], (masks_of(self.views[s], owns[s]) for s in asked))


class MirroredMasks:
    """Masks of a mirrored view, mirrored back: a `structures.FrameMasks`."""

    def __init__(self, masks: FrameMasks) -> None:
        self.masks = masks

    def __len__(self) -> int:
        return len(self.masks)

    def probabilities(self, part: slice) -> Tensor:
        """(n, height, width) in 0..1."""
        return self.masks.probabilities(part).flip(-1)

    def logits(self, part: slice) -> Tensor:
        """(n, height, width), positive inside."""
        return self.masks.logits(part).flip(-1)

    def band(self, rows: slice) -> Tensor:
        """(N, rows, width) in 0..1."""
        return self.masks.band(rows).flip(-1)

    def cells(self) -> None:
        """Not made: a mirrored view is one of several."""
