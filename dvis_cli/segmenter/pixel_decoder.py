"""From backbone maps to mask features: deformable attention over three levels, then one FPN step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvis_cli.config import PixelDecoderConfig
from dvis_cli.layers.deformable import DeformableAttention, Size
from dvis_cli.layers.linear import Linear
from dvis_cli.layers.position import cell_centers, pixel_waves, sine_position, waves

LEVELS = 3  # res5, res4, res3
# y and x in pixels up to which training moves the corner: pictures may be larger than its crops.
CORNERS = (256, 512)
STRIDES = (32, 16, 8, 4)  # of the levels, coarse first, and of the mask features
GROUPS = 32  # of every GroupNorm


@dataclass(frozen=True, slots=True)
class PixelFeatures:
    """What the pixel decoder hands to the query decoder."""

    mask_features: Tensor  # (T, C, h, w)
    levels: list[Tensor]  # coarse first, each (T, C, H / stride, W / stride) for strides 32, 16, 8


class GroupNorm(nn.GroupNorm):
    """Group norm that also takes a map of one cell, which torch's refuses for fear of training on it."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, C, h, w)."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class EncoderLayer(nn.Module):
    """Deformable self-attention and FFN, post-norm."""

    def __init__(self, config: PixelDecoderConfig) -> None:
        super().__init__()
        channels = config.channels
        self.attention = DeformableAttention(channels, config.heads, LEVELS, config.points)
        self.norm1 = nn.LayerNorm(channels)
        self.linear1 = Linear(channels, config.ffn)
        self.linear2 = Linear(config.ffn, channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, sizes: list[Size]) -> Tensor:
        """x: (T, S, C); position: (S, C); reference: (S, 1, 2)."""
        x = self.norm1(x + self.attention(x + position, reference, x, sizes))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x), inplace=True)))


class Place(nn.Linear):
    """A learned share of the position: of the sine code, begun at nothing, and of `pixel_waves`."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__(channels + 4 * len(waves(stride)), outputs, bias=False)
        self.channels, self.stride = channels, stride
        nn.init.normal_(self.weight, std=0.05)
        nn.init.zeros_(self.weight[:, :channels])

    def forward(self, x: Tensor, corner: tuple[int, int] = (0, 0)) -> Tensor:
        """(C, h, w): what is added to every frame of x (T, C, h, w). `corner`: y and x of the first pixel."""
        height, width = x.shape[-2:]
        sine = sine_position(height, width, self.channels, x.device)
        pixels = pixel_waves(height, width, self.stride, corner, x.device)
        return super().forward(torch.cat((sine, pixels), dim=1)).T.unflatten(1, (height, width))


class PixelDecoder(nn.Module):
    """Multi-scale deformable attention pixel decoder of Mask2Former."""

    def __init__(self, config: PixelDecoderConfig, inputs: tuple[int, ...]) -> None:
        """`inputs`: channels of res2..res5."""
        super().__init__()
        channels = config.channels
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1), GroupNorm(channels))
            for c in (inputs[3], inputs[2], inputs[1])
        )
        self.level_embed = nn.Parameter(torch.randn(LEVELS, channels))
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.lateral = nn.Conv2d(inputs[0], channels, 1, bias=False)
        self.lateral_norm = GroupNorm(channels)
        self.output = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.output_norm = GroupNorm(channels)
        self.mask_features = nn.Conv2d(channels, config.mask_channels, 1)
        # Of the three levels, coarse first, and of the mask features.
        outputs = (*(channels,) * LEVELS, config.mask_channels) if config.located else ()
        self.place = nn.ModuleList(
            Place(channels, count, stride) for count, stride in zip(outputs, STRIDES, strict=False)
        )

    def forward(self, features: list[Tensor]) -> PixelFeatures:
        """features: res2..res5 of T frames, float32."""
        levels = self.encode(features)
        lateral = self.lateral_norm(self.lateral(features[0]))
        up = F.interpolate(levels[-1], lateral.shape[-2:], mode="bilinear", align_corners=False)
        fused = F.relu(self.output_norm(self.output(lateral + up)))
        mask_features = self.mask_features(fused)
        if self.place:
            corner = tuple(int(torch.randint(most, ())) for most in CORNERS) if self.training else (0, 0)
            *levels, mask_features = (
                x + place(x, corner) for x, place in zip((*levels, mask_features), self.place, strict=True)
            )
        return PixelFeatures(mask_features, levels)

    def encode(self, features: list[Tensor]) -> list[Tensor]:
        """Mix the three coarse levels; returns them, coarse first, as maps."""
        maps = [
            project(feature) for project, feature in zip(self.input_proj, reversed(features[1:]), strict=True)
        ]
        sizes: list[Size] = [(m.shape[2], m.shape[3]) for m in maps]
        device = maps[0].device
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        position = torch.cat([
            sine_position(h, w, x.shape[-1], device) + self.level_embed[i] for i, (h, w) in enumerate(sizes)
        ])  # fmt: skip
        reference = torch.cat([cell_centers(h, w, device) for h, w in sizes])[:, None]
        for layer in self.encoder:
            x = layer(x, position, reference, sizes)
        parts = x.split([h * w for h, w in sizes], dim=1)
        return [p.unflatten(1, size).permute(0, 3, 1, 2) for p, size in zip(parts, sizes, strict=True)]
