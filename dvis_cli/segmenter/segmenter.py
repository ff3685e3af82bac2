"""The whole segmenter: frames in, queries and mask features out, every frame on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dvis_cli.config import (
    Backbone,
    EfficientNetLiteConfig,
    MobileNetV2Config,
    ModelConfig,
    ResNetConfig,
    SwinConfig,
    ViTAdapterConfig,
)
from dvis_cli.structures import SegmenterOutput

from .efficientnet import EfficientNetLite
from .mobilenet import MobileNetV2
from .pixel_decoder import PixelDecoder
from .query_decoder import QueryDecoder
from .resnet import ResNet
from .vit_adapter import ViTAdapter

if TYPE_CHECKING:
    from .swin import Swin


class Segmenter(nn.Module):
    """Mask2Former: backbone, pixel decoder, query decoder (report, section 2.1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.backbone = build_backbone(config.backbone)
        pixels = config.pixel_decoder
        self.pixel_decoder = PixelDecoder(pixels, self.backbone.channels)
        self.query_decoder = QueryDecoder(
            config.query_decoder, pixels.channels, pixels.mask_channels, config.num_classes
        )

    def forward(self, frames: Tensor, memory: Tensor | None = None) -> SegmenterOutput:
        """frames: (T, 3, H, W) float, normalised and padded; H and W multiples of 32. Nothing is remembered."""
        features = self.backbone(frames)
        with torch.autocast(frames.device.type, enabled=False):  # as the reference: always in fp32
            pixels = self.pixel_decoder([feature.float() for feature in features])
        queries = self.query_decoder(pixels)
        logits = self.query_decoder.class_head(self.query_decoder.heads_see(queries))
        return SegmenterOutput(queries, pixels.mask_features, logits)


def build_backbone(config: Backbone) -> ResNet | Swin | EfficientNetLite | MobileNetV2 | ViTAdapter:
    """The network of a backbone's configuration; `channels` are those of its four outputs."""
    if isinstance(config, ResNetConfig):
        return ResNet(config)
    if isinstance(config, SwinConfig):
        from .swin import Swin  # torchvision takes as long to import as the rest of torch

        return Swin(config)
    if isinstance(config, EfficientNetLiteConfig):
        return EfficientNetLite(config)
    if isinstance(config, MobileNetV2Config):
        return MobileNetV2(config)
    assert isinstance(config, ViTAdapterConfig), "VidEoMT has no backbone of this kind"
    return ViTAdapter(config)
