"""Multi-scale deformable attention in plain PyTorch: no operator to compile.

Each query looks at a few points of every level around its own place; the places and their weights are
linear functions of the query. Bilinear sampling of one (query, head) is a weighted sum of levels x points x
4 rows of the value table, which is exactly what `embedding_bag` computes: on a CPU three to four times
faster than `grid_sample`, on any device without a tensor of the gathered rows.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int]  # (height, width) of a level


class DeformableAttention(nn.Module):
    """Attention of each query to `points` sampled places on each of `levels` maps, per head."""

    def __init__(self, channels: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
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
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

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
        batch, count, _ = query.shape
        values = self.value_proj(value).unflatten(-1, (self.heads, -1))
        shape = (batch, count, self.heads, self.levels, self.points)
        # Places need fp32 whatever the autocast: bf16 cannot tell neighbouring cells of a wide map apart.
        offsets = self.sampling_offsets(query).float().view(*shape, 2)
        weights = self.attention_weights(query).float().view(*shape[:3], -1).softmax(-1).view(shape)
        rows, row_weights = bilinear_rows(offsets, weights, reference.float(), sizes)
        table = values.reshape(-1, values.shape[-1])
        mixed = F.embedding_bag(rows, table, mode="sum", per_sample_weights=row_weights.to(table.dtype))
        return self.output_proj(mixed.view(batch, count, -1))


def bilinear_rows(
    offsets: Tensor, weights: Tensor, reference: Tensor, sizes: list[Size]
) -> tuple[Tensor, Tensor]:
    """Turn sampling places into rows of the value table and their weights.

    The sampling convention is zero padding with `align_corners=False`; offsets are in cells of their level.

    Args:
        offsets: (B, N, heads, L, P, 2) float32 as (x, y).
        weights: (B, N, heads, L, P) float32.
        reference: float32 as (x, y) in 0..1, broadcastable to (B, N, L, 2).
        sizes: (h, w) of each level.

    Returns:
        rows: (B * N * heads, L * P * 4) int32, rows of a table laid out (B, S, heads).
        row_weights: the same shape, float32; zero for neighbours outside of the map.
    """
    batch, count, heads, levels, points = weights.shape
    device = weights.device
    side, starts = _level_table(tuple(sizes), device)
    total = sum(h * w for h, w in sizes)
    center = reference * side - 0.5  # (..., N, L, 2)
    place = offsets + center.unsqueeze(-3).unsqueeze(-2)
    corner = place.floor()
    fraction = place - corner
    # One neighbour at a time per axis: (index, weight) of the near and the far one, clamped into the map.
    axes = []
    for axis in (0, 1):
        limit = side[:, axis, None] - 1
        near, part = corner[..., axis], fraction[..., axis]
        axes.append([
            (near.clamp(min=0).minimum(limit), (1 - part) * ((near >= 0) & (near <= limit))),
            ((near + 1).clamp(min=0).minimum(limit), part * ((near >= -1) & (near < limit))),
        ])  # fmt: skip
    width = side[:, 0, None].int()
    first = (
        starts[:, None] + torch.arange(batch, device=device, dtype=torch.int32).view(-1, 1, 1, 1, 1) * total
    )
    head = torch.arange(heads, device=device, dtype=torch.int32)[:, None, None]
    rows, row_weights = [], []
    for y, y_weight in axes[1]:
        line = first + y.int() * width
        weighted = weights * y_weight
        for x, x_weight in axes[0]:
            rows.append((line + x.int()) * heads + head)
            row_weights.append(weighted * x_weight)
    samples = (batch * count * heads, levels * points * 4)
    return torch.stack(rows, -1).view(samples), torch.stack(row_weights, -1).view(samples)


@lru_cache(maxsize=32)
def _level_table(sizes: tuple[Size, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each level its (w, h), (L, 2) float32, and its first row, (L,) int32; copied to the device once a size."""
    starts = [sum(h * w for h, w in sizes[:level]) for level in range(len(sizes))]
    with torch.inference_mode(False):  # the cached tensors must serve training as well
        sides = torch.tensor([(w, h) for h, w in sizes], dtype=torch.float32)
        return sides.to(device), torch.tensor(starts, dtype=torch.int32).to(device)
