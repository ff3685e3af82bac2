"""Swin transformer backbone for dense prediction.

torchvision's Swin computes something else where a map is smaller than a window (it then leaves the shift
out) and has no norm on the four outputs, so only its patch merging is used here; published checkpoints were
trained with the shift always on.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.swin_transformer import PatchMerging
from torchvision.ops import StochasticDepth

from dvis_cli.config import SwinConfig
from dvis_cli.layers.linear import Linear

MASKED = -100.0  # added to the attention logits of cells that are neighbours only through the roll


class Swin(nn.Module):
    """Patches of 4x4 pixels, then four stages of windowed attention with patch merging between them."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.channels = tuple(config.embed_dim * 2**i for i in range(len(config.depths)))
        self.patch = nn.Conv2d(3, config.embed_dim, 4, stride=4)
        self.patch_norm = nn.LayerNorm(config.embed_dim)
        last = max(sum(config.depths) - 1, 1)
        drops = [config.drop_path * i / last for i in range(sum(config.depths))]
        self.stages = nn.ModuleList()
        self.merges = nn.ModuleList()
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in self.channels)
        for stage, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
            channels = self.channels[stage]
            blocks = (
                SwinBlock(
                    channels,
                    heads,
                    config.window,
                    shift=0 if i % 2 == 0 else config.window // 2,
                    drop=drops.pop(0),
                )
                for i in range(depth)
            )
            self.stages.append(nn.Sequential(*blocks))
            if stage + 1 < len(config.depths):
                self.merges.append(PatchMerging(channels))

    def forward(self, frames: Tensor) -> list[Tensor]:
        """frames: (T, 3, H, W), normalised. Returns res2..res5, each (T, channels, H / stride, W / stride)."""
        height, width = frames.shape[-2:]
        frames = F.pad(frames, (0, -width % 4, 0, -height % 4))
        x = self.patch_norm(self.patch(frames).permute(0, 2, 3, 1))
        features = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            features.append(self.norms[i](x).permute(0, 3, 1, 2))
            if i < len(self.merges):
                x = self.merges[i](x)
        return features


class SwinBlock(nn.Module):
    """Windowed attention and a perceptron, both pre-norm with stochastic depth."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window, shift)
        self.norm2 = nn.LayerNorm(channels)
        self.linear1 = Linear(channels, 4 * channels)
        self.linear2 = Linear(4 * channels, channels)
        self.drop = StochasticDepth(drop, "row")

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, h, w, C)."""
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.linear2(F.gelu(self.linear1(self.norm2(x)))))


class WindowAttention(nn.Module):
    """Attention inside windows of `window` x `window` cells, the grid shifted by `shift` cells."""

    def __init__(self, channels: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, h, w, C)."""
        frames, height, width, _ = x.shape
        window, shift = self.window, self.shift
        x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        rows, columns = x.shape[1] // window, x.shape[2] // window
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
        x = x.unflatten(2, (columns, window)).unflatten(1, (rows, window)).transpose(2, 3)
        x = self._attend(x.flatten(3, 4).flatten(0, 2), frames, rows, columns)
        x = x.view(frames, rows, columns, window, window, -1).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if shift:
            x = x.roll((shift, shift), (1, 2))
        return x[:, :height, :width]

    def _attend(self, x: Tensor, frames: int, rows: int, columns: int) -> Tensor:
        """x: (T * rows * columns, cells of a window, C), frame by frame, window by window."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        area = self.window**2
        bias = (
            self.bias_table[_relative_index(self.window, x.device)]
            .view(1, area, area, -1)
            .permute(0, 3, 1, 2)
        )
        if self.shift:
            mask = _shift_mask(rows, columns, self.window, self.shift, x.device)
            bias = (bias + mask[:, None]).repeat(frames, 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(out.transpose(1, 2).flatten(2))


@lru_cache(maxsize=16)
def _relative_index(window: int, device: torch.device) -> Tensor:
    """(window ** 4,) int64: for each pair of cells the row of the bias table for their distance."""
    with torch.inference_mode(False):  # the cached tensor must serve training as well
        line = torch.arange(window, device=device)
        cells = torch.stack(torch.meshgrid(line, line, indexing="ij")).flatten(1)
        distance = cells[:, :, None] - cells[:, None] + window - 1
        return (distance[0] * (2 * window - 1) + distance[1]).flatten()


def _shift_mask(rows: int, columns: int, window: int, shift: int, device: torch.device) -> Tensor:
    """(rows * columns, area, area): MASKED between cells that the roll brought together, else 0."""

    def bands(count: int) -> Tensor:
        band = torch.zeros(count * window, device=device)
        band[-window:] = 1
        band[-shift:] = 2
        return band

    region = bands(rows)[:, None] * 3 + bands(columns)[None]
    region = region.unflatten(1, (columns, window)).unflatten(0, (rows, window)).transpose(1, 2)
    region = region.reshape(rows * columns, window * window)
    return (region[:, :, None] != region[:, None]).to(torch.float32) * MASKED
