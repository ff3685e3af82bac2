"""Sizes of the networks with vision transformers, read off tensor names and shapes: DVIS++ and VidEoMT."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dvis_cli.config import HEAD, VideoMTConfig, ViTAdapterConfig
from dvis_cli.errors import CheckpointError

if TYPE_CHECKING:
    from .shapes import Shapes

VIDEOMT_ENCODER = "backbone.encoder.backbone."
_ADAPTER_VIT = "backbone.vit_module."
_POINTS = 4  # that an extractor samples, a head


def is_videomt(look: Shapes) -> bool:
    """Whether it is a VidEoMT of the kind that can be used. Raises `CheckpointError` for one of DINOv3."""
    if not look.has("backbone.query_updater."):
        return False
    if f"{VIDEOMT_ENCODER}pos_embed" not in look.shapes:
        raise CheckpointError(
            f"weights {look.path} hold a VidEoMT with a DINOv3 transformer (no learned positions), which is not "
            "supported: use one of the files with DINOv2, as in vipseg_vit_large_55.2.pth"
        )
    return True


def videomt(look: Shapes) -> VideoMTConfig:
    """The sizes of a VidEoMT."""
    queries, channels = look.of("backbone.q.weight")
    return VideoMTConfig(
        channels=_whole_heads(look, channels),
        blocks=look.count(r"backbone\.encoder\.backbone\.blocks\.(\d+)\."),
        query_blocks=look.of("backbone.attn_mask_probs")[0],
        queries=queries,
        grid=_grid(look, f"{VIDEOMT_ENCODER}pos_embed", extra=0),
        registers=look.of(f"{VIDEOMT_ENCODER}reg_token")[1],
        patch=look.of(f"{VIDEOMT_ENCODER}patch_embed.proj.weight")[-1],
    )


def vit_adapter(look: Shapes) -> ViTAdapterConfig:
    """The sizes of a ViT with adapter. Raises `CheckpointError` for an adapter of another kind."""
    injector = next((name for name in look.shapes if ".injector." in name), None)
    if injector is not None:
        raise CheckpointError(
            f"weights {look.path} hold a ViT adapter with injectors ({injector}), which is of another kind than that "
            "of DVIS++ and not supported"
        )
    extractor = "backbone.interactions.0.extractor."
    return ViTAdapterConfig(
        channels=_whole_heads(look, look.of(f"{_ADAPTER_VIT}cls_token")[-1]),
        blocks=look.count(r"backbone\.vit_module\.blocks\.(\d+)\."),
        hidden=look.of(f"{_ADAPTER_VIT}blocks.0.mlp.fc1.weight")[0],
        grid=_grid(look, f"{_ADAPTER_VIT}pos_embed", extra=1),
        prior_channels=look.of("backbone.spm.stem.0.weight")[0],
        extractor_heads=look.of(f"{extractor}attn.attention_weights.weight")[0] // _POINTS,
        extractor_hidden=look.of(f"{extractor}ffn.fc1.weight")[0],
    )


def _grid(look: Shapes, name: str, extra: int) -> int:
    """The side of a learned position grid; `extra` tokens stand before it."""
    cells = look.of(name)[1] - extra
    if math.isqrt(cells) ** 2 != cells:
        raise CheckpointError(f"weights {look.path}: {name} has {cells} positions, which make no square grid")
    return math.isqrt(cells)


def _whole_heads(look: Shapes, channels: int) -> int:
    if channels % HEAD:
        raise CheckpointError(
            f"weights {look.path}: a transformer of {channels} channels, expected a multiple of {HEAD}"
        )
    return channels
