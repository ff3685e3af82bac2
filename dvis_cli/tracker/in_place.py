"""The tracker of a segmenter that needs none: VidEoMT's rows are the same objects in every frame."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvis_cli.layers.mlp import MLP
from dvis_cli.structures import SegmenterOutput, TrackerState, Tracks


class InPlaceTracker(nn.Module):
    """No weights: the heads are the segmenter's, and every query stays in its row."""

    needs_orders = False

    def __init__(self, segmenter: Any) -> None:
        """`segmenter`: has `class_head`, `mask_head` and `norm`."""
        super().__init__()
        self._segmenter = (segmenter,)  # in a tuple: its weights belong to the segmenter

    @property
    def class_head(self) -> nn.Linear:
        head: nn.Linear = self._segmenter[0].class_head
        return head

    @property
    def mask_head(self) -> MLP:
        head: MLP = self._segmenter[0].mask_head
        return head

    @property
    def norm(self) -> nn.LayerNorm:
        norm: nn.LayerNorm = self._segmenter[0].norm
        return norm

    def forward(
        self, queries: Tensor, state: TrackerState | None = None, orders: Tensor | None = None
    ) -> tuple[Tracks, TrackerState | None]:
        """queries: (B, T, Q, C), which are tracks already; the rest as of `ReferringTracker`."""
        rows = torch.arange(queries.shape[2], device=queries.device).expand(queries.shape[:3])
        return Tracks(queries, self.class_head(queries), rows, queries), state

    def refiner_inputs(self, queries: Tensor, tracks: Tracks) -> tuple[Tensor, Tensor]:
        """What the refiner gets: the tracks, and as its memory the same; both (B, T, Q, C)."""
        return tracks.queries, queries

    def mask_features(self, output: SegmenterOutput) -> Tensor:
        """(T, Q, h, w): the mask logits themselves, of which there are a fifth as many as mask features."""
        return torch.einsum(
            "tqc,tchw->tqhw", self.mask_head(output.queries.float()), output.mask_features.float()
        )

    def mask_embeds(self, tracks: Tensor, kept: Tensor) -> Tensor:
        """(N, Q): 1 where a kept row (N,) int64 finds its mask logits, else 0."""
        return F.one_hot(kept, len(tracks)).to(tracks.dtype)
