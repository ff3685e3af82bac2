"""A pretended GPU: tensors on "cuda" have shapes and types but no numbers, and what crosses to the host is counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dvis_cli.layers import deformable, masks, position, transfer
from dvis_cli.segmenter import swin

CACHES = (
    deformable._grid,
    masks._cell_means,
    position.sine_position,
    swin._relative_index,
    swin._windows,
)


@dataclass
class Traffic:
    """What went between host and device."""

    waits: int = 0
    bytes: int = 0
    uncounted: list[str] = field(default_factory=list)  # operations that copied without `fetch` or `send`

    def clear(self) -> None:
        self.waits = self.bytes = 0
        self.uncounted.clear()


class _Crossings(TorchDispatchMode):
    """Lets what has no tensor on the device run for real, and notes every operation that copies by itself."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        target = kwargs.get("device")
        there = any(isinstance(one, FakeTensor) for one in tensors)
        if not there and (target is None or torch.device(target).type == "cpu"):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        result = func(*args, **kwargs)
        places = {one.device.type for one in tree_leaves((tensors, result)) if isinstance(one, torch.Tensor)}
        numbers = [one for one in tensors if one.device.type == "cpu" and one.ndim]  # a scalar is an argument
        if len(places) > 1 and (numbers or result.device.type == "cpu"):
            self.traffic.uncounted.append(str(func))
            self.traffic.waits += 1
            self.traffic.bytes += max(one.nbytes for one in (*numbers, result))
        return result


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traffic]:
    """Inside, "cuda" can be used. `fetch` brings random numbers of the right shape and type."""
    traffic, random = Traffic(), np.random.default_rng(0)

    def to_host(tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        traffic.waits += 1
        with unset_fake_temporarily():
            made = [_random(one.shape, one.dtype, random) for one in tensors]
        traffic.bytes += sum(one.nbytes for one in made)
        return made

    def to_device(values: torch.Tensor | np.ndarray, device: torch.device) -> torch.Tensor:
        assert not isinstance(values, FakeTensor)
        traffic.bytes += values.nbytes
        dtype = values.dtype if isinstance(values, torch.Tensor) else torch.from_numpy(values[..., :0]).dtype
        return torch.empty(values.shape, dtype=dtype, device=device)

    monkeypatch.setattr(transfer, "_to_host", to_host)
    monkeypatch.setattr(transfer, "_to_device", to_device)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    for cache in CACHES:
        cache.cache_clear()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), _Crossings(traffic):
            yield traffic
    finally:
        for cache in CACHES:
            cache.cache_clear()


def _random(shape: torch.Size, dtype: torch.dtype, random: np.random.Generator) -> torch.Tensor:
    if dtype.is_floating_point:
        return torch.from_numpy(random.random(tuple(shape), np.float32)).to(dtype)
    least = 0 if dtype.itemsize == 1 else 1  # counts of what is there
    return torch.from_numpy(random.integers(least, 3, tuple(shape))).to(dtype)
