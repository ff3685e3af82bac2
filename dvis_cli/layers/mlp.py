"""The small perceptron that turns a query into a mask embedding."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """`layers` linear layers with ReLU between them."""

    def __init__(self, channels: int, hidden: int, out: int, layers: int = 3) -> None:
        super().__init__()
        sizes = [channels, *[hidden] * (layers - 1), out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) -> (..., out)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)
