"""Masks at the output size, from mask embeddings and mask features at stride 4.

A mask is the product of the two over channels, enlarged bilinearly to the padded input, cut to the picture, put through
a sigmoid and resized bilinearly to the output. Nothing is made before it is needed: some queries, some rows or some
cells at a time, of one frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dvis_cli.structures import Geometry

from .cells import Cells, neighbours
from .transfer import send

COARSE = 32  # cells of the longer side of a coarse mask
ABSENT = -30.0  # logit of a mask that is empty: a probability of 1e-13


class ViewMasks:
    """The masks of N queries in one frame of one view.

    Args:
        embeds: (N, C) mask embeddings of the queries in this frame.
        features: (C, h, w) mask features of this frame.
        geometry: the view's sizes.
        mirrored: the view has left and right exchanged; the masks are mirrored back.
        present: (N,) bool, False for queries whose mask is empty in this frame; None: all are there.
    """

    def __init__(
        self,
        embeds: Tensor,
        features: Tensor,
        geometry: Geometry,
        mirrored: bool = False,
        present: Tensor | None = None,
    ) -> None:
        self.embeds, self.features, self.geometry = embeds, features, geometry
        self.mirrored, self.present = mirrored, present
        self._small: Tensor | None = None  # (N, h, w), for `band`

    def __len__(self) -> int:
        return len(self.embeds)

    def small_logits(self, part: slice) -> Tensor:
        """(n, h, w) float32 mask logits of the queries of `part` at stride 4, padding included, not mirrored back."""
        logits = torch.einsum("nc,chw->nhw", self.embeds[part].float(), self.features.float())
        if self.present is not None:
            logits.masked_fill_(~self.present[part, None, None], ABSENT)
        return logits

    def probabilities(self, part: slice) -> Tensor:
        """(n, height, width) in 0..1 at the output size."""
        return self._upright(mask_probabilities(self.small_logits(part), self.geometry))

    def logits(self, part: slice) -> Tensor:
        """(n, height, width) at the output size, positive inside."""
        return self._upright(mask_logits(self.small_logits(part), self.geometry))

    def band(self, rows: slice) -> Tensor:
        """(N, rows, width) in 0..1: rows `start` to `stop` of what `probabilities` gives for all queries."""
        if self._small is None:
            self._small = self.small_logits(slice(None))
        return self._upright(band_probabilities(self._small, self.geometry, rows))

    def _upright(self, masks: Tensor) -> Tensor:
        return masks.flip(-1) if self.mirrored else masks


class FrameMasks:
    """The masks of N tubes in one frame.

    A tube is one query or, of several views, at most one query of each; its mask is the mean of theirs.

    Args:
        views: of each view the masks of the tubes that have a query in it, in the order of the tubes.
        members: (N, S) int64 on the CPU, the tubes' queries, -1 where a tube has none in a view. Not used with a
            single view, where every query is a tube.
    """

    def __init__(self, views: Sequence[ViewMasks], members: Tensor | None = None) -> None:
        self.views, self.members = views, members
        self._before: list[list[int]] = []  # of each view: how many queries the first n tubes have
        if members is not None and len(views) > 1:
            inside = (members >= 0).long()
            self._before = torch.cat((inside.new_zeros(1, len(views)), inside.cumsum(dim=0))).T.tolist()

    @property
    def device(self) -> torch.device:
        return self.views[0].features.device

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the output in pixels."""
        return self.views[0].geometry.output

    def __len__(self) -> int:
        return len(self.views[0]) if len(self.views) == 1 or self.members is None else len(self.members)

    def probabilities(self, part: slice) -> Tensor:
        """(n, height, width) float32 in 0..1 at the output size, of the tubes of `part`."""
        return self._mean(part, lambda view, own: view.probabilities(own))

    def logits(self, part: slice) -> Tensor:
        """(n, height, width) float32 at the output size, positive inside; views vote with `2 sigmoid(logit) - 1`."""
        if len(self.views) == 1:
            return self.views[0].logits(part)
        return self._mean(part, lambda view, own: (view.logits(own) / 2).tanh())

    def band(self, rows: slice) -> Tensor:
        """(N, rows, width): what `probabilities` gives for all tubes, in some rows of the output only."""
        return self._mean(slice(None), lambda view, _: view.band(rows))

    def cells(self) -> Cells | None:
        """The same probabilities by cells; None for several views, whose cells have different sizes."""
        if len(self.views) > 1 or self.views[0].mirrored:
            return None
        return Cells(self.views[0].small_logits(slice(None)), self.views[0].geometry)

    def _mean(self, part: slice, masks_of: Callable[[ViewMasks, slice], Tensor]) -> Tensor:
        """Average some tubes over the views that have a query of theirs."""
        if len(self.views) == 1:
            return masks_of(self.views[0], part)
        assert self.members is not None
        start, stop, _ = part.indices(len(self.members))
        owns = [slice(before[start], before[stop]) for before in self._before]
        seen = [s for s, own in enumerate(owns) if own.start < own.stop]
        return mean_masks(self.members[part, seen], (masks_of(self.views[s], owns[s]) for s in seen))


