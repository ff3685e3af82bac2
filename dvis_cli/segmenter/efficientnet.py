"""EfficientNet-Lite backbone with frozen batch norm: light enough for a laptop's processor.

The layout is that of the ImageNet checkpoints which the TensorFlow authors published: no
squeeze-and-excitation, ReLU6, and padding that puts the odd pixel at the bottom and right.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvis_cli.config import EfficientNetLiteConfig
from dvis_cli.layers.convolution import FrozenBatchNorm2d, normed

KERNELS = (3, 3, 5, 3, 5, 5, 3)  # of the seven stages
STRIDES = (1, 2, 2, 2, 1, 2, 1)
EXPANSION = 6  # of the channels inside a block; the first stage has none
OUTPUTS = (1, 2, 4, 6)  # stages after which res2..res5 are read, strides 4 to 32
NORM_EPS = 1e-3


class ConvNorm(nn.Module):
    """Convolution and frozen batch norm, worked out as one convolution.

    Sides are even, so a stride of 2 always pads the same way.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        lost = kernel - stride  # pixels; the smaller half goes to the top and left
        self.padding = (lost // 2, lost - lost // 2) * 2 if lost % 2 else None
        centred = 0 if self.padding else lost // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, centred, groups=groups, bias=False)
        self.norm = FrozenBatchNorm2d(outputs, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, inputs, H, W)."""
        return normed(F.pad(x, self.padding) if self.padding else x, self.conv, self.norm)


class InvertedBottleneck(nn.Module):
    """Widen, filter each channel, narrow; added to the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = ConvNorm(inputs, inner) if expansion != 1 else None
        self.depthwise = ConvNorm(inner, inner, kernel, stride, groups=inner)
        self.project = ConvNorm(inner, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, inputs, H, W)."""
        inner = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        out = self.project(F.relu6(self.depthwise(inner), inplace=True))
        return out + x if self.residual else out


class EfficientNetLite(nn.Module):
    """Stem and seven stages; four of them are read, at strides 4, 8, 16 and 32."""

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__()
        self.channels = tuple(config.channels[stage] for stage in OUTPUTS)
        self.stem = ConvNorm(3, config.stem_channels, kernel=3, stride=2)
        self.stages = nn.ModuleList()
        inputs = config.stem_channels
        plan = zip(config.channels, config.blocks, KERNELS, STRIDES, strict=True)
        for stage, (outputs, blocks, kernel, stride) in enumerate(plan):
            expansion = 1 if stage == 0 else EXPANSION
            first = InvertedBottleneck(inputs, outputs, kernel, stride, expansion)
            rest = (InvertedBottleneck(outputs, outputs, kernel, 1, expansion) for _ in range(blocks - 1))
            self.stages.append(nn.Sequential(first, *rest))
            inputs = outputs

    def forward(self, frames: Tensor) -> list[Tensor]:
        """frames: (T, 3, H, W), normalised. Returns res2..res5, each (T, channels, H / stride, W / stride)."""
        # Channels last: depthwise filters are a quarter faster so, forwards and backwards.
        x = F.relu6(self.stem(frames.contiguous(memory_format=torch.channels_last)), inplace=True)
        features = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in OUTPUTS:
                features.append(x)
        return features
