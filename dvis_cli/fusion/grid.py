"""How much the masks of different views overlap, measured on a coarse grid while the frames stream by.

Masks of two views have different sizes, and may be mirrored. A grid of cells that is the same part of the
picture in each view makes them comparable. Only sums over cells and frames are kept: N x N numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dvis_cli.layers.transfer import fetch, send
from dvis_cli.structures import View

CELLS = 160  # along the longer side of the picture
MASK_STRIDE = 4  # input pixels per pixel of the mask features
BLANK = 1e-3  # cells: two masks whose areas are far below this are equal, both being nothing


class CoarseGrid:
    """Cells that cover the same part of the picture in every view.

    A cell is never smaller than a pixel of the coarsest view's mask features.
    """

    def __init__(self, views: Sequence[View], cells: int = CELLS) -> None:
        longest = max(views[0].geometry.output)
        self.rows, self.columns = (
            max(
                1,
                min(round(cells * side / longest), *(-(-view.geometry.resized[axis] // 4) for view in views)),
            )
            for axis, side in enumerate(views[0].geometry.output)
        )
        self._weights = [self._weights_of(view) for view in views]

    def _weights_of(self, view: View) -> tuple[Tensor, Tensor]:
        """(rows, h) and (w, columns): what averages mask features over cells; padding has no weight."""
        (height, width), (padded_height, padded_width) = view.geometry.resized, view.geometry.padded
        down = _box_weights(self.rows, height / MASK_STRIDE, padded_height // MASK_STRIDE)
        across = _box_weights(self.columns, width / MASK_STRIDE, padded_width // MASK_STRIDE)
        return down, (across.flip(0) if view.mirrored else across).T

    def masks(self, view: int, mask_embeds: Tensor, mask_features: Tensor) -> Tensor:
        """Mask probabilities of one view's queries in one frame.

        Averaging commutes with the product over channels, so the features are averaged, not the masks.

        Args:
            view: its index in the list of views.
            mask_embeds: (N, C).
            mask_features: (C, h, w).

        Returns:
            (N, rows * columns) float32 in 0..1, mirrored back where the view is mirrored.
        """
        down, across = (send(weights, mask_features.device) for weights in self._weights[view])
        coarse = down @ mask_features.float() @ across
        return (mask_embeds.float() @ coarse.flatten(1)).sigmoid()


def _box_weights(cells: int, extent: float, pixels: int) -> Tensor:
    """(cells, pixels) float32: row k averages the k-th part of `extent` pixels, with exact shares at its ends."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * (extent / cells)
    left = torch.arange(pixels, dtype=torch.float64)
    covered = torch.minimum(edges[1:, None], left + 1) - torch.maximum(edges[:-1, None], left)
    return (covered.clamp(min=0) / (extent / cells)).float()


class OverlapSums:
    """Sums over cells and frames of the product of any two queries' masks.

    Args:
        counts: queries of each view, whose rows follow each other in `products`.
        reference: a view; its queries' agreement with all others is kept of each frame.
        agree: soft IoU from which the masks of two queries agree in a frame.
    """

    def __init__(self, counts: Sequence[int], reference: int = 0, agree: float = 0.0) -> None:
        total, before = sum(counts), sum(counts[:reference])
        self.products = torch.zeros(total, total, dtype=torch.float64)  # (N, N), in cells
        self.agreements: list[Tensor] = []  # of each frame: (N_reference, N) bool
        self._reference, self._agree = slice(before, before + counts[reference]), agree

    def add(self, masks: Sequence[Tensor]) -> None:
        """Take in one frame: (N_s, cells) of every view."""
        together = torch.cat(tuple(masks))
        (product,) = fetch(together @ together.T)
        self.products += product.double()
        self.agreements.append(soft_iou(product.double())[self._reference] >= self._agree)


def soft_iou(products: Tensor) -> Tensor:
    """Intersection over union of soft masks, from the sums of products of an `OverlapSums`.

    `a.b / (a.a + b.b - a.b)`: 1 for equal masks, also soft ones, and the usual IoU for masks of zeros and ones.

    Args:
        products: (N, N) float64.

    Returns:
        (N, N) float64 in 0..1.
    """
    areas = products.diagonal()
    unions = areas[:, None] + areas[None, :] - products
    return ((products + BLANK) / (unions + BLANK)).clamp(0, 1)
