"""Masks in cells: bounds of a mask first, its pixels only where they are needed.

A mask at the output size is its logits at stride 4, enlarged bilinearly, cut to the picture, put through a
sigmoid and resized bilinearly. So every output pixel lies between the least and the largest of the few logits that
it is made of. Here the picture is divided into *cells*: the pixels that are made of the same block of logits. Most
cells lie well inside of one mask and well outside of all others: who wins them is known without a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dvis_cli.structures import Geometry

SIDE = 3  # logits along a side of a cell: smaller cells make fewer pixels, in more and smaller products


class Cells:
    """The masks of N queries in one frame, the output divided into n x m cells of at most R x S pixels.

    Args:
        logits: (N, h, w) float32 mask logits at stride 4, padding included.

    Attributes:
        low, high: (N, n, m): no pixel of the cell is less, or more, likely than this, up to rounding.
        pixels: (n, m) int64, output pixels of each cell; 0 in the padding.
        block: (R, S).
    """

    def __init__(self, logits: Tensor, geometry: Geometry) -> None:
        self._grid = _grid((logits.shape[1], logits.shape[2]), geometry, logits.device)
        self.pixels, self.block = self._grid.pixels, self._grid.block
        # To whole cells, with a neighbour all around.
        down, across = (-logits.shape[i] % SIDE + 1 for i in (1, 2))
        padded = F.pad(logits[None], (1, across, 1, down), mode="replicate")[0]
        patches = padded.unfold(1, SIDE + 2, SIDE).unfold(2, SIDE + 2, SIDE).contiguous()
        self._patches = patches  # (N, n, m, SIDE + 2, SIDE + 2)
        self.low = patches.flatten(3).amin(dim=3).sigmoid()
        self.high = patches.flatten(3).amax(dim=3).sigmoid()

    def blocks(self, query: int, cells: Tensor) -> Tensor:
        """(k, R * S): the probabilities of a query in k cells (k,) int64, numbered row by row; 0 beyond a cell."""
        columns = self._patches.shape[2]
        patches = self._patches[query].flatten(0, 1).index_select(0, cells)
        return self._grid.probabilities(patches, cells // columns, cells % columns)

    def picture(self, blocks: Tensor) -> Tensor:
        """(n * m, R * S) values by cells to (height, width)."""
        return self._grid.picture(blocks)


class _Grid:
    """Which pixels are whose cell's, and how they are made of its logits."""

    def __init__(self, small: tuple[int, int], geometry: Geometry, device: torch.device) -> None:
        down, across = (
            _axis(small[i], geometry.padded[i], geometry.resized[i], geometry.output[i]) for i in (0, 1)
        )
        self.pixels = (down.counts[:, None] * across.counts).to(device)
        self.block = (down.shrink.shape[1], across.shrink.shape[1])
        row_start = (down.cell * len(across.counts) * self.block[0] + down.row) * self.block[1]
        column_start = across.cell * self.block[0] * self.block[1] + across.row
        self._index = (row_start[:, None] + column_start).to(device)  # of each pixel in (n, m, R, S)
        self._down, self._across = down.to(device), across.to(device)

    def probabilities(self, patches: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """(k, SIDE + 2, SIDE + 2) logits of the k cells at (k,), (k,) to their (k, R * S) probabilities."""
        down, across = self._down, self._across
        enlarged = (down.enlarge @ patches @ across.enlarge.T).sigmoid()
        blocks = down.shrink.index_select(0, rows) @ enlarged @ across.shrink.index_select(0, columns).mT
        return blocks.flatten(1)

    def picture(self, blocks: Tensor) -> Tensor:
        """(n * m, R * S) to (height, width)."""
        return blocks.flatten().index_select(0, self._index.flatten()).view(self._index.shape)


@dataclass(frozen=True)
class _Axis:
    """Rows of the output (or columns) by cells: n cells of at most R rows, made of E enlarged rows each."""

    cell: Tensor  # (rows,) int64: the cell of each output row
    row: Tensor  # (rows,) int64: which of the cell's rows it is
    counts: Tensor  # (n,) int64: rows of each cell
    enlarge: Tensor  # (E, SIDE + 2): from logits to enlarged rows, the same for all cells
    shrink: Tensor  # (n, R, E): from enlarged rows to output rows; 0 beyond a cell

    def to(self, device: torch.device) -> _Axis:
        parts = (self.cell, self.row, self.counts, self.enlarge, self.shrink)
        return _Axis(*(part.to(device) for part in parts))


def _axis(small: int, padded: int, resized: int, output: int) -> _Axis:
    """Sizes in logits, and in pixels after enlarging, after cutting the padding off, at the output.

    An output row is made of one enlarged row or two, and belongs to the cell of the first.
    """
    factor = padded // small
    cells, step = -(-small // SIDE), factor * SIDE
    first, last, share = neighbours(resized, output, slice(0, output))
    last = torch.where(share > 0, last, first)
    cell = first // step
    counts = torch.bincount(cell, minlength=cells)
    row = torch.arange(output) - (counts.cumsum(0) - counts)[cell]
    shrink = torch.zeros(cells, int(counts.max()), step + 1)
    shrink.index_put_((cell, row, first - cell * step), 1 - share, accumulate=True)
    shrink.index_put_((cell, row, last - cell * step), share, accumulate=True)
    # As if the cell began at logit 1 of many: at the edges of the picture the outermost logit is repeated.
    above, below, share = neighbours(SIDE + 2, factor * (SIDE + 2), slice(factor, factor + step + 1))
    enlarge = torch.zeros(step + 1, SIDE + 2)
    rows = torch.arange(step + 1)
    enlarge.index_put_((rows, above), 1 - share, accumulate=True)
    enlarge.index_put_((rows, below), share, accumulate=True)
    return _Axis(cell, row, counts, enlarge, shrink)


@lru_cache(maxsize=16)
def _grid(small: tuple[int, int], geometry: Geometry, device: torch.device) -> _Grid:
    """The grid of masks of that size; made once a video."""
    return _Grid(small, geometry, device)


def neighbours(source: int, target: int, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Between which two rows of `source` each of some rows of `target` lies, and how close to the second.

    Bilinear without aligned corners. Each (rows,): int64, int64, float32 in 0..1.
    """
    scale = torch.tensor(source, dtype=torch.float32) / target
    centre = ((torch.arange(rows.start, rows.stop) + 0.5) * scale - 0.5).clamp(min=0)
    lower = centre.long()
    return lower, (lower + 1).clamp(max=source - 1), centre - lower
