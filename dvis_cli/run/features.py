"""Mask features that wait for the decision: on the device while there is room, then in RAM, then on the disk."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from dvis_cli.errors import DvisWarning
from dvis_cli.layers.transfer import fetch, send

from .spool import Spool


class Features:
    """The mask features of a horizon, by frame.

    Args:
        device: where they come from and go to.
        on_device: bytes that may stay there; 0 on a CPU, where the spool is all there is.
        in_memory: bytes of RAM; more goes to a temporary file.
    """

    def __init__(self, device: torch.device, on_device: int, in_memory: int) -> None:
        self.device, self._room = device, on_device
        self._kept: dict[int, Tensor] = {}
        self._spool = Spool(in_memory)

    def put(self, frame: int, features: Tensor) -> None:
        """Keep the (C, h, w) of a frame. They must not be written to afterwards."""
        kept = (len(self._kept) + 1) * features.nbytes  # those of a video are all of one size
        if kept <= self._room:
            self._kept[frame] = features
        else:
            self._spool.put(frame, _to_numpy(features))

    def get(self, frame: int) -> Tensor:
        """On the device."""
        if frame in self._kept:
            return self._kept[frame]
        return send(_to_tensor(self._spool.get(frame)), self.device)

    @property
    def any_on_device(self) -> bool:
        return bool(self._kept)

    def leave_device(self) -> bool:
        """Make room on the device, for good; returns whether there was anything to move."""
        if not self._kept:
            return False
        warnings.warn(
            f"out of memory on {self.device}: mask features of {len(self._kept)} frames wait in RAM from now on, "
            "which is slower; a shorter --horizon keeps them on the device",
            DvisWarning,
            stacklevel=2,
        )
        self._room = 0
        for frame in list(self._kept):
            self._spool.put(frame, _to_numpy(self._kept.pop(frame)))
        return True

    def clear(self) -> None:
        """Forget everything and give memory and disk space back."""
        self._kept.clear()
        self._spool.clear()


def _to_numpy(features: Tensor) -> np.ndarray:
    """A copy on the CPU; bf16, which numpy does not have, as its bits."""
    (host,) = fetch(features.detach())
    bits = (host.view(torch.int16) if host.dtype == torch.bfloat16 else host).numpy()
    # Not a view that keeps a batch alive, and not pinned memory, of which there is little.
    alone = host.untyped_storage().nbytes() == host.nbytes and not host.is_pinned()
    return bits if alone else bits.copy()


def _to_tensor(array: np.ndarray) -> Tensor:
    """The inverse of `_to_numpy`."""
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
