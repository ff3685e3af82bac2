"""The referring tracker: denoise this frame's matched queries with the last frame's output as reference."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dvis_cli.config import TrackerConfig
from dvis_cli.layers.attention import CrossAttention, FeedForward, SelfAttention
from dvis_cli.layers.mlp import MLP
from dvis_cli.structures import SegmenterOutput, TrackerState, Tracks

from .matching import match_frames


class TrackerBlock(nn.Module):
    """Reference cross-attention (equation 2), self-attention, FFN."""

    def __init__(self, channels: int, config: TrackerConfig) -> None:
        super().__init__()
        self.cross_attention = CrossAttention(channels, config.heads)
        self.self_attention = SelfAttention(channels, config.heads)
        self.ffn = FeedForward(channels, config.ffn)

    def forward(self, identity: Tensor, query: Tensor, memory: Tensor) -> Tensor:
        """All (B, Q, C): who is updated, what asks, what is looked at."""
        x = self.cross_attention(identity, query, memory, memory)
        return self.ffn(self.self_attention(x))


class ReferringTracker(nn.Module):
    """Stateless: what it remembers between frames is an argument and a result."""

    def __init__(self, config: TrackerConfig, channels: int, mask_channels: int, classes: int) -> None:
        super().__init__()
        self.published = config.matching == "published"
        self.match_tracks = config.matching == "tracks"
        self.needs_orders = config.matching == "memory"  # somebody else matches: `orders_with_memory`
        self.blocks = nn.ModuleList(TrackerBlock(channels, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(channels)
        self.class_head = nn.Linear(channels, classes + 1)
        self.mask_head = MLP(channels, channels, mask_channels)

    def forward(
        self, queries: Tensor, state: TrackerState | None = None, orders: Tensor | None = None
    ) -> tuple[Tracks, TrackerState]:
        """Track through T frames.

        Args:
            queries: (B, T, Q, C) segmenter queries, T >= 1.
            state: what the last call returned; None at the beginning of a video.
            orders: (B, T, Q) int64, which query goes on in each row, where the matching is not the tracker's own.

        Returns:
            the tracks of these frames, and the state after them.
        """
        outputs, indices = [], []
        orders = self._orders(queries, state) if orders is None else orders
        for frame, current in enumerate(queries.unbind(1)):
            state, order, _ = self.step(current, state, None if orders is None else orders[:, frame])
            outputs.append(state.output)
            indices.append(order)
        assert state is not None, "no frames"
        before_norm = torch.stack(outputs, dim=1)
        tracked = self.norm(before_norm)
        return Tracks(tracked, self.class_head(tracked), torch.stack(indices, dim=1), before_norm), state

    def every_layer(self, queries: Tensor, orders: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Track a clip from its beginning and keep what training looks at.

        Args:
            queries: (B, T, Q, C) segmenter queries.
            orders: as of `forward`.

        Returns:
            the tracks after each block and the norm, each (B, T, Q, C), and the order (B, T, Q) int64.
        """
        state, blocks, indices = None, [], []
        orders = self._orders(queries, state) if orders is None else orders
        for frame, current in enumerate(queries.unbind(1)):
            state, order, outputs = self.step(current, state, None if orders is None else orders[:, frame])
            blocks.append(outputs)
            indices.append(order)
        layers = [self.norm(torch.stack(frames, dim=1)) for frames in zip(*blocks, strict=True)]
        return layers, torch.stack(indices, dim=1)

    def step(
        self, current: Tensor, state: TrackerState | None, order: Tensor | None = None
    ) -> tuple[TrackerState, Tensor, list[Tensor]]:
        """One frame.

        Args:
            current: (B, Q, C) segmenter queries.
            state: after the last frame.
            order: (B, Q) int64, which query goes on in each row; None: matched with the last frame's tracks.

        Returns:
            the new state, the order (B, Q) int64, and every block's output, each (B, Q, C).
        """
        if state is None:
            order = torch.arange(current.shape[1], device=current.device).expand(current.shape[:2])
            outputs = self._denoise(current, None, current)
            return TrackerState(matched=current, output=outputs[-1]), order, outputs
        if order is None:
            order = match_frames(current[:, None], self.norm(state.output))[:, 0]
        matched = current.gather(1, order.unsqueeze(-1).expand_as(current))
        outputs = self._denoise(matched, state.output, current)
        return TrackerState(matched, outputs[-1]), order, outputs

    def _orders(self, queries: Tensor, state: TrackerState | None) -> Tensor | None:
        """(B, T, Q) int64 of `match_frames`; None where it takes the tracks, frame by frame."""
        assert not self.needs_orders, "matching with a memory is not done here"
        if self.match_tracks:
            return None
        return match_frames(queries, None if state is None else state.matched, self.published)

    def refiner_inputs(self, queries: Tensor, tracks: Tracks) -> tuple[Tensor, Tensor]:
        """What the refiner gets: tracks, and as its memory every frame as if it were the first; both (B, T, Q, C)."""
        return tracks.queries, self.frame_forward(queries)

    def mask_features(self, output: SegmenterOutput) -> Tensor:
        """(T, C, h, w): what this tracker's mask embeddings are multiplied with: the segmenter's own."""
        return output.mask_features

    def mask_embeds(self, tracks: Tensor, kept: Tensor) -> Tensor:
        """(N, C) mask embeddings of the kept rows (N,) int64 of a frame's tracks (Q, C)."""
        embeds: Tensor = self.mask_head(tracks[kept])
        return embeds

    def frame_forward(self, queries: Tensor) -> Tensor:
        """Every frame as if it were the first of a video: the refiner's memory. (..., Q, C) -> same shape."""
        flat = queries.flatten(0, -3)
        return self.norm(self._denoise(flat, None, flat)[-1]).view_as(queries)

    def _denoise(self, identity: Tensor, reference: Tensor | None, memory: Tensor) -> list[Tensor]:
        """Run the blocks; without a reference each block asks with its own input. All outputs, in order."""
        outputs = []
        x = identity
        for block in self.blocks:
            x = block(x, x if reference is None else reference, memory)
            outputs.append(x)
        return outputs
