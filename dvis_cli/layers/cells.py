"""Masks in cells: bounds of a mask first, its pixels only where they are asked for.

A mask at the output size is its logits at stride 4, enlarged bilinearly, cut to the picture, put through a
sigmoid and resized bilinearly. So every output pixel lies between the least and the largest of the few logits that
it is made of. Here the picture is divided into *cells*: the pixels that are made of the same block of logits. Most
cells lie well inside of one mask and well outside of all others; whoever asks who wins them needs no pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dvis_cli.structures import Geometry

SIDE = 3  # logits along a side of a cell: smaller cells make fewer pixels, in more and smaller products


class FeatureCells:
    """The masks of N queries in one frame, by cells: a `structures.CellMasks`.

    Args:
        logits: (N, h, w) float32 mask logits at stride 4, padding included.
    """

    def __init__(self, logits: Tensor, geometry: Geometry) -> None:
        self.grid = cell_grid((logits.shape[1], logits.shape[2]), geometry, logits.device)
        # To whole cells, with a neighbour all around.
        down, across = (-logits.shape[i] % SIDE + 1 for i in (1, 2))
        padded = F.pad(logits[None], (1, across, 1, down), mode="replicate")[0]
        patches = padded.unfold(1, SIDE + 2, SIDE).unfold(2, SIDE + 2, SIDE).contiguous()
        self._patches = patches  # (N, n, m, SIDE + 2, SIDE + 2)
        self.low, self.high = (bound.sigmoid() for bound in patches.flatten(3).aminmax(dim=3))

    @property
    def pixels(self) -> Tensor:
        return self.grid.pixels

    @property
    def block(self) -> tuple[int, int]:
        return self.grid.block

    def blocks(self, query: int, cells: Tensor) -> Tensor:
        """(k, R * S): the probabilities of a query in k cells (k,) int64, numbered row by row; 0 beyond a cell."""
        columns = self._patches.shape[2]
        patches = self._patches[query].flatten(0, 1).index_select(0, cells)
        return self.grid.probabilities(patches, cells // columns, cells % columns)

    def picture(self, blocks: Tensor) -> Tensor:
        """(n * m, R * S) values by cells to (height, width)."""
        return self.grid.picture(blocks)


class CellGrid:
    """Which pixels are whose cell's, and how they are made of its logits.

    Attributes:
        pixels: (n, m) int64, how many output pixels each cell has; 0 in the padding.
        block: (R, S), rows and columns of the largest cell.
    """

    def __init__(self, small: tuple[int, int], geometry: Geometry, device: torch.device) -> None:
        down, across = (
            _axis(small[i], geometry.padded[i], geometry.resized[i], geometry.output[i]) for i in (0, 1)
        )
        self.pixels = (down.counts[:, None] * across.counts).to(device)
        self.block = (down.shrink.shape[1], across.shrink.shape[1])
        row_start = (down.cell * len(across.counts) * self.block[0] + down.place) * self.block[1]
        column_start = across.cell * self.block[0] * self.block[1] + across.place
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
        return blocks.flatten().take(self._index)


@dataclass(frozen=True)
class _Axis:
    """Rows of the output (or columns) by cells: n cells of at most R rows, made of E enlarged rows each."""

    cell: Tensor  # (rows,) int64: the cell of each output row
    place: Tensor  # (rows,) int64: which of the cell's rows it is
    counts: Tensor  # (n,) int64: rows of each cell
    enlarge: Tensor  # (E, SIDE + 2): from logits to enlarged rows, the same for all cells
    shrink: Tensor  # (n, R, E): from enlarged rows to output rows; 0 beyond a cell

    def to(self, device: torch.device) -> _Axis:
        parts = (self.cell, self.place, self.counts, self.enlarge, self.shrink)
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
    place = torch.arange(output) - (counts.cumsum(0) - counts)[cell]
    shrink = torch.zeros(cells, int(counts.max()), step + 1)
    shrink.index_put_((cell, place, first - cell * step), 1 - share, accumulate=True)
    shrink.index_put_((cell, place, last - cell * step), share, accumulate=True)
    # As if the cell began at logit 1 of many: at the edges of the picture the outermost logit is repeated.
    above, below, share = neighbours(SIDE + 2, factor * (SIDE + 2), slice(factor, factor + step + 1))
    enlarge = torch.zeros(step + 1, SIDE + 2)
    rows = torch.arange(step + 1)
    enlarge.index_put_((rows, above), 1 - share, accumulate=True)
    enlarge.index_put_((rows, below), share, accumulate=True)
    return _Axis(cell, place, counts, enlarge, shrink)


@lru_cache(maxsize=16)
def cell_grid(small: tuple[int, int], geometry: Geometry, device: torch.device) -> CellGrid:
    """The grid of masks of that size; made once a video."""
    return CellGrid(small, geometry, device)


def neighbours(source: int, target: int, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Between which two rows of `source` each of some rows of `target` lies, and how close to the second.

    Bilinear without aligned corners. Each (rows,): int64, int64, float32 in 0..1.
    """
    scale = torch.tensor(source, dtype=torch.float32) / target
    place = ((torch.arange(rows.start, rows.stop) + 0.5) * scale - 0.5).clamp(min=0)
    lower = place.long()
    return lower, (lower + 1).clamp(max=source - 1), place - lower
