"""The small perceptron that turns a query into a mask embedding."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """`layers` linear layers with an activation between them."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        out: int,
        layers: int = 3,
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__()
        sizes = [channels, *[hidden] * (layers - 1), out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) -> (..., out)."""
        return self.layers[-1](self.before_last(x))

    def before_last(self, x: Tensor) -> Tensor:
        """(..., channels) -> (..., hidden): what the last layer gets."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return x