@dataclass(frozen=True)
class Tubes:
    """What the views found over one horizon, each thing once: all that a task decides from.

    Attributes:
        class_probs: (N, K+1) float32, "no object" last. Rows need not add up to 1 (offline: `offline_class_probs`).
        weights: (N,) float32 in 0..1: how much the class probabilities of a tube count as its score.
        masks: from a frame of the horizon (0, 1, ...) and some tubes (n,) int64 to their masks, on the model's device.
        numbers: from some tubes (n,) int64 to a number of each that it had in earlier horizons, too. Called once a
            horizon, with the tubes that the task keeps.
        close: gives memory and disk space back; no masks after that.

    All tensors but the masks' are on the CPU, where decisions are made.
    """

    class_probs: Tensor
    weights: Tensor
    masks: Callable[[int, Tensor], FrameMasks]
    numbers: Callable[[Tensor], list[int]]
    close: Callable[[], None] = lambda: None


def mean_masks(members: Tensor, masks: Iterable[Tensor]) -> Tensor:
    """Average the masks of each tube's queries.

    The mean is taken as the first query's mask plus the mean difference from it, so that the mean of equal masks
    is that mask, bit for bit.

    Args:
        members: (N, S) int64 on the CPU: -1 where a tube has no query in a view.
        masks: of each view in turn, (n, height, width): of the tubes that have a query in it, in the order of
            the tubes. Made one view at a time, so that two views' masks never wait together.

    Returns:
        (N, height, width).
    """
    present = members >= 0
    shares = 1 / present.sum(dim=1)
    seen = torch.zeros(len(members), dtype=torch.bool)
    first: Tensor | None = None
    change: Tensor | None = None
    for inside, part in zip(present.T, masks, strict=True):
        if first is None:
            first = part.new_zeros((len(members), *part.shape[1:]))
        new, again = inside & ~seen, inside & seen
        first[_rows(new, part.device)] = part[_rows(new[inside], part.device)]
        if again.any():
            change = torch.zeros_like(first) if change is None else change
            rows = _rows(again, part.device)
            change[rows] += part[_rows(again[inside], part.device)] - first[rows]
        seen |= inside
    assert first is not None, "no views"
    return first if change is None else first + change * send(shares, first.device)[:, None, None]


def _rows(chosen: Tensor, device: torch.device) -> Tensor:
    """Where (N,) bool on the CPU is true, on the device."""
    return send(chosen.nonzero()[:, 0], device)


