"""Multi-scale deformable attention: in plain PyTorch, and on CUDA by a Triton kernel. No operator to compile.

Each query looks at a few points of every level around its own place; the places and their weights are
linear functions of the query. Bilinear sampling of one (query, head) is a weighted sum of levels x points x
4 rows of the value table, which is exactly what `embedding_bag` computes: on a CPU three to four times
faster than `grid_sample`, on any device without a tensor of the gathered rows. The kernel is in
`deformable_triton.py`; it is chosen here, once a device.

Axes of 2, 3, 4 or 12 numbers are slow to walk on a CPU. So x and y of all heads, levels and points stand side by
side in one long axis, and the maps lie in a frame of zeros, where places outside need no test of their own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvis_cli.errors import DvisWarning

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
        offsets = linear(query, *self._all_x_then_all_y())
        logits = self.attention_weights(query)
        mixed = attend(self.value_proj(value), offsets, reference, logits, sizes, self.heads)
        return self.output_proj(mixed)

    def _all_x_then_all_y(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of `sampling_offsets`, its outputs in the order (x or y, head, level, point)."""
        linear = self.sampling_offsets
        weight = linear.weight.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)
        return weight, linear.bias.unflatten(0, (-1, 2)).T.flatten()


def attend(
    values: Tensor, offsets: Tensor, reference: Tensor, logits: Tensor, sizes: list[Size], heads: int
) -> Tensor:
    """Mix, for each query and head, the values around its sampling places.

    The sampling convention is bilinear, zero padding, `align_corners=False`. Without gradients on CUDA this is a Triton
    kernel, if on that device it gives what `by_rows` gives; everywhere else it is `by_rows`.

    Args:
        values: (B, S, C), the levels one after the other, each row-major, and the channels head by head.
        offsets: (B, N, 2 heads L points), all x before all y, in cells of their level.
        reference: the queries' places as (x, y) in 0..1, broadcastable to (B, N, L, 2).
        logits: (B, N, heads L points): a softmax over levels and points weighs the samples of a head.
        sizes: (h, w) of each level; S = sum of h * w.
        heads: C is a multiple of it.

    Returns:
        (B, N, C), in the dtype of `values`.
    """
    inputs = (values, offsets, reference, logits)
    device, learning = values.device, torch.is_grad_enabled() and any(one.requires_grad for one in inputs)
    if device.type != "cuda" or device in _REFUSED or learning or values.dtype == torch.float64:
        return by_rows(*inputs, sizes, heads)
    # An operator: whatever traces this sees its shapes, and neither the kernel nor how it was chosen.
    return torch.ops.dvis.deformable_attention(*inputs, [side for size in sizes for side in size], heads)


def by_rows(
    values: Tensor, offsets: Tensor, reference: Tensor, logits: Tensor, sizes: list[Size], heads: int
) -> Tensor:
    """`attend` in PyTorch alone, on any device, with gradients."""
    batch, count, _ = offsets.shape
    grid = _grid(tuple(sizes), heads, logits.shape[2] // (heads * len(sizes)), values.device)
    # Places need fp32 whatever the autocast: bf16 cannot tell neighbouring cells of a wide map apart.
    center = (reference.float() * grid.side - 0.5).transpose(-1, -2).flatten(-2)
    places = offsets.float() + center.index_select(-1, grid.source)
    weights = softmax(logits.float().unflatten(-1, (heads, -1)))
    rows, row_weights = bilinear_rows(places.flatten(0, 1), weights.flatten(2).flatten(0, 1), grid)
    if batch > 1:
        first = torch.arange(batch, device=rows.device, dtype=rows.dtype) * (grid.cells * heads)
        rows = rows.unflatten(0, (batch, -1)) + first.view(-1, 1, 1, 1)
    samples = (batch * count * heads, -1)
    table = framed(values, sizes, grid).view(-1, values.shape[2] // heads)
    mixed = F.embedding_bag(
        rows.view(samples),
        table,
        mode="sum",
        per_sample_weights=row_weights.view(samples).to(table.dtype),
    )
    return mixed.view(batch, count, -1)


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


# --- the kernel, and whether it can be trusted --------------------------------------------------------------


class _Variant(NamedTuple):
    """What a kernel is compiled for."""

    device: torch.device
    dtype: torch.dtype  # of the values
    projected: torch.dtype  # of offsets and logits
    heads: int
    channels: int  # of a head
    levels: int
    points: int


_PROVED: set[_Variant] = set()
_REFUSED: set[torch.device] = set()

torch.library.define(
    "dvis::deformable_attention",
    "(Tensor values, Tensor offsets, Tensor reference, Tensor logits, SymInt[] sizes, SymInt heads) -> Tensor",
)
torch.library.register_fake(
    "dvis::deformable_attention",
    lambda values, offsets, *_: values.new_empty(*offsets.shape[:2], values.shape[2]),
)


@torch.library.impl("dvis::deformable_attention", ("cpu", "cuda"))
def _attend(
    values: Tensor, offsets: Tensor, reference: Tensor, logits: Tensor, sizes: list[int], heads: int
) -> Tensor:
    pairs = list(zip(sizes[::2], sizes[1::2], strict=True))
    points = logits.shape[2] // (heads * len(pairs))
    types = (values.device, values.dtype, offsets.dtype)
    variant = _Variant(*types, heads, values.shape[2] // heads, len(pairs), points)
    compute = _launcher() if _usable(variant) else by_rows
    return compute(values, offsets, reference, logits, pairs, heads)


def _launcher() -> Callable[..., Tensor]:
    from .deformable_triton import launch  # there is no Triton for macOS, nor with PyTorch for Windows

    return launch


def _usable(variant: _Variant) -> bool:
    """Whether the kernel works: tried once a variant; after a failure, which is one warning, never again there."""
    if variant in _PROVED:
        return True
    if variant.device in _REFUSED:
        return False
    try:
        difference = _difference(variant)
        why = f"its numbers are off by {difference:.1e}"
    except torch.OutOfMemoryError:
        raise  # says nothing about the kernel
    except Exception as error:  # Triton's, its compiler's and the driver's are of all kinds
        difference, why = math.inf, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    if difference <= (1e-4 if variant.dtype == torch.float32 else 1e-2):  # not if it is no number
        _PROVED.add(variant)
        return True
    _REFUSED.add(variant.device)
    warnings.warn(
        f"deformable attention runs without its Triton kernel on {variant.device}, more slowly: {why}",
        DvisWarning,
        stacklevel=2,
    )
    return False


def _difference(variant: _Variant) -> float:
    """Of the kernel from `by_rows` in fp32, as a share of the largest output, on random input partly outside."""
    device, dtype, projected, heads, channels, levels, points = variant
    launch = _launcher()
    sizes = [(3 + level, 5 + 2 * level) for level in range(levels)]
    cells, samples = sum(h * w for h, w in sizes), heads * levels * points
    random = torch.Generator().manual_seed(0)  # not the generator of the process
    values, offsets, reference, logits = (
        torch.randn(shape, generator=random, device="cpu").to(device)
        for shape in ((2, cells, heads * channels), (2, 37, 2 * samples), (37, 1, 2), (2, 37, samples))
    )
    values, offsets, logits = values.to(dtype), offsets.to(projected), logits.to(projected)
    ours = launch(values, offsets, reference, logits, sizes, heads).float()
    exact = by_rows(values.float(), offsets, reference, logits, sizes, heads)
    return ((ours - exact).abs().max() / exact.abs().max()).item()
