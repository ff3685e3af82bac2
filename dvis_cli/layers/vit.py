"""The block of a DINOv2 vision transformer, and its position grid at other sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvis_cli.config import HEAD

from .linear import Linear

NORM_EPS = 1e-6  # of every layer norm in a vision transformer


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last axis."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=NORM_EPS)


class ViTBlock(nn.Module):
    """Self-attention and a perceptron, both pre-norm; what they add is scaled channel by channel (LayerScale)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels)
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        self.scale1 = nn.Parameter(torch.ones(channels))
        self.norm2 = LayerNorm(channels)
        self.linear1 = Linear(channels, hidden)
        self.linear2 = Linear(hidden, channels)
        self.scale2 = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, N, C)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.scale1 * self.proj(attended)
        return x + self.scale2 * self.linear2(F.gelu(self.linear1(self.norm2(x))))


def grid_image(positions: Tensor) -> Tensor:
    """(1, G * G, C) positions, row by row, to (1, C, G, G)."""
    side = round(positions.shape[1] ** 0.5)
    return positions.transpose(1, 2).unflatten(2, (side, side))
