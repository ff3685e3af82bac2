"""Queries look at the frame through their own masks: Mask2Former's masked-attention decoder.

In DVIS++ a query also tells who it is: a re-identification head, and the tracker gets more than the normed query.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvis_cli.config import QueryDecoderConfig
from dvis_cli.layers.attention import CrossAttention, FeedForward, SelfAttention
from dvis_cli.layers.mlp import MLP
from dvis_cli.layers.position import sine_position

from .pixel_decoder import LEVELS, PixelFeatures


class DecoderBlock(nn.Module):
    """Masked cross-attention to one level, self-attention among the queries, FFN."""

    def __init__(self, config: QueryDecoderConfig) -> None:
        super().__init__()
        self.cross_attention = CrossAttention(config.channels, config.heads)
        self.self_attention = SelfAttention(config.channels, config.heads)
        self.ffn = FeedForward(config.channels, config.ffn)

    def forward(self, x: Tensor, position: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """x: (T, Q, C); position: (Q, C); key, value: (T, S, C); mask: (T, Q, S) bool, True = may look."""
        x = self.cross_attention(x, x + position, key, value, mask)
        return self.ffn(self.self_attention(x, position))


class QueryDecoder(nn.Module):
    """Q learned queries, refined by blocks that visit the levels round robin, coarse first."""

    def __init__(self, config: QueryDecoderConfig, inputs: int, mask_channels: int, classes: int) -> None:
        """`inputs`: channels of the pixel decoder's levels."""
        super().__init__()
        channels = config.channels
        self.input_proj = nn.ModuleList(
            nn.Conv2d(inputs, channels, 1) if inputs != channels else nn.Identity() for _ in range(LEVELS)
        )
        self.query_feat = nn.Parameter(torch.randn(config.queries, channels))
        self.query_embed = nn.Parameter(torch.randn(config.queries, channels))
        self.level_embed = nn.Parameter(torch.randn(LEVELS, channels))
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(channels)
        self.class_head = nn.Linear(channels, classes + 1)
        self.mask_head = MLP(channels, channels, mask_channels)
        hidden = config.reid_hidden
        self.reid_head = MLP(channels, hidden, channels) if hidden else None

    def forward(self, features: PixelFeatures) -> Tensor:
        """The final queries: after the norm, (T, Q, C).

        In DVIS++ (T, Q, 3C): after the norm, their re-identification, before the norm. `heads_see` is what the class
        and the mask head know of it.
        """
        *_, (normed, x) = self._run_blocks(features)
        return normed if self.reid_head is None else torch.cat((normed, self.reid_head(normed), x), dim=-1)

    def heads_see(self, queries: Tensor) -> Tensor:
        """(..., C) of what `forward` returned: the queries after the norm."""
        return queries[..., : self.norm.weight.shape[0]]

    def matched_by(self, queries: Tensor) -> Tensor:
        """(..., C) of what `forward` returned: what tells who a query is, from one frame to the next."""
        return queries if self.reid_head is None else queries.chunk(3, dim=-1)[1]

    def every_layer(self, features: PixelFeatures) -> list[Tensor]:
        """The queries after the norm, (T, Q, C): the learned ones, then after each block."""
        return [normed for normed, _ in self._run_blocks(features)]

    def _run_blocks(self, features: PixelFeatures) -> Iterator[tuple[Tensor, Tensor]]:
        """The queries after the norm and before it: the learned ones, then after each block."""
        frames = features.mask_features.shape[0]
        keys, values, small_features = self._prepare(features)
        x = self.query_feat.expand(frames, -1, -1)
        normed = self.norm(x)
        yield normed, x
        for i, block in enumerate(self.blocks):
            level = i % LEVELS
            mask = self._attention_mask(normed, small_features[level])
            x = block(x, self.query_embed, keys[level], values[level], mask)
            normed = self.norm(x)
            yield normed, x

    def _prepare(self, features: PixelFeatures) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Keys, values (T, S, C) and mask features (T, C, S) of every level.

        Resizing commutes with the channel product that makes a mask, so the attention masks are made from
        mask features resized once per level instead of from stride-4 masks at every layer.
        """
        keys, values, small_features = [], [], []
        for i, level in enumerate(features.levels):
            size = level.shape[-2:]
            projected = self.input_proj[i](level)
            value = projected.flatten(2).transpose(1, 2) + self.level_embed[i]
            position = sine_position(size[0], size[1], value.shape[-1], value.device)
            keys.append(value + position)
            values.append(value)
            small = F.interpolate(features.mask_features, size, mode="bilinear", align_corners=False)
            small_features.append(small.flatten(2))
        return keys, values, small_features

    def _attention_mask(self, queries: Tensor, small_features: Tensor) -> Tensor:
        """(T, Q, S) bool: where each query's own mask is at least 0.5; everywhere if it is so nowhere."""
        with torch.no_grad():
            logits = self.mask_head(queries) @ small_features
            inside = logits >= 0
            return inside | ~inside.any(dim=-1, keepdim=True)
