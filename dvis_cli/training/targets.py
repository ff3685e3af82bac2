"""The ground truth of a clip, and a batch of clips.

Panoptic segments never overlap, so one map of object numbers carries the masks of all objects of a frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Record = TypeVar("Record", bound="TensorRecord")


class TensorRecord:
    """A frozen dataclass that travels as a whole: its tensors move, everything else stays."""

    __slots__ = ()

    def to(self: Record, device: torch.device | str, non_blocking: bool = False) -> Record:
        """A copy on another device."""
        moved: Record = _each_tensor(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))
        return moved

    def pin_memory(self: Record) -> Record:
        """A copy in page-locked memory; `DataLoader(pin_memory=True)` calls this."""
        pinned: Record = _each_tensor(self, Tensor.pin_memory)
        return pinned


@dataclass(frozen=True, slots=True, eq=False)
class ClipTargets(TensorRecord):
    """The truth of one clip of T frames with N objects (stuff regions count as objects)."""

    ids: Tensor  # (T, H, W) int16: n + 1 where object n is, 0 = nothing (void, crowd, padding)
    classes: Tensor  # (N,) int64 contiguous class of object n, 0..K-1; N may be 0
    areas: npt.NDArray[np.int64]  # (N, T) pixels of object n in frame t; stays on the host

    @classmethod
    def of(cls, ids: Tensor, classes: Tensor) -> ClipTargets:
        """Targets of maps on the CPU: the areas are counted here, where nobody waits for a device."""
        bins = len(classes) + 1
        areas = [np.bincount(frame.ravel(), minlength=bins)[1:] for frame in ids.numpy()]
        return cls(ids, classes, np.stack(areas, axis=1))

    def first(self, share: float = 0.0) -> npt.NDArray[np.int64]:
        """(N,): the first frame in which object n is present; T for one that never is.

        Args:
            share: 0..1 of its largest area that must be visible; 0: any pixel will do.
        """
        seen = (self.areas > 0) & (self.areas >= share * self.areas.max(axis=1, keepdims=True))
        return np.where(seen.any(1), seen.argmax(1), len(self.ids))


@dataclass(frozen=True, slots=True, eq=False)
class FrozenFeatures(TensorRecord):
    """A frozen segmenter's output for a batch of clips: all that tracker and refiner learn from."""

    queries: Tensor  # (B, T, Q, C) float32 after the decoder's final norm
    mask_features: Tensor  # (B, T, C, h, w) float32


@dataclass(frozen=True, slots=True, eq=False)
class ClipBatch(TensorRecord):
    """B clips of T frames, padded at the bottom and at the right to one size.

    Pictures, or the frozen segmenter's features: one of the two is there.
    """

    frames: Tensor | None  # (B, T, 3, H, W) float32, normalised, then padded with zeros
    cached: FrozenFeatures | None
    targets: tuple[ClipTargets, ...]  # B of them, their maps H x W, too
    indices: tuple[int, ...]  # of the clips in the run: seeds of their random points
    names: tuple[str, ...]  # "video_id/first_stem" of each clip, for messages
    skipped: tuple[str, ...] = ()  # "reason: what" of each draw that could not be used on the way here


def _each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_each_tensor(part, change) for part in value)
    if isinstance(value, TensorRecord):
        names = [item.name for item in dataclasses.fields(value)]  # type: ignore[arg-type]
        return dataclasses.replace(  # type: ignore[type-var]
            value, **{name: _each_tensor(getattr(value, name), change) for name in names}
        )
    return value
