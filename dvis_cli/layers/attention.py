"""Multi-head attention and the three post-norm blocks that every transformer of DVIS is made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import Linear, linear


class Attention(nn.Module):
    """Multi-head scaled dot-product attention, batch first.

    The parameters are those of `torch.nn.MultiheadAttention` (one stacked projection of 3C rows), so that
    published weights fit by name; the mask is shared by the heads instead of being copied for each.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from every query to every key.

        Args:
            query: (B, N, C).
            key, value: (B, S, C).
            mask: (B, N, S) bool, True where attention is allowed; None allows everything.

        Returns:
            (B, N, C).
        """
        q_weight, k_weight, v_weight = self.in_proj_weight.chunk(3)
        q_bias, k_bias, v_bias = self.in_proj_bias.chunk(3)
        attended = F.scaled_dot_product_attention(
            self._split(linear(query, q_weight, q_bias)),
            self._split(linear(key, k_weight, k_bias)),
            self._split(linear(value, v_weight, v_bias)),
            attn_mask=None if mask is None else mask.unsqueeze(1),
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, heads, N, C / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class SelfAttention(nn.Module):
    """`norm(x + attention(x + position, x + position, x))`."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(channels, heads)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, position: Tensor | None = None) -> Tensor:
        """x: (B, N, C); position: broadcastable to x, carried by queries and keys only."""
        placed = x if position is None else x + position
        return self.norm(x + self.attention(placed, placed, x))


class CrossAttention(nn.Module):
    """`norm(identity + attention(query, key, value))`.

    With the identity apart from the query this is the report's reference cross-attention, equation 2;
    with `identity = query` it is the ordinary block.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(channels, heads)
        self.norm = nn.LayerNorm(channels)

    def forward(
        self, identity: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """identity, query: (B, N, C); key, value: (B, S, C); mask: (B, N, S) bool, True = may attend."""
        return self.norm(identity + self.attention(query, key, value, mask))


class FeedForward(nn.Module):
    """`norm(x + linear2(relu(linear1(x))))`."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = Linear(channels, hidden)
        self.linear2 = Linear(hidden, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., C)."""
        return self.norm(x + self.linear2(F.relu(self.linear1(x), inplace=True)))
