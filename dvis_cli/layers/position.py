"""Where the cells of a feature map are: their sine position code, and their centres."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

TEMPERATURE = 10000.0
WAVES = tuple(1024 >> octave for octave in range(7))  # wavelengths in pixels of the input, 1024 to 16


@lru_cache(maxsize=32)
def sine_position(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Code each cell's place: the first half of the channels tells y, the second x.

    Coordinates run from 1 to the side, normalised to 2 pi; frequencies fall by powers of `TEMPERATURE`, and
    sine and cosine of one frequency stand side by side.

    Returns:
        (height * width, channels) float32 in -1..1, row-major. Shared between calls: do not write to it.
    """
    # The cached tensor outlives the call, and a tensor born in inference mode could never be trained through.
    with torch.inference_mode(False), torch.no_grad():
        half = channels // 2
        pair = torch.arange(half, device=device, dtype=torch.float32).div(2, rounding_mode="floor")
        wavelength = TEMPERATURE ** (2 * pair / half)

        def code(count: int) -> Tensor:
            place = torch.arange(1, count + 1, device=device, dtype=torch.float32)
            angle = (place / (count + 1e-6) * (2 * math.pi))[:, None] / wavelength
            return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)

        y = code(height)[:, None].expand(height, width, half)
        x = code(width)[None].expand(height, width, half)
        return torch.cat((y, x), dim=2).flatten(0, 1)


def waves(stride: int) -> tuple[int, ...]:
    """The wavelengths in pixels that cells `stride` pixels apart can tell: those of four cells or more."""
    return tuple(wave for wave in WAVES if wave >= 4 * stride)


@lru_cache(maxsize=32)
def pixel_waves(
    height: int, width: int, stride: int, corner: tuple[int, int], device: torch.device
) -> Tensor:
    """Code each cell's place in pixels, whatever the picture's size: sine and cosine of each of `waves`.

    `corner` is (y, x) of the picture's first pixel.

    `sine_position` has no wave shorter than the picture; with these, a sum of few terms singles out a spot that is as
    small as a person far away.

    Returns:
        (height * width, 4 * len(waves(stride))) float32 in -1..1, row-major: of y, then of x. Shared between calls.
    """
    with torch.inference_mode(False), torch.no_grad():
        lengths = torch.tensor(waves(stride), device=device, dtype=torch.float32)

        def code(first: int, count: int) -> Tensor:
            place = first + (torch.arange(count, device=device) + 0.5) * stride
            angle = 2 * math.pi * place[:, None] / lengths
            return torch.cat((angle.sin(), angle.cos()), dim=1)

        y = code(corner[0], height)[:, None].expand(height, width, 2 * len(lengths))
        x = code(corner[1], width)[None].expand(height, width, 2 * len(lengths))
        return torch.cat((y, x), dim=2).flatten(0, 1)


def cell_centers(height: int, width: int, device: torch.device) -> Tensor:
    """(height * width, 2) float32: centre of each cell as (x, y) in 0..1, row-major."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((grid_x, grid_y), dim=-1).flatten(0, 1)
