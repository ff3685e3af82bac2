"""Masks of tubes from masks of their members."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


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
