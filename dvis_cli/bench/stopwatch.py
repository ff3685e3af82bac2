"""Seconds of stages, by thread, measured from outside: functions are wrapped while a measurement runs."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _attention_on_a_cpu(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """From the three shapes; PyTorch's counter knows the GPU's kernels only."""
    return sdpa_flop_count(query, key, value)


def _packed_convolution(x: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """Of 1 x 1, as `layers.linear` makes them."""
    return 2 * x[1] * math.prod(out_shape)


_COUNTED: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_on_a_cpu
}
if hasattr(torch.ops.mkldnn, "_convolution_pointwise"):  # not in builds without oneDNN
    _COUNTED[torch.ops.mkldnn._convolution_pointwise] = _packed_convolution


class Stopwatch:
    """Own seconds of each stage: what a stage spends inside another one is the other's.

    Args:
        synchronise: called before a clock is read: waits for the device, where times are to be the device's.

    Attributes:
        seconds: by (thread, stage).
        gflop: by stage, a multiply-add as two; filled while `counting` is set, and then no time is taken.
    """

    def __init__(self, synchronise: Callable[[], None] = lambda: None) -> None:
        self._synchronise = synchronise
        self._local = threading.local()
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.gflop: dict[str, float] = defaultdict(float)
        self.counting = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block, or count its arithmetic."""
        if self.counting:
            with FlopCounterMode(display=False, custom_mapping=_COUNTED) as counter:
                yield
            self.gflop[name] += counter.get_total_flops() / 1e9
            return
        # Of the open stages: seconds of others.
        inner: list[float] = self._local.__dict__.setdefault("inner", [])
        self._synchronise()
        began = time.perf_counter()
        inner.append(0.0)
        try:
            yield
        finally:
            self._synchronise()
            spent = time.perf_counter() - began
            self.seconds[threading.current_thread().name, name] += spent - inner.pop()
            if inner:
                inner[-1] += spent

    def wrap(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function as a stage."""

        @wraps(work)
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.stage(name):
                return work(*arguments, **options)

        return timed

    def iterate(self, name: str, items: Iterator[Any]) -> Iterator[Any]:
        """The same items; waiting for the next one is a stage."""
        nothing = object()
        while True:
            with self.stage(name):
                item = next(items, nothing)
            if item is nothing:
                return
            yield item


@contextmanager
def replaced(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    """Attributes of objects, replaced for a while: (object, name, value)."""
    before = [(owner, name, vars(owner).get(name, _ABSENT)) for owner, name, _ in changes]
    try:
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


_ABSENT = object()
