"""Swin transformer backbone for dense prediction.

torchvision's Swin computes something else where a map is smaller than a window (it then leaves the shift
out) and has no norm on the four outputs, so only its patch merging is used here; published checkpoints were
trained with the shift always on.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

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
                merge = PatchMerging(channels)
                merge.reduction = Linear(4 * channels, 2 * channels, bias=False)
                self.merges.append(merge)

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
        windows = _windows(*x.shape[:3], self.window, self.shift, x.device)
        rows = self.qkv(x).flatten(0, 2).index_select(0, windows.cells)
        if len(windows.outside):
            rows[windows.outside] = self.qkv.bias.to(rows.dtype)  # as if the map were padded with zeros
        qkv = rows.view(-1, self.window**2, 3, self.heads, x.shape[-1] // self.heads).permute(2, 0, 3, 1, 4)
        parts = zip(*(one.split(windows.counts) for one in qkv), self._biases(windows), strict=True)
        attended = [
            F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)).transpose(1, 2)
            for q, k, v, bias in parts
            if len(q)
        ]
        rows = torch.cat(attended).view(-1, x.shape[-1])
        return self.proj(rows.index_select(0, windows.places)).view(x.shape)

    def _biases(self, windows: _Windows) -> Tensor:
        """(kinds, 1, heads, area, area): what is added to the attention logits in each kind of window."""
        index = _relative_index(self.window, self.bias_table.device)
        bias = self.bias_table.T.index_select(1, index).view(1, 1, self.heads, self.window**2, -1)
        return bias if windows.masks is None else bias + windows.masks


class _Windows(NamedTuple):
    """Which cells meet in which window. Windows of one kind, which share a mask, lie side by side."""

    cells: Tensor  # (windows * area,) int64: the cell in each place of each window; any, where it is outside the map
    outside: Tensor  # (n,) int64: the places outside the map
    places: Tensor  # (T * h * w,) int64: the place of each cell
    counts: tuple[int, ...]  # windows of each kind
    masks: Tensor | None  # (kinds, 1, 1, area, area): MASKED between neighbours through the roll, else 0


@lru_cache(maxsize=16)
def _windows(frames: int, height: int, width: int, window: int, shift: int, device: torch.device) -> _Windows:
    """Made once a size. With a shift the kinds are: whole ones, the last column, the last row, the corner."""
    with torch.inference_mode(False):  # the cached tensors must serve training as well
        count = frames * height * width
        cells = torch.arange(count, device=device).view(frames, height, width)
        cells = F.pad(cells, (0, -width % window, 0, -height % window), value=-1)
        cells = cells.roll((-shift, -shift), (1, 2))
        grid = cells.unflatten(2, (-1, window)).unflatten(1, (-1, window)).transpose(2, 3).flatten(3)
        kinds, masks = [grid], None
        if shift:
            halves = grid.tensor_split([grid.shape[1] - 1], dim=1)
            kinds = [kind for half in halves for kind in half.tensor_split([grid.shape[2] - 1], dim=2)]
            masks = _shift_masks(window, shift, device)
        cells = torch.cat([kind.flatten() for kind in kinds])
        outside, places = cells.argsort().split([len(cells) - count, count])
        counts = tuple(kind[..., 0].numel() for kind in kinds)
        return _Windows(cells.clamp(min=0), outside, places, counts, masks)


@lru_cache(maxsize=16)
def _relative_index(window: int, device: torch.device) -> Tensor:
    """(window ** 4,) int64: for each pair of cells the row of the bias table for their distance."""
    with torch.inference_mode(False):  # the cached tensor must serve training as well
        line = torch.arange(window, device=device)
        cells = torch.stack(torch.meshgrid(line, line, indexing="ij")).flatten(1)
        distance = cells[:, :, None] - cells[:, None] + window - 1
        return (distance[0] * (2 * window - 1) + distance[1]).flatten()


def _shift_masks(window: int, shift: int, device: torch.device) -> Tensor:
    """(4, 1, 1, area, area) float32: in the order of `_windows`."""
    # Of the last row or column: what the roll brought.
    line = torch.arange(window, device=device) >= window - shift
    bands = torch.stack((torch.zeros_like(line), line)).int()
    region = 2 * bands[:, None, :, None] + bands[None, :, None, :]
    region = region.flatten(2).flatten(0, 1)
    return ((region[:, :, None] != region[:, None]).float() * MASKED)[:, None, None]
