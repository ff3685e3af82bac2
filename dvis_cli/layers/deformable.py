"""Multi-scale deformable attention in plain PyTorch: no operator to compile.

Each query looks at a few points of every level around its own place; the places and their weights are
linear functions of the query. Bilinear sampling of one (query, head) is a weighted sum of levels x points x
4 rows of the value table, which is exactly what `embedding_bag` computes: on a CPU three to four times
faster than `grid_sample`, on any device without a tensor of the gathered rows.

Axes of 2, 3, 4 or 12 numbers are slow to walk on a CPU. So x and y of all heads, levels and points stand side by
side in one long axis, and the maps lie in a frame of zeros, where places outside need no test of their own.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import Linear, linear

Size = tuple[int, int]  # (height, width) of a level


class DeformableAttention(nn.Module):
    """Attention of each query to `points` sampled places on each of `levels` maps, per head."""

    def __init__(self, channels: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = Linear(channels, heads * levels * points * 2)
        self.attention_weights = Linear(channels, heads * levels * points)
        self.value_proj = Linear(channels, channels)
        self.output_proj = Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Head m starts looking in direction 2 pi m / heads, point p at p + 1 cells, all weights equal."""
        angle = torch.arange(self.heads) * (2.0 * math.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        reach = torch.arange(1, self.points + 1, dtype=direction.dtype)
        start = direction[:, None, None] * reach[None, None, :, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(start.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, reference: Tensor, value: Tensor, sizes: list[Size]) -> Tensor:
        """Sample and mix.

        Args:
            query: (B, N, C).
            reference: the queries' places as (x, y) in 0..1, broadcastable to (B, N, L, 2).
            value: (B, S, C), the levels one after the other, each row-major; S = sum of h * w.
            sizes: (h, w) of each level, in the order of `value`.

        Returns:
            (B, N, C).
        """
        batch, count, channels = query.shape
        grid = _grid(tuple(sizes), self.heads, self.points, query.device)
        # Places need fp32 whatever the autocast: bf16 cannot tell neighbouring cells of a wide map apart.
        offsets = linear(query, *self._all_x_then_all_y()).float()
        center = (reference.float() * grid.side - 0.5).transpose(-1, -2).flatten(-2)
        places = offsets + center.index_select(-1, grid.source)
        weights = softmax(self.attention_weights(query).float().unflatten(-1, (self.heads, -1)))
        rows, row_weights = bilinear_rows(places.flatten(0, 1), weights.flatten(2).flatten(0, 1), grid)
        if batch > 1:
            first = torch.arange(batch, device=rows.device, dtype=rows.dtype) * (grid.cells * self.heads)
            rows = rows.unflatten(0, (batch, -1)) + first.view(-1, 1, 1, 1)
        samples = (batch * count * self.heads, -1)
        table = framed(self.value_proj(value), sizes, grid).view(-1, channels // self.heads)
        mixed = F.embedding_bag(
            rows.view(samples),
            table,
            mode="sum",
            per_sample_weights=row_weights.view(samples).to(table.dtype),
        )
        return self.output_proj(mixed.view(batch, count, channels))

    def _all_x_then_all_y(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of `sampling_offsets`, its outputs in the order (x or y, head, level, point)."""
        linear = self.sampling_offsets
        weight = linear.weight.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)
        return weight, linear.bias.unflatten(0, (-1, 2)).T.flatten()


def softmax(x: Tensor) -> Tensor:
    """Over the last axis; where that is short, several times faster than torch's on a CPU."""
    exponential = (x - x.detach().amax(dim=-1, keepdim=True)).exp()
    return exponential / exponential.sum(dim=-1, keepdim=True)


class _Grid(NamedTuple):
    """How maps of some sizes lie in one table of cells, and constants of what is sampled from them.

    Every map has a row of zeros above it and a column of zeros to its left. All rows are `width` cells long, so that
    the zero right of a row is the one left of the next, and what is below a cell is as far away in every map.
    """

    side: Tensor  # (L, 2) float32: (w, h) of each level
    source: Tensor  # (2 heads L points,) int64: which of the 2 L coordinates of a query an x or a y is relative to
    lowest: Tensor  # (2 heads L points,) float32: -1, where everything sampled is zero already
    highest: Tensor  # (2 heads L points,) float32: the side, likewise
    first: Tensor  # (heads L points,) int32: the table's row of cell (0, 0) of each head and level
    starts: tuple[int, ...]  # of each level: the cell left of and above cell (0, 0)
    width: int
    cells: int
    heads: int


def bilinear_rows(places: Tensor, weights: Tensor, grid: _Grid) -> tuple[Tensor, Tensor]:
    """Turn sampling places into rows of the value table and their weights.

    The sampling convention is zero padding with `align_corners=False`.

    Args:
        places: (N, 2 heads L points) float32, all x before all y, in cells of their level; 0 is the middle of one.
        weights: (N, heads L points) float32.

    Returns:
        rows: (N, heads L points, 4) int32, rows of a table laid out (cells, heads).
        row_weights: the same shape, float32.
    """
    half = weights.shape[1]
    inside = places.clamp(grid.lowest, grid.highest)
    corner = inside.detach().floor()
    right, down = (inside - corner).split(half, dim=1)
    x, y = corner.split(half, dim=1)
    row = torch.add(x, y, alpha=grid.width).int() * grid.heads + grid.first
    below = row + grid.width * grid.heads
    low = weights * down
    high = weights - low
    low_right, high_right = low * right, high * right
    rows = torch.stack((row, row + grid.heads, below, below + grid.heads), dim=-1)
    return rows, torch.stack((high - high_right, high_right, low - low_right, low_right), dim=-1)


def framed(values: Tensor, sizes: list[Size], grid: _Grid) -> Tensor:
    """(B, S, C) cells of all levels to the table of `grid`, (B, cells, C)."""
    table = values.new_zeros(values.shape[0], grid.cells, values.shape[2])
    parts = values.split([h * w for h, w in sizes], dim=1)
    for (h, w), start, part in zip(sizes, grid.starts, parts, strict=True):
        lines = table[:, start + grid.width :][:, : h * grid.width].unflatten(1, (h, grid.width))
        lines[:, :, 1 : w + 1] = part.unflatten(1, (h, w))
    return table


@lru_cache(maxsize=32)
def _grid(sizes: tuple[Size, ...], heads: int, points: int, device: torch.device) -> _Grid:
    """Made, and copied to the device, once a size."""
    levels, width = len(sizes), max(w for _, w in sizes) + 1
    rows = [sum(h + 1 for h, _ in sizes[:level]) for level in range(levels + 1)]
    starts = tuple(row * width for row in rows[:-1])
    with torch.inference_mode(False):  # the cached tensors must serve training as well
        side = torch.tensor([(w, h) for h, w in sizes], dtype=torch.float32)
        sampled = (heads, levels, points)
        source = torch.arange(2 * levels).view(2, 1, levels, 1).expand(2, *sampled).flatten()
        highest = side.T.flatten()[source]
        cell = torch.tensor(starts, dtype=torch.int32) + width + 1
        first = cell[:, None] * heads + torch.arange(heads, dtype=torch.int32)[:, None, None]
        constants = (side, source, torch.full_like(highest, -1), highest, first.expand(sampled).flatten())
        side, source, lowest, highest, first = (constant.to(device) for constant in constants)
    # Below the last map its row of zeros; and what lies beyond that is read too, with weight 0.
    cells = (rows[-1] + 2) * width + 2
    return _Grid(side, source, lowest, highest, first, starts, width, cells, heads)
