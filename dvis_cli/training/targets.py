"""What a network is taught about a clip, and a batch of clips.

Panoptic truth never overlaps, so one map of object numbers carries the masks of all objects of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ClipTargets:
    """The truth of one clip of T frames with N objects (stuff regions count as objects)."""

    ids: Tensor  # (T, H, W) int16: n + 1 where object n is, 0 = nothing (void, crowd, padding)
    classes: Tensor  # (N,) int64 contiguous class of object n, 0..K-1; N may be 0

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipTargets:
        """The same targets on another device."""
        return replace(
            self,
            ids=self.ids.to(device, non_blocking=non_blocking),
            classes=self.classes.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> ClipTargets:
        """The same targets in page-locked memory."""
        return replace(self, ids=self.ids.pin_memory(), classes=self.classes.pin_memory())

    def areas(self) -> Tensor:
        """(N, T) int64: pixels of object n in frame t."""
        count = len(self.classes) + 1
        frames = [torch.bincount(frame.flatten().long(), minlength=count) for frame in self.ids]
        return torch.stack(frames, dim=1)[1:]

    def first(self, share: float = 0.0) -> Tensor:
        """(N,) int64: the first frame in which object n is present; T for one that never is.

        Args:
            share: 0..1 of its largest area that must be seen; 0: any pixel will do.
        """
        areas = self.areas()
        seen = (areas > 0) & (areas >= share * areas.amax(dim=1, keepdim=True))
        return torch.where(seen.any(1), seen.int().argmax(1), len(self.ids))

    def masks(self, n: Tensor | slice) -> Tensor:
        """Masks of a few objects.

        Args:
            n: (n,) int64 numbers of objects, or a slice of them.

        Returns:
            (n, T, H, W) bool.
        """
        numbers = torch.arange(1, len(self.classes) + 1, dtype=self.ids.dtype, device=self.ids.device)[n]
        return self.ids[None] == numbers[:, None, None, None]


@dataclass(frozen=True, slots=True, eq=False)
class FrozenFeatures:
    """What a frozen segmenter says of a batch of clips: all that tracker and refiner learn from."""

    queries: Tensor  # (B, T, Q, C) float32 after the decoder's final norm
    mask_features: Tensor  # (B, T, C, h, w) float32

    def to(self, device: torch.device | str, non_blocking: bool = False) -> FrozenFeatures:
        """The same features on another device."""
        return FrozenFeatures(
            self.queries.to(device, non_blocking=non_blocking),
            self.mask_features.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> FrozenFeatures:
        """The same features in page-locked memory."""
        return FrozenFeatures(self.queries.pin_memory(), self.mask_features.pin_memory())


@dataclass(frozen=True, slots=True, eq=False)
class ClipBatch:
    """B clips of T frames, padded at the bottom and at the right to one size.

    Pictures, or what the frozen segmenter made of them: one of the two is there.
    """

    frames: Tensor | None  # (B, T, 3, H, W) float32, normalised, then padded with zeros
    cached: FrozenFeatures | None
    targets: tuple[ClipTargets, ...]  # B of them, their maps H x W, too
    indices: tuple[int, ...]  # of the clips in the run; what a clip's points are drawn by
    names: tuple[str, ...]  # "video_id/first_stem" of each clip, for messages
    skipped: tuple[str, ...] = ()  # "reason: what" of each draw that could not be used on the way here

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """The same batch on another device."""
        return replace(
            self,
            frames=None if self.frames is None else self.frames.to(device, non_blocking=non_blocking),
            cached=None if self.cached is None else self.cached.to(device, non_blocking),
            targets=tuple(target.to(device, non_blocking) for target in self.targets),
        )

    def pin_memory(self) -> ClipBatch:
        """The same batch in page-locked memory; `DataLoader(pin_memory=True)` calls this."""
        return replace(
            self,
            frames=None if self.frames is None else self.frames.pin_memory(),
            cached=None if self.cached is None else self.cached.pin_memory(),
            targets=tuple(target.pin_memory() for target in self.targets),
        )
