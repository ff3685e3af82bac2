"""ResNet backbone with frozen batch norm, of the weights of torchvision's bottleneck blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.ops.misc import FrozenBatchNorm2d

from dvis_cli.config import ResNetConfig
from dvis_cli.layers.convolution import normed


class Bottleneck(resnet.Bottleneck):
    """Narrow, filter, widen; added to the input. Every batch norm is part of the convolution before it."""

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
            inputs = planes * Bottleneck.expansion
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
    outputs = planes * Bottleneck.expansion
    shortcut = nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), FrozenBatchNorm2d(outputs)
    )
    first = Bottleneck(inputs, planes, stride, shortcut, norm_layer=FrozenBatchNorm2d)
    rest = [Bottleneck(outputs, planes, norm_layer=FrozenBatchNorm2d) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)
