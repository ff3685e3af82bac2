"""From a decoded frame to the network's input: resize, normalise, pad."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from dvis_cli.errors import UsageError
from dvis_cli.structures import Geometry

PIXEL_MEAN = (123.675, 116.28, 103.53)  # R, G, B in 0..255 units
PIXEL_STD = (58.395, 57.12, 57.375)


def plan_geometry(
    height: int, width: int, short_side: int, long_side: int = 1333, divisor: int = 32
) -> Geometry:
    """The sizes of a video whose frames are `height` x `width` pixels.

    The short side becomes `short_side`, unless the long side would pass `long_side`: then that one
    becomes `long_side`. Both are then padded to multiples of `divisor`. No side falls below 1 pixel.
    Raises UsageError for a size below 1.
    """
    for name, value in (("short side", short_side), ("long side", long_side), ("size divisor", divisor)):
        if value < 1:
            raise UsageError(f"the {name} must be 1 pixel or more, not {value}")
    if height < 1 or width < 1:
        raise ValueError(f"a frame of {height} x {width} pixels has no pixels")
    # Both steps in floating point, rounded once at the end: ties then fall as where the models were trained.
    scale = short_side / min(height, width)
    high, wide = (short_side, width * scale) if height < width else (height * scale, short_side)
    longest = max(high, wide)
    if longest > long_side:
        high, wide = high * (long_side / longest), wide * (long_side / longest)
    resized = (max(1, int(high + 0.5)), max(1, int(wide + 0.5)))
    padded = (-(-resized[0] // divisor) * divisor, -(-resized[1] // divisor) * divisor)
    return Geometry(output=(height, width), resized=resized, padded=padded)


def preprocess_there(
    rgb: torch.Tensor,
    geometry: Geometry,
    mean: Sequence[float] = PIXEL_MEAN,
    std: Sequence[float] = PIXEL_STD,
) -> torch.Tensor:
    """As `preprocess`, on the device that `rgb`, (height, width, 3) uint8, is on.

    Resampled one axis after the other and rounded to 8 bits after each, as Pillow does it; a few pixels in a thousand
    differ by one level, where its fixed-point sums round the other way.
    """
    height, width = geometry.resized
    x = rgb.permute(2, 0, 1)[None].float()
    for size in ((x.shape[2], width), (height, width)):
        if x.shape[2:] != size:
            x = F.interpolate(x, size, mode="bilinear", antialias=True).add_(0.5).floor_().clamp_(0, 255)
    planes = [(plane - m) / s for plane, m, s in zip(x[0], mean, std, strict=True)]
    return F.pad(torch.stack(planes), (0, geometry.padded[1] - width, 0, geometry.padded[0] - height))


def preprocess(
    rgb: np.ndarray,
    geometry: Geometry,
    mean: Sequence[float] = PIXEL_MEAN,
    std: Sequence[float] = PIXEL_STD,
) -> torch.Tensor:
    """(height, width, 3) uint8 RGB of `geometry.output` size -> (3, padded H, padded W) float32.

    Antialiased bilinear on uint8, then `(x - mean) / std` in 0..255 units, then zeros at the bottom and
    at the right: padding is 0 in normalised units. Raises ValueError for a frame of another size or type.
    """
    if rgb.shape != (*geometry.output, 3) or rgb.dtype != np.uint8:
        raise ValueError(f"expected {(*geometry.output, 3)} uint8 pixels, got {rgb.shape} {rgb.dtype}")
    height, width = geometry.resized
    if rgb.shape[:2] != (height, width):
        rgb = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))
    padded = torch.zeros(3, *geometry.padded)
    pixels = padded[:, :height, :width]
    pixels.numpy()[:] = rgb.transpose(2, 0, 1)
    pixels.sub_(torch.tensor(mean)[:, None, None]).div_(torch.tensor(std)[:, None, None])
    return padded
