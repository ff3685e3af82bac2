"""Masks at the output size, from mask embeddings and mask features at stride 4 (spec, section 5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dvis_cli.structures import Geometry

from .cells import FeatureCells, neighbours

COARSE = 32  # cells of the longer side of a coarse mask
ABSENT = -30.0  # logit of a mask that is empty: a probability of 1e-13


class FeatureMasks:
    """The masks of N queries in one frame at one scale: a `structures.FrameMasks`.

    Args:
        embeds: (N, C) mask embeddings of the queries in this frame.
        features: (C, h, w) mask features of this frame.
        present: (N,) bool, False for queries whose mask is empty in this frame; None: all are there.
    """

    def __init__(
        self, embeds: Tensor, features: Tensor, geometry: Geometry, present: Tensor | None = None
    ) -> None:
        self.embeds, self.features, self.geometry, self.present = embeds, features, geometry, present
        self._all_small: Tensor | None = None  # (N, h, w), for `band`

    def __len__(self) -> int:
        return len(self.embeds)

    def small_logits(self, part: slice) -> Tensor:
        """(n, h, w) mask logits at stride 4, padding included."""
        logits = torch.einsum("nc,chw->nhw", self.embeds[part].float(), self.features.float())
        if self.present is not None:
            logits.masked_fill_(~self.present[part, None, None], ABSENT)
        return logits

    def probabilities(self, part: slice) -> Tensor:
        """(n, height, width) in 0..1 at the output size."""
        return mask_probabilities(self.small_logits(part), self.geometry)

    def logits(self, part: slice) -> Tensor:
        """(n, height, width) at the output size, positive inside."""
        return mask_logits(self.small_logits(part), self.geometry)

    def band(self, rows: slice) -> Tensor:
        """(N, rows, width) in 0..1: rows `start` to `stop` of what `probabilities` gives for all queries."""
        if self._all_small is None:
            self._all_small = self.small_logits(slice(None))
        return band_probabilities(self._all_small, self.geometry, rows)

    def cells(self) -> FeatureCells:
        """Bounds of the same probabilities, and their pixels cell by cell."""
        return FeatureCells(self.small_logits(slice(None)), self.geometry)


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
    size = (max(1, round(height / shrink)), max(1, round(width / shrink)))
    cells = F.adaptive_avg_pool2d(features.float(), size)
    return torch.einsum("tqc,tchw->tqhw", embeds.float(), cells)


def mask_probabilities(logits: Tensor, geometry: Geometry) -> Tensor:
    """Mask logits at stride 4 to probabilities at the output size.

    Args:
        logits: (N, h, w).

    Returns:
        (N, height, width) in 0..1: up to the padded size, crop, sigmoid, to the output size.
    """
    return _to_output(_to_resized(logits, geometry).sigmoid(), geometry)[0]


def mask_logits(logits: Tensor, geometry: Geometry) -> Tensor:
    """Mask logits at stride 4 to logits at the output size: as `mask_probabilities`, without the sigmoid.

    Args:
        logits: (N, h, w).

    Returns:
        (N, height, width); a mask is where they are positive.
    """
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
    wide = F.interpolate(
        source[None], (source.shape[1], geometry.output[1]), mode="bilinear", align_corners=False
    )[0]
    weight = weight.to(wide)[:, None]
    lower, upper = (lower - first).to(wide.device), (upper - first).to(wide.device)
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
    large = F.interpolate(
        logits[None, :, first:last],
        ((last - first) * factor, geometry.padded[1]),
        mode="bilinear",
        align_corners=False,
    )[0]
    return large[:, start - first * factor : stop - first * factor, : geometry.resized[1]]


def _to_resized(logits: Tensor, geometry: Geometry) -> Tensor:
    """(N, h, w) at stride 4 to (1, N, *resized): up to the padded size, padding cut off."""
    masks = F.interpolate(logits[None], geometry.padded, mode="bilinear", align_corners=False)
    height, width = geometry.resized
    return masks[:, :, :height, :width]


def _to_output(masks: Tensor, geometry: Geometry) -> Tensor:
    if geometry.output == geometry.resized:
        return masks
    return F.interpolate(masks, geometry.output, mode="bilinear", align_corners=False)
