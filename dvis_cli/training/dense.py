"""Losses on the mask features alone that help a segmenter learn, with heads that are dropped afterwards.

`DenseHead` gives every pixel a class, which helps stuff; `ApartHead` gives it one of the picture's own segments.
"""

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


class ApartHead(nn.Module):
    """Tells the segments of a frame apart by their mean mask feature.

    The instance discrimination loss of MaX-DeepLab (Wang et al., 2021), with a learned map in place of a temperature,
    and every segment counting alike however small it is.
    """

    def __init__(self, network: DvisModel, weight: float) -> None:
        super().__init__()
        channels = network.config.pixel_decoder.mask_channels
        self.embed = nn.Linear(channels, channels)
        nn.init.eye_(self.embed.weight)
        self.weight = weight

    def forward(self, features: Tensor, targets: Sequence[ClipTargets]) -> Tensor:
        """Cross entropy over the segments of each frame. features: (B, T, C, h, w)."""
        losses = [
            self._frame(frame.flatten(1).float(), ids.flatten())
            for clip, target in zip(features, targets, strict=True)
            for frame, ids in zip(clip, cells(target, features.shape[-2:]), strict=True)
        ]
        return self.weight * torch.stack(losses).mean()

    def _frame(self, features: Tensor, ids: Tensor) -> Tensor:
        """features: (C, P); ids: (P,) 0 = void."""
        known = ids > 0
        _, segment, size = torch.unique(ids[known], return_inverse=True, return_counts=True)
        if len(size) < 2:
            return features.sum() * 0
        pixels = features[:, known].T
        means = torch.zeros(len(size), pixels.shape[1], device=pixels.device).index_add(0, segment, pixels)
        logits = pixels @ self.embed(means / size[:, None]).T
        loss = F.cross_entropy(logits, segment, reduction="none")
        return (loss / size[segment]).sum() / len(size)


def cells(target: ClipTargets, size: torch.Size) -> Tensor:
    """(T, h, w) int64: the object at the middle of each cell, 0 where there is none."""
    step = target.ids.shape[-1] // size[-1]
    return target.ids[:, step // 2 :: step, step // 2 :: step].long()


def class_map(target: ClipTargets, size: torch.Size) -> Tensor:
    """(T, h, w) int64: the class at the middle of each cell, VOID where there is none."""
    void = torch.full((1,), VOID, dtype=torch.int64, device=target.ids.device)
    return torch.cat([void, target.classes])[cells(target, size)]
