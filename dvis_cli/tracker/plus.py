"""The referring tracker of DVIS++: matched by what a query says of its identity, led by a projected reference."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dvis_cli.config import TrackerConfig
from dvis_cli.layers.mlp import MLP
from dvis_cli.structures import SegmenterOutput, TrackerState, Tracks

from .matching import match_frames
from .tracker import TrackerBlock


class PlusTracker(nn.Module):
    """As `ReferringTracker`, with what DVIS++ changed (docs/method.md).

    Its input is what the query decoder of DVIS++ returns, (..., 3C): the query after the norm, its re-identification,
    the query before the norm. The first two are matched (*normed*, D = 2C); the last two tracked (*raw*, D).
    """

    needs_orders = False  # it matches by itself

    def __init__(self, config: TrackerConfig, channels: int, mask_channels: int, classes: int) -> None:
        """`channels`: D."""
        super().__init__()
        self.blocks = nn.ModuleList(TrackerBlock(channels, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(channels)
        self.ref_proj = MLP(channels, channels, channels)
        self.mask_feature_proj = nn.Conv2d(mask_channels, mask_channels, 1)
        self.class_head = nn.Linear(2 * channels, classes + 1)
        self.mask_head = MLP(channels, channels, mask_channels)

    def forward(
        self, queries: Tensor, state: TrackerState | None = None, orders: Tensor | None = None
    ) -> tuple[Tracks, TrackerState]:
        """Track through T frames.

        Args:
            queries: (B, T, Q, 3C) segmenter queries, T >= 1.
            state: what the last call returned; None at the beginning of a video.
            orders: not taken.

        Returns:
            the tracks of these frames, (B, T, Q, D), and the state after them.
        """
        assert orders is None, "this tracker matches by itself"
        references, outputs = [], []
        normed, raw = split(queries)
        indices = match_frames(normed, None if state is None else state.matched)
        for frame in zip(normed.unbind(1), raw.unbind(1), indices.unbind(1), strict=True):
            state, reference = self.step(*frame, state)
            references.append(reference)
            outputs.append(state.output)
        assert state is not None, "no frames"
        before_norm = torch.stack(outputs, dim=1)
        tracked = self.norm(before_norm)
        logits = self.class_head(torch.cat((torch.stack(references, dim=1), tracked), dim=-1))
        return Tracks(tracked, logits, indices, before_norm), state

    def step(
        self, normed: Tensor, raw: Tensor, order: Tensor, state: TrackerState | None
    ) -> tuple[TrackerState, Tensor]:
        """One frame.

        Args:
            normed, raw: (B, Q, D).
            order: (B, Q) int64, which query goes on in each row.
            state: after the last frame.

        Returns:
            the new state, and the reference (B, Q, D) that the class head sees.
        """
        index = order.unsqueeze(-1).expand_as(raw)
        reference = self.ref_proj(raw if state is None else state.output)
        x, query = raw.gather(1, index), reference
        for block in self.blocks:
            x = block(x, query, raw)
            if state is None:  # nobody to refer to yet: each block asks with its own input
                query = self.ref_proj(x)
        return TrackerState(normed.gather(1, index), x), reference

    def refiner_inputs(self, queries: Tensor, tracks: Tracks) -> tuple[Tensor, Tensor]:
        """What the refiner gets: tracks before the norm, and as its memory the raw queries; both (B, T, Q, D)."""
        return tracks.before_norm, split(queries)[1]

    def mask_features(self, output: SegmenterOutput) -> Tensor:
        """(T, C, h, w): what this tracker's mask embeddings are multiplied with."""
        features: Tensor = self.mask_feature_proj(output.mask_features.float())
        return features

    def mask_embeds(self, tracks: Tensor, kept: Tensor) -> Tensor:
        """(N, C) mask embeddings of the kept rows (N,) int64 of a frame's tracks (Q, D)."""
        embeds: Tensor = self.mask_head(tracks[kept])
        return embeds


def split(queries: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 3C) to the normed and the raw queries, (..., 2C) each; the re-identification is in both."""
    after, identity, before = queries.chunk(3, dim=-1)
    return torch.cat((after, identity), dim=-1), torch.cat((before, identity), dim=-1)
