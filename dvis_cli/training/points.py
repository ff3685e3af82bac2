"""Points instead of pixels: where a loss looks at a mask (Mask2Former, section 3.3).

A mask at full size is never made for this. Truth is read off the id map that all objects of a clip share;
predictions are sampled from the mask features, or from the few masks that were matched.
Points are (x, y) in 0..1 of the picture, sampled bilinearly with `align_corners=False`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# (number of masks, points of each) -> uniform numbers in 0..1 of shape (masks, points, 2)
Draw = Callable[[int, int], Tensor]


def uniform_draw(seed: int, device: torch.device) -> Draw:
    """Draws on the device, which depend on the seed and the kind of device alone."""
    generator = torch.Generator(device).manual_seed(seed)
    return lambda masks, points: torch.rand(masks, points, 2, generator=generator, device=device)


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples with zero padding.

    Args:
        maps: (N, C, h, w).
        points: (N, P, 2).

    Returns:
        (N, C, P).
    """
    grid = points.to(maps.dtype).unsqueeze(2) * 2 - 1
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[..., 0]


def sample_truth(ids: Tensor, rows: Tensor, wanted: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of the masks `ids[rows[m]] == wanted[m, n]`, without making the masks.

    Args:
        ids: (R, H, W) integers.
        rows: (M,) int64, the map that point set m is on.
        wanted: (M, N) the values that make masks.
        points: (M, P, 2).

    Returns:
        (M, N, P) float32 in 0..1.
    """
    height, width = ids.shape[-2:]
    position = points * points.new_tensor((width, height)) - 0.5
    corner = position.floor()
    fraction = position - corner
    corner = corner.long()
    flat = ids.flatten(1)
    total = torch.zeros(*wanted.shape, points.shape[1], device=ids.device)
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = corner[..., 0] + dx, corner[..., 1] + dy
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            cell = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
            share_x = fraction[..., 0] if dx else 1 - fraction[..., 0]
            share_y = fraction[..., 1] if dy else 1 - fraction[..., 1]
            hit = flat[rows[:, None], cell][:, None] == wanted[:, :, None]
            total = total + hit * (inside * share_x * share_y)[:, None]
    return total


def uncertain_points(masks: Tensor, count: int, oversample: float, importance: float, draw: Draw) -> Tensor:
    """Points where the masks are least decided, and some anywhere.

    Args:
        masks: (M, 1, h, w) logits.
        count: points of each mask.
        oversample: times `count` are drawn to choose from.
        importance: share of the points that is chosen.

    Returns:
        (M, count, 2).
    """
    with torch.no_grad():
        candidates = draw(len(masks), int(count * oversample))
        undecided = -sample_maps(masks, candidates)[:, 0].abs()
        chosen = int(importance * count)
        best = undecided.topk(chosen, dim=1).indices
        points = candidates.gather(1, best.unsqueeze(-1).expand(-1, -1, 2))
        return torch.cat((points, draw(len(masks), count - chosen)), dim=1)
