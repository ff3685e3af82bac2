"""At which sizes the network sees a video, and whether mirrored, too: one view or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dvis_cli.errors import UsageError
from dvis_cli.structures import Geometry, View

from .preprocess import PIXEL_MEAN, PIXEL_STD, plan_geometry, preprocess

REPORT_PAIR = (720, 800)  # short sides of the report's two scales; its models' own is the first


@dataclass(frozen=True)
class Scales:
    """What is asked for, whatever the size of the video."""

    short_sides: tuple[int, ...]  # pixels; the first is the reference
    flip: bool = False  # each scale mirrored, too


def choose_scales(
    own: int,
    short_side: int | None = None,
    scales: Sequence[int] | None = None,
    tta: bool = False,
    flip: bool = False,
) -> Scales:
    """Settle the options of a run.

    Args:
        own: the model's short side, for what is not said.
        short_side: of a run at one scale, or of the first of `tta`.
        scales: short sides of several scales; their order does not matter.
        tta: the report's pair: the short side and 10/9 of it, 720 and 800 for the published models.
        flip: see every scale mirrored, too.

    Raises:
        UsageError: options that exclude each other, a scale below 1 pixel or named twice.
    """
    if scales is not None and (tta or short_side is not None):
        other = "tta" if tta else f"short side {short_side}"
        raise UsageError(f"scales {_listed(scales)} and {other} were both given: choose one")
    if scales is None:
        side = own if short_side is None else short_side
        scales = (side, round(side * REPORT_PAIR[1] / REPORT_PAIR[0])) if tta else (side,)
    if not scales:
        raise UsageError("no scales were given: name short sides in pixels, such as 720,800")
    if min(scales) < 1:
        raise UsageError(f"scales {_listed(scales)}: a short side must be 1 pixel or more")
    if len(set(scales)) < len(scales):
        raise UsageError(f"scales {_listed(scales)}: the same scale twice changes nothing; name it once")
    # The size that the model was trained for comes first: it is the reference wherever there must be one.
    return Scales(tuple(sorted(scales, key=lambda side: (abs(side - own), side))), flip)


def plan_views(
    height: int, width: int, scales: Scales, long_side: int = 1333, divisor: int = 32
) -> list[View]:
    """The views of a video of `height` x `width` pixels: each scale, then each mirrored if asked for.

    Scales that the limit on the long side makes equal are one view. Raises UsageError as `plan_geometry`.
    """
    geometries = [plan_geometry(height, width, side, long_side, divisor) for side in scales.short_sides]
    ways = (False, True) if scales.flip else (False,)
    return [View(geometry, mirrored) for mirrored in ways for geometry in dict.fromkeys(geometries)]


def preprocess_views(
    rgb: np.ndarray,
    views: Sequence[View],
    mean: Sequence[float] = PIXEL_MEAN,
    std: Sequence[float] = PIXEL_STD,
) -> list[torch.Tensor]:
    """A frame as `preprocess` makes it, for every view; it is resized once for each size."""
    sizes = dict.fromkeys(view.geometry for view in views)
    plain = {geometry: preprocess(rgb, geometry, mean, std) for geometry in sizes}
    return [_mirror(plain[v.geometry], v.geometry) if v.mirrored else plain[v.geometry] for v in views]


def _mirror(tensor: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Exchange left and right of the picture; its padding stays at the right."""
    height, width = geometry.resized
    mirrored = torch.zeros_like(tensor)
    mirrored[:, :height, :width] = tensor[:, :height, :width].flip(-1)
    return mirrored


def _listed(scales: Sequence[int]) -> str:
    return ",".join(map(str, scales))
