"""ResNet backbone with frozen batch norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvis_cli.config import ResNetConfig
from dvis_cli.layers.convolution import FrozenBatchNorm2d, normed

EXPANSION = 4  # outputs of a block per channel of its 3x3 convolution


class Bottleneck(nn.Module):
    """Narrow, filter, widen; added to the input. Every batch norm is part of the convolution before it."""

    def __init__(
        self, inputs: int, planes: int, stride: int = 1, downsample: nn.Sequential | None = None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = FrozenBatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * EXPANSION, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(planes * EXPANSION)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, inputs, H, W)."""
        out = F.relu(normed(x, self.conv1, self.bn1), inplace=True)
        out = F.relu(normed(out, self.conv2, self.bn2), inplace=True)
        out = normed(out, self.conv3, self.bn3)
        out += x if self.downsample is None else normed(x, *self.downsample)
        return F.relu(out, inplace=True)


class ResNet(nn.Module):
    """Four stages at strides 4, 8, 16 and 32; the stride sits in the 3x3 convolution."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, config.stem_channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm2d(config.stem_channels)
        inputs, planes = config.stem_channels, config.bottleneck_channels
        self.channels: tuple[int, ...] = ()
        for stage, blocks in enumerate(config.blocks):
            layer = _stage(inputs, planes, blocks, stride=1 if stage == 0 else 2)
            self.add_module(f"res{stage + 2}", layer)
            inputs = planes * EXPANSION
            self.channels += (inputs,)
            planes *= 2

    def forward(self, frames: Tensor) -> list[Tensor]:
        """frames: (T, 3, H, W), normalised. Returns res2..res5, each (T, channels, H / stride, W / stride)."""
        frames = frames.contiguous(memory_format=torch.channels_last)  # a tenth faster on a CPU
        x = F.relu(normed(frames, self.conv1, self.bn1), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        features = []
        for stage in range(2, 6):
            x = getattr(self, f"res{stage}")(x)
            features.append(x)
        return features


def _stage(inputs: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    outputs = planes * EXPANSION
    shortcut = nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), FrozenBatchNorm2d(outputs)
    )
    first = Bottleneck(inputs, planes, stride, shortcut)
    return nn.Sequential(first, *(Bottleneck(outputs, planes) for _ in range(blocks - 1)))
