"""What kind of model a checkpoint holds, read off its tensor names and shapes.

Everything but the input size and the thresholds can be told: the number of heads from the deformable
attention's projections (3 levels of 4 points), the window of a Swin from its bias tables, depths by counting.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvis_cli.config import (
    HEAD,
    Backbone,
    EfficientNetLiteConfig,
    MobileNetV2Config,
    Mode,
    ModelConfig,
    PixelDecoderConfig,
    QueryDecoderConfig,
    RefinerConfig,
    ResNetConfig,
    SwinConfig,
    TrackerConfig,
    VideoMTConfig,
    ViTAdapterConfig,
)
from dvis_cli.errors import CheckpointError

Shape = tuple[int, ...]
_VIDEOMT_ENCODER = "backbone.encoder.backbone."
_ADAPTER_VIT = "backbone.vit_module."
_LEVELS, _POINTS = 3, 4
_PIXEL = "sem_seg_head.pixel_decoder."
_QUERY = "sem_seg_head.predictor."
_OFFSETS = _PIXEL + "transformer.encoder.layers.0.self_attn.sampling_offsets.weight"


@dataclass(frozen=True)
class Shapes:
    """Shapes by official name, with questions that fail in one line."""

    shapes: Mapping[str, Shape]
    path: Path

    def of(self, name: str) -> Shape:
        if name not in self.shapes:
            raise CheckpointError(
                f"weights {self.path} have no tensor {name!r}: not a DVIS / Mask2Former checkpoint, or only a "
                f"part of one (its {len(self.shapes)} tensors begin with: {self._beginnings()})"
            )
        return self.shapes[name]

    def count(self, pattern: str) -> int:
        """How many numbers 0..n-1 stand at the group of the pattern. A gap is refused: something is missing there."""
        numbers = {int(m[1]) for m in map(re.compile(pattern).match, self.shapes) if m}
        if numbers != set(range(len(numbers))):
            raise CheckpointError(
                f"weights {self.path}: of the tensors {pattern.replace(chr(92), '')} number {max(numbers)} is there, "
                f"but only {len(numbers)} in all"
            )
        return len(numbers)

    def has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.shapes)

    def _beginnings(self) -> str:
        return ", ".join(sorted({name.split(".")[0] for name in self.shapes})[:8])


def config_from_shapes(shapes: Mapping[str, Shape], path: Path) -> ModelConfig:
    """Infer a `ModelConfig` from the shapes of official tensor names.

    Raises:
        CheckpointError: a tensor that every model has is not there.
    """
    look = Shapes(shapes, path)
    if _is_videomt(look):
        return ModelConfig(
            name=path.stem,
            mode="offline" if look.has("refiner.") else "online",
            backbone=_videomt(look),
            refiner=RefinerConfig(**_stage(look, "refiner.", RefinerConfig.heads)),
            num_classes=look.of("backbone.class_head.weight")[0] - 1,
        )
    heads = look.of(_OFFSETS)[0] // (_LEVELS * _POINTS * 2)
    queries, channels = look.of(_QUERY + "query_feat.weight")
    return ModelConfig(
        name=path.stem,
        mode=_mode(look),
        backbone=_backbone(look),
        pixel_decoder=PixelDecoderConfig(
            channels=look.of(_OFFSETS)[1],
            mask_channels=look.of(_PIXEL + "mask_features.weight")[0],
            layers=look.count(re.escape(_PIXEL) + r"transformer\.encoder\.layers\.(\d+)\."),
            heads=heads,
            points=_POINTS,
            ffn=look.of(_PIXEL + "transformer.encoder.layers.0.linear1.weight")[0],
            located=look.has(_PIXEL + "place."),
        ),
        query_decoder=QueryDecoderConfig(
            channels=channels,
            queries=queries,
            layers=look.count(re.escape(_QUERY) + r"transformer_ffn_layers\.(\d+)\."),
            heads=heads,
            ffn=look.of(_QUERY + "transformer_ffn_layers.0.linear1.weight")[0],
            reid_hidden=look.shapes.get(_QUERY + "reid_embed.layers.0.weight", (0,))[0],
        ),
        tracker=TrackerConfig(**_stage(look, "tracker.", heads)),
        refiner=RefinerConfig(**_stage(look, "refiner.", heads)),
        num_classes=look.of(_QUERY + "class_embed.weight")[0] - 1,
    )


def _mode(look: Shapes) -> Mode:
    if look.has("refiner."):
        return "offline"
    return "online" if look.has("tracker.") else "minvis"


def _stage(look: Shapes, prefix: str, heads: int) -> dict[str, Any]:
    if not look.has(prefix):
        return {}
    return {
        "layers": look.count(re.escape(prefix) + r"transformer_ffn_layers\.(\d+)\."),
        "heads": heads,
        "ffn": look.of(f"{prefix}transformer_ffn_layers.0.linear1.weight")[0],
    }


def _backbone(look: Shapes) -> Backbone:
    if look.has("backbone.vit_module."):
        return _vit_adapter(look)
    if look.has("backbone.patch_embed."):
        return _swin(look)
    if look.has("backbone.mobile."):
        return MobileNetV2Config(trunks=look.count(r"backbone\.mobile\.(\d+)\."))
    if look.has("backbone.lite_stem."):
        return _efficientnet(look)
    return ResNetConfig(
        blocks=tuple(look.count(rf"backbone\.res{stage}\.(\d+)\.") for stage in (2, 3, 4, 5)),
        stem_channels=look.of("backbone.stem.conv1.weight")[0],
        bottleneck_channels=look.of("backbone.res2.0.conv1.weight")[0],
    )


def _efficientnet(look: Shapes) -> EfficientNetLiteConfig:
    stages = range(look.count(r"backbone\.lite_stages\.(\d+)\."))
    return EfficientNetLiteConfig(
        stem_channels=look.of("backbone.lite_stem.conv.weight")[0],
        channels=tuple(look.of(f"backbone.lite_stages.{i}.0.project.conv.weight")[0] for i in stages),
        blocks=tuple(look.count(rf"backbone\.lite_stages\.{i}\.(\d+)\.") for i in stages),
    )


def _swin(look: Shapes) -> SwinConfig:
    stages = look.count(r"backbone\.layers\.(\d+)\.")
    tables = [
        look.of(f"backbone.layers.{i}.blocks.0.attn.relative_position_bias_table") for i in range(stages)
    ]
    return SwinConfig(
        embed_dim=look.of("backbone.patch_embed.proj.weight")[0],
        depths=tuple(look.count(rf"backbone\.layers\.{i}\.blocks\.(\d+)\.") for i in range(stages)),
        heads=tuple(table[1] for table in tables),
        window=(math.isqrt(tables[0][0]) + 1) // 2,
    )


def _is_videomt(look: Shapes) -> bool:
    """Whether it is a VidEoMT of the kind that can be used. Raises `CheckpointError` for one of DINOv3."""
    if not look.has("backbone.query_updater."):
        return False
    if f"{_VIDEOMT_ENCODER}pos_embed" not in look.shapes:
        raise CheckpointError(
            f"weights {look.path} hold a VidEoMT with a DINOv3 transformer (no learned positions), which is not "
            "supported: use one of the files with DINOv2, as in vipseg_vit_large_55.2.pth"
        )
    return True


def _videomt(look: Shapes) -> VideoMTConfig:
    """The sizes of a VidEoMT."""
    queries, channels = look.of("backbone.q.weight")
    return VideoMTConfig(
        channels=_whole_heads(look, channels),
        blocks=look.count(r"backbone\.encoder\.backbone\.blocks\.(\d+)\."),
        query_blocks=look.of("backbone.attn_mask_probs")[0],
        queries=queries,
        grid=_grid(look, f"{_VIDEOMT_ENCODER}pos_embed", extra=0),
        registers=look.of(f"{_VIDEOMT_ENCODER}reg_token")[1],
        patch=look.of(f"{_VIDEOMT_ENCODER}patch_embed.proj.weight")[-1],
    )


def _vit_adapter(look: Shapes) -> ViTAdapterConfig:
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
