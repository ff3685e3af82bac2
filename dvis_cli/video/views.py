"""At which sizes the network sees a video, and whether mirrored, too: one view or several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dvis_cli.layers.transfer import accelerated, send
from dvis_cli.structures import Geometry, View

from .preprocess import PIXEL_MEAN, PIXEL_STD, plan_geometry, preprocess, preprocess_there

CPU = torch.device("cpu")


def plan_views(
    height: int,
    width: int,
    short_sides: Sequence[int],
    flip: bool = False,
    long_side: int = 1333,
    divisor: int = 32,
) -> list[View]:
    """The views of a video of `height` x `width` pixels: each scale, then with `flip` each of them mirrored.

    Scales that the limit on the long side makes equal are one view. Raises UsageError as `plan_geometry`.
    """
    geometries = [plan_geometry(height, width, side, long_side, divisor) for side in short_sides]
    ways = (False, True) if flip else (False,)
    return [View(geometry, mirrored) for mirrored in ways for geometry in dict.fromkeys(geometries)]


def preprocess_views(
    rgb: np.ndarray,
    views: Sequence[View],
    mean: Sequence[float] = PIXEL_MEAN,
    std: Sequence[float] = PIXEL_STD,
    device: torch.device = CPU,
) -> list[torch.Tensor]:
    """A frame as `preprocess` makes it, for every view; it is resized once for each size.

    On a GPU it arrives as 8 bits a channel and is resized there.
    """
    sizes = dict.fromkeys(view.geometry for view in views)
    if accelerated(device):
        there = send(rgb, device)
        plain = {geometry: preprocess_there(there, geometry, mean, std) for geometry in sizes}
    else:
        plain = {geometry: preprocess(rgb, geometry, mean, std) for geometry in sizes}
    return [_mirror(plain[v.geometry], v.geometry) if v.mirrored else plain[v.geometry] for v in views]


def _mirror(tensor: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Exchange left and right of the picture; its padding stays at the right."""
    height, width = geometry.resized
    mirrored = torch.zeros_like(tensor)
    mirrored[:, :height, :width] = tensor[:, :height, :width].flip(-1)
    return mirrored
