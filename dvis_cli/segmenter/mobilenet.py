"""MobileNetV2 as DeepLab trained it: batch norm folded into the convolutions, its last stage dilated at stride 16.

Sandler et al., "MobileNetV2", 2018; Chen et al., "Rethinking Atrous Convolution", 2017. The context that DeepLab adds
on top (a view of the whole picture beside each cell) is the deepest output, so that what it learned of classes is kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvis_cli.config import MobileNetV2Config

# Of each inverted bottleneck: channels, stride, dilation. The first does not expand, the others by EXPANSION.
BLOCKS = (
    *((16, 1, 1), (24, 2, 1), (24, 1, 1), (32, 2, 1), (32, 1, 1), (32, 1, 1)),
    *((64, 2, 1), (64, 1, 1), (64, 1, 1), (64, 1, 1), (96, 1, 1), (96, 1, 1), (96, 1, 1)),
    *((160, 1, 1), (160, 1, 2), (160, 1, 2), (320, 1, 2)),
)  # fmt: skip
EXPANSION = 6
STEM = 32  # channels
READ = (2, 5, 12)  # blocks whose outputs are res2 to res4, at strides 4, 8, 16
CONTEXT = 256  # channels of DeepLab's context


class Bottleneck(nn.Module):
    """Widen, filter each channel, narrow; added to the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = nn.Conv2d(inputs, inner, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(inner, inner, 3, stride, dilation, dilation, groups=inner)
        self.project = nn.Conv2d(inner, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, inputs, H, W)."""
        inner = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        out = self.project(F.relu6(self.depthwise(inner), inplace=True))
        return out + x if self.residual else out


class Trunk(nn.Module):
    """One MobileNetV2 with DeepLab's context."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, STEM, 3, 2, 1)
        self.blocks = nn.ModuleList()
        inputs = STEM
        for index, (outputs, stride, dilation) in enumerate(BLOCKS):
            self.blocks.append(Bottleneck(inputs, outputs, stride, dilation, EXPANSION if index else 1))
            inputs = outputs
        self.whole = nn.Conv2d(inputs, CONTEXT, 1)
        self.cell = nn.Conv2d(inputs, CONTEXT, 1)
        self.context = nn.Conv2d(2 * CONTEXT, CONTEXT, 1)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """frames: (T, 3, H, W) in -1..1. Returns res2, res3, res4 and the context, at strides 4, 8, 16 and 16."""
        # Channels last: depthwise filters are faster so, forwards and backwards.
        x = F.relu6(self.stem(frames.contiguous(memory_format=torch.channels_last)), inplace=True)
        features = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in READ:
                features.append(x)
        whole = F.relu(self.whole(x.mean(dim=(2, 3), keepdim=True)))
        # The view of the whole picture is the same in every cell: its share of the product is a bias.
        of_whole, of_cell = self.context.weight.split(CONTEXT, dim=1)
        cells = F.conv2d(F.relu(self.cell(x)), of_cell, self.context.bias)
        return [*features, F.relu(cells + F.conv2d(whole, of_whole))]


class MobileNetV2(nn.Module):
    """One or several trunks side by side: what they learned of different data sets is there from the start."""

    def __init__(self, config: MobileNetV2Config) -> None:
        super().__init__()
        self.trunks = nn.ModuleList(Trunk() for _ in range(config.trunks))
        at = [BLOCKS[block][0] for block in READ]
        self.channels = tuple(
            config.trunks * c for c in (at[0], at[1] + CONTEXT, at[2] + CONTEXT, CONTEXT)
        )  # of res2..res5

    def forward(self, frames: Tensor) -> list[Tensor]:
        """frames: (T, 3, H, W) in -1..1. Returns res2..res5, each (T, channels, H / stride, W / stride)."""
        read = [trunk(frames) for trunk in self.trunks]
        fine, middle, coarse, context = (torch.cat(maps, dim=1) for maps in zip(*read, strict=True))
        return [
            fine,
            torch.cat((middle, doubled(context)), dim=1),
            torch.cat((coarse, context), dim=1),
            F.avg_pool2d(context, 2),
        ]


def doubled(x: Tensor) -> Tensor:
    """(T, C, h, w) to twice the size, as DeepLab does it: each cell is where its first pixel is, not at its middle."""
    size = (2 * x.shape[2], 2 * x.shape[3])
    padded = F.pad(x, (0, 1, 0, 1), mode="replicate")
    whole = F.interpolate(padded, (size[0] + 1, size[1] + 1), mode="bilinear", align_corners=True)
    return whole[..., : size[0], : size[1]]