def coarse_masks(embeds: Tensor, features: Tensor, side: int = COARSE) -> Tensor:
    """Mask logits on a grid of at most `side` cells a side, from mask features averaged over the cells.

    Args:
        embeds: (T, Q, C).
        features: (T, C, h, w).

    Returns:
        (T, Q, rows, columns) float32.
    """
    height, width = features.shape[-2:]
    shrink = max(1.0, max(height, width) / side)
    down, across = (
        _cell_means(size, max(1, round(size / shrink)), features.device) for size in (height, width)
    )
    return torch.einsum("tqc,tchw->tqhw", embeds.float(), down @ features.float() @ across.T)


@lru_cache(maxsize=16)
def _cell_means(size: int, cells: int, device: torch.device) -> Tensor:
    """(cells, size) float32: row k averages the pixels that the k-th of `cells` equal parts touches."""
    with torch.inference_mode(False):  # the cached tensor must serve training as well
        edges = torch.arange(cells + 1) * size
        pixels = torch.arange(size)
        inside = (pixels >= edges[:-1, None] // cells) & (pixels < -(-edges[1:, None] // cells))
        return (inside / inside.sum(dim=1, keepdim=True)).to(device)


def mask_probabilities(logits: Tensor, geometry: Geometry) -> Tensor:
    """(N, h, w) mask logits at stride 4 to (N, height, width) probabilities in 0..1 at the output size."""
    return _to_output(_to_resized(logits, geometry).sigmoid(), geometry)[0]


def mask_logits(logits: Tensor, geometry: Geometry) -> Tensor:
    """As `mask_probabilities`, without the sigmoid: a mask is where they are positive."""
    return _to_output(_to_resized(logits, geometry), geometry)[0]


def band_probabilities(logits: Tensor, geometry: Geometry, rows: slice) -> Tensor:
    """Some rows of what `mask_probabilities` gives, without making the others.

    Args:
        logits: (N, h, w) at stride 4.
        rows: `start` and `stop`, in pixels of the output.

    Returns:
        (N, stop - start, width) in 0..1; equal to the same rows of the whole up to rounding.
    """
    if geometry.output == geometry.resized:
        return _resized_rows(logits, geometry, rows.start, rows.stop).sigmoid()
    lower, upper, weight = neighbours(geometry.resized[0], geometry.output[0], rows)
    first = int(lower[0])
    source = _resized_rows(logits, geometry, first, int(upper[-1]) + 1).sigmoid()
    wide = _bilinear(source[None], (source.shape[1], geometry.output[1]))[0]
    weight = send(weight, wide.device)[:, None]
    lower, upper = send(lower - first, wide.device), send(upper - first, wide.device)
    return wide[:, lower] * (1 - weight) + wide[:, upper] * weight


def _resized_rows(logits: Tensor, geometry: Geometry, start: int, stop: int) -> Tensor:
    """(N, stop - start, resized width): rows of the masks at the resized size.

    The padded size is a whole multiple of the stride-4 size, so a slice with its neighbours at both ends,
    enlarged by itself, is the same as a slice of the whole enlarged.
    """
    height = logits.shape[1]
    factor = geometry.padded[0] // height
    lower, upper, _ = neighbours(height, geometry.padded[0], slice(start, stop))
    first, last = int(lower[0]), int(upper[-1]) + 1
    large = _bilinear(logits[None, :, first:last], ((last - first) * factor, geometry.padded[1]))[0]
    return large[:, start - first * factor : stop - first * factor, : geometry.resized[1]]


def _to_resized(logits: Tensor, geometry: Geometry) -> Tensor:
    """(N, h, w) at stride 4 to (1, N, *resized): up to the padded size, padding cut off."""
    height, width = geometry.resized
    return _bilinear(logits[None], geometry.padded)[:, :, :height, :width]


def _to_output(masks: Tensor, geometry: Geometry) -> Tensor:
    return masks if geometry.output == geometry.resized else _bilinear(masks, geometry.output)


def _bilinear(masks: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(masks, size, mode="bilinear", align_corners=False)
