"""The temporal refiner: correct each track with all frames of the window in view."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvis_cli.config import RefinerConfig
from dvis_cli.layers.attention import CrossAttention, FeedForward, SelfAttention
from dvis_cli.layers.mlp import MLP
from dvis_cli.structures import RefinedTracks

# Parts of a window that go through a block together: the intermediate tensors of a long window would be several
# times the window itself.
TRACKS_AT_ONCE = 32
FRAMES_AT_ONCE = 16


class ShortTerm(nn.Module):
    """`norm(x + conv3(relu(conv5(x))))` along time: motion over a few frames."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, channels, 5, padding=2, padding_mode="replicate")
        self.conv2 = nn.Conv1d(channels, channels, 3, padding=1, padding_mode="replicate")
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, T, C)."""
        aggregated = self.conv2(F.relu(self.conv1(x.transpose(1, 2))))
        return self.norm(x + aggregated.transpose(1, 2))


class RefinerBlock(nn.Module):
    """Along time: attention, convolution; within each frame: self-attention, a look at the memory, FFN."""

    def __init__(self, channels: int, config: RefinerConfig) -> None:
        super().__init__()
        self.long_term = SelfAttention(channels, config.heads)
        self.short_term = ShortTerm(channels)
        self.self_attention = SelfAttention(channels, config.heads)
        self.cross_attention = CrossAttention(channels, config.heads)
        self.ffn = FeedForward(channels, config.ffn)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """x, memory: (B, T, Q, C)."""
        batch, frames, count, _ = x.shape
        x = x.transpose(1, 2).flatten(0, 1)  # (B * Q, T, C): each track alone
        x = torch.cat([self.short_term(self.long_term(part)) for part in x.split(TRACKS_AT_ONCE)])
        x = x.unflatten(0, (batch, count)).transpose(1, 2).flatten(0, 1)  # (B * T, Q, C): each frame alone
        parts = zip(x.split(FRAMES_AT_ONCE), memory.flatten(0, 1).split(FRAMES_AT_ONCE), strict=True)
        return torch.cat([self._within_frames(*part) for part in parts]).unflatten(0, (batch, frames))

    def _within_frames(self, x: Tensor, memory: Tensor) -> Tensor:
        """x, memory: (N, Q, C), N frames that do not know of each other."""
        x = self.self_attention(x)
        return self.ffn(self.cross_attention(x, x, memory, memory))


class TemporalRefiner(nn.Module):
    """Offline correction of tracks; one class distribution per track (equation 3)."""

    def __init__(
        self,
        config: RefinerConfig,
        channels: int,
        mask_channels: int,
        classes: int,
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        """`activation`: of the mask head, which begins as a copy of the tracker's."""
        super().__init__()
        self.blocks = nn.ModuleList(RefinerBlock(channels, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(channels)
        self.time_weight = nn.Linear(channels, 1)
        self.class_head = nn.Linear(channels, classes + 1)
        self.mask_head = MLP(channels, channels, mask_channels, activation=activation)

    def forward(self, tracks: Tensor, memory: Tensor) -> RefinedTracks:
        """Refine a window.

        Args:
            tracks: (B, T, Q, C) tracker output after its final norm.
            memory: (B, T, Q, C) of `ReferringTracker.frame_forward`.
        """
        x = tracks
        for after_block in self._run_blocks(tracks, memory):
            x = after_block  # only the last is kept: a long window times the blocks would be a lot
        return self._predict(x)

    def every_layer(self, tracks: Tensor, memory: Tensor) -> list[RefinedTracks]:
        """As `forward`, after each block: what training looks at."""
        return [self._predict(x) for x in self._run_blocks(tracks, memory)]

    def _run_blocks(self, tracks: Tensor, memory: Tensor) -> Iterator[Tensor]:
        x = tracks
        for block in self.blocks:
            x = block(x, memory)
            yield x

    def _predict(self, x: Tensor) -> RefinedTracks:
        x = self.norm(x)
        weights = self.time_weight(x).softmax(dim=1)  # over T
        return RefinedTracks(x, self.class_head((weights * x).sum(dim=1)))
