"""The whole segmenter: frames in, queries and mask features out, every frame on its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dvis_cli.config import EfficientNetLiteConfig, ModelConfig, ResNetConfig, SwinConfig
from dvis_cli.structures import SegmenterOutput

from .efficientnet import EfficientNetLite
from .pixel_decoder import PixelDecoder
from .query_decoder import QueryDecoder
from .resnet import ResNet
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

    def forward(self, frames: Tensor) -> SegmenterOutput:
        """frames: (T, 3, H, W) float, normalised and padded; H and W multiples of 32."""
        features = self.backbone(frames)
        with torch.autocast(frames.device.type, enabled=False):  # as the reference: always in fp32
            pixels = self.pixel_decoder([feature.float() for feature in features])
        queries = self.query_decoder(pixels)
        return SegmenterOutput(queries, pixels.mask_features, self.query_decoder.class_head(queries))


def build_backbone(
    config: ResNetConfig | SwinConfig | EfficientNetLiteConfig,
) -> ResNet | Swin | EfficientNetLite:
    """The network of a backbone's configuration; `channels` are those of its four outputs."""
    if isinstance(config, ResNetConfig):
        return ResNet(config)
    return Swin(config) if isinstance(config, SwinConfig) else EfficientNetLite(config)
