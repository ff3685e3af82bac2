"""Linear layers, on a CPU by the faster of PyTorch's two libraries."""

from __future__ import annotations

import platform
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 256  # below, it makes no difference
_X86 = platform.machine() in ("x86_64", "AMD64")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: (..., inputs) times (outputs, inputs) plus (outputs,).

    On x86 it is a product of MKL's, which on AMD processors reaches 80 to 85 % of what oneDNN does. A convolution of
    1 x 1 over rows that lie channels last is oneDNN's, without a copy; with a single thread PyTorch takes neither.
    """
    if not _by_onednn(x):
        return F.linear(x, weight, bias)
    return _over_rows(x, lambda rows: F.conv2d(rows, weight[:, :, None, None], bias))


class Linear(nn.Linear):
    """`nn.Linear` by `linear`. Under bf16 autocast the weight is converted, and laid out for oneDNN, only once."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        if (
            torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == torch.bfloat16
            and _by_onednn(x)
            and not self.weight.is_inference()  # nothing would tell that it has changed
            and _can_pack()
        ):
            return self._packed_product(x.bfloat16())
        return linear(x, self.weight, self.bias)

    def _packed_product(self, x: Tensor) -> Tensor:
        packed = _PACKED.get(self)
        if packed is None or packed.source() is not self.weight or packed.version != self.weight._version:
            pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            size = (1, self.in_features, 1, x.numel() // self.in_features)
            weight = self.weight.bfloat16()[:, :, None, None].to_mkldnn()
            weight = pack(weight, (0, 0), (1, 1), (1, 1), 1, size)
            packed = _PACKED[self] = _Packed(weakref.ref(self.weight), self.weight._version, weight)
        weight, bias = packed.weight, None if self.bias is None else self.bias.bfloat16()
        product = torch.ops.mkldnn._convolution_pointwise
        return _over_rows(
            x, lambda rows: product(rows, weight, bias, (0, 0), (1, 1), (1, 1), 1, "none", (), "")
        )


class _Packed(NamedTuple):
    source: weakref.ref[Tensor]
    version: int  # of the source, counted by PyTorch
    weight: Tensor


_PACKED: weakref.WeakKeyDictionary[Linear, _Packed] = weakref.WeakKeyDictionary()


@lru_cache(maxsize=1)
def _can_pack() -> bool:
    """Whether PyTorch has the operators, which are private, and the processor oneDNN's bf16."""
    names = ("_convolution_pointwise", "_is_mkldnn_bf16_supported")
    return (
        hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
        and all(hasattr(torch.ops.mkldnn, name) for name in names)
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def _by_onednn(x: Tensor) -> bool:
    return (
        _X86
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and x.numel() >= ROWS * x.shape[-1]
        and x.dtype in (torch.float32, torch.bfloat16)
        and torch.get_num_threads() > 1
        and torch.backends.mkldnn.is_available()
    )


def _over_rows(x: Tensor, convolution: Callable[[Tensor], Tensor]) -> Tensor:
    """A convolution of 1 x 1 over the rows of (..., inputs)."""
    rows = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    product = convolution(rows).permute(0, 2, 3, 1)
    return product.reshape(*x.shape[:-1], product.shape[-1])
