"""A class for every pixel, from the mask features: a loss that helps a segmenter learn stuff, dropped afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvis_cli.run.model import DvisModel

from .targets import ClipTargets

VOID = -1


class DenseHead(nn.Module):
    """One linear layer over the mask features."""

    def __init__(self, network: DvisModel, weight: float) -> None:
        super().__init__()
        self.classify = nn.Conv2d(network.config.pixel_decoder.mask_channels, network.config.num_classes, 1)
        self.weight = weight

    def forward(self, features: Tensor, targets: Sequence[ClipTargets]) -> Tensor:
        """Cross entropy where the truth is known. features: (B, T, C, h, w)."""
        logits = self.classify(features.flatten(0, 1)).float()
        truth = torch.cat([class_map(target, features.shape[-2:]) for target in targets])
        if not bool((truth != VOID).any()):
            return logits.sum() * 0
        return self.weight * F.cross_entropy(logits, truth, ignore_index=VOID)


def class_map(target: ClipTargets, size: torch.Size) -> Tensor:
    """(T, h, w) int64: the class at the middle of each cell, VOID where there is none."""
    step = target.ids.shape[-1] // size[-1]
    ids = target.ids[:, step // 2 :: step, step // 2 :: step].long()
    void = torch.full((1,), VOID, dtype=torch.int64, device=ids.device)
    return torch.cat([void, target.classes])[ids]
