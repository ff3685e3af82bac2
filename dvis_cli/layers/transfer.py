"""Between host and device: the only two ways that values take in a run, so that waits and copies can be counted."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def accelerated(device: torch.device) -> bool:
    """Whether work is dense and handed over in large pieces, as suits CUDA, or in cells and one by one, as a CPU."""
    return device.type == "cuda"


def fetch(*tensors: Tensor) -> list[Tensor]:
    """The same values on the host, for one wait. Tensors that are there already are returned as they are."""
    return _to_host(tensors) if any(tensor.device.type != "cpu" for tensor in tensors) else list(tensors)


def send(values: Tensor | np.ndarray, device: torch.device) -> Tensor:
    """A tensor or an array of the host on the device; on CUDA from pinned memory, so that nobody waits."""
    if device.type == "cpu":
        return values if isinstance(values, Tensor) else torch.from_numpy(values)
    return _to_device(values, device)


def _to_host(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    cuda = all(tensor.device.type == "cuda" for tensor in tensors)
    # On CUDA into pinned memory, all under way at once.
    copies = [tensor.to("cpu", non_blocking=cuda) for tensor in tensors]
    if cuda:
        torch.cuda.current_stream(tensors[0].device).synchronize()
    return copies


def _to_device(values: Tensor | np.ndarray, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return torch.as_tensor(values, device=device)
    if isinstance(values, Tensor):
        pinned = values.pin_memory()
    else:  # not `from_numpy`, which warns of arrays that may not be written to
        dtype = torch.from_numpy(np.empty(0, values.dtype)).dtype
        pinned = torch.empty(values.shape, dtype=dtype, pin_memory=True)
        np.copyto(pinned.numpy(), values)
    return pinned.to(device, non_blocking=True)  # the pinned block is not used again before the copy is done
