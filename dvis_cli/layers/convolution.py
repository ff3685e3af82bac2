"""Frozen batch norm, and a convolution with the norm after it worked out as one convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics, scale and shift are buffers of shape (C,), not learnt.

    torchvision has one, too; its import takes as long as the rest of torch, and most backbones need nothing else of it.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, C, H, W)."""
        scale, shift = self.affine()
        return x * scale[:, None, None] + shift[:, None, None]

    def affine(self) -> tuple[Tensor, Tensor]:
        """What a channel is multiplied by, and what is then added to it; (C,) each."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


def normed(x: Tensor, conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> Tensor:
    """`norm(conv(x))` of a convolution without bias; x: (T, inputs, H, W), its padding that of `conv`."""
    scale, shift = norm.affine()
    weight = conv.weight * scale[:, None, None, None]
    return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)
