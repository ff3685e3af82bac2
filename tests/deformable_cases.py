"""Input of deformable attention that is random and partly outside, and what it gives by `grid_sample`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dvis_cli.layers.deformable import Size
from dvis_cli.layers.position import cell_centers

QUERIES = 19
LEVELS: list[Size] = [(2, 3), (5, 4), (3, 7)]

# Heads, channels of a head, sampled levels and the values' type; of a picture of 720 x 1280, padded.
STRIDES: list[Size] = [(23, 40), (46, 80), (92, 160)]
PUBLISHED = {
    "pixel decoder of R50 and Swin-L": (8, 32, STRIDES, torch.float32),
    "the same in bf16": (8, 32, STRIDES, torch.bfloat16),
    "extractor of ViT-L": (16, 64, STRIDES[1:2], torch.bfloat16),
}

Case = tuple[Tensor, Tensor, Tensor, Tensor, list[Size], int]


def case(
    sizes: list[Size],
    heads: int,
    channels: int,
    points: int,
    batch: int = 2,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """Random input; a good part of the places is outside, some of them far."""
    random = torch.Generator().manual_seed(0)
    cells, samples = sum(h * w for h, w in sizes), heads * len(sizes) * points
    values = torch.randn(batch, cells, heads * channels, generator=random).to(dtype)
    offsets = 2 * torch.randn(batch, QUERIES, 2 * samples, generator=random)
    offsets[:, 0, :4] = torch.tensor([1e9, -1e30, -torch.inf, torch.inf])
    offsets[:, 1] = offsets[:, 1].round()
    reference = torch.rand(QUERIES, 1, 2, generator=random)
    reference[1] = 0.5
    logits = 3 * torch.randn(batch, QUERIES, samples, generator=random)
    return values, offsets, reference, logits, sizes, heads


def published(name: str, batch: int, device: torch.device) -> Case:
    """Queries are the cells of all levels, and look a few cells around themselves."""
    heads, channels, sizes, dtype = PUBLISHED[name]
    random = torch.Generator(device).manual_seed(0)
    reference = torch.cat([cell_centers(h, w, device) for h, w in STRIDES])[:, None]
    cells, samples = sum(h * w for h, w in sizes), heads * len(sizes) * 4
    values, offsets, logits = (
        torch.randn(shape, generator=random, device=device)
        for shape in (
            (batch, cells, heads * channels),
            (batch, len(reference), 2 * samples),
            (batch, len(reference), samples),
        )
    )
    return values.to(dtype), 3 * offsets, reference, logits, sizes, heads


def sampled(
    values: Tensor, offsets: Tensor, reference: Tensor, logits: Tensor, sizes: list[Size], heads: int
) -> Tensor:
    """The same by `grid_sample`."""
    batch, count, _ = offsets.shape
    x_and_y = offsets.view(batch, count, 2, heads, len(sizes), -1)
    weights = logits.view(batch, count, heads, -1).softmax(-1).view(batch, count, heads, len(sizes), -1)
    parts = values.view(batch, -1, heads, values.shape[2] // heads).split([h * w for h, w in sizes], dim=1)
    centers = reference.expand(batch, count, len(sizes), 2)
    side = torch.tensor([(w, h) for h, w in sizes], device=values.device)
    out = torch.zeros(batch, heads, values.shape[2] // heads, count, device=values.device)
    for level, (size, part) in enumerate(zip(sizes, parts, strict=True)):
        place = x_and_y[:, :, :, :, level].permute(0, 3, 1, 4, 2) / side[level]  # (B, heads, N, points, 2)
        grid = 2 * (place + centers[:, None, :, None, level]) - 1
        maps = part.permute(0, 2, 3, 1).reshape(batch * heads, -1, *size).float()
        seen = F.grid_sample(maps, grid.flatten(0, 1), align_corners=False).unflatten(0, (batch, heads))
        out += (seen * weights[:, :, :, level].transpose(1, 2)[:, :, None]).sum(-1)
    return out.permute(0, 3, 1, 2).flatten(2).to(values.dtype)
