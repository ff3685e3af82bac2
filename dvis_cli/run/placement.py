"""Where and how wide a run is: device, precision, threads, memory, frames at once, encoder. Decided here alone."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dvis_cli.errors import DvisWarning, UsageError
from dvis_cli.files import memory_limit
from dvis_cli.writers.video_encoder import DETERMINISTIC, Encoding

from .options import Compile, Precision

CPU_BUDGET = 64 * 2**20  # bytes; more goes to a temporary file, which the system caches in free memory anyhow
GPU_BATCH = 4  # frames that the segmenter sees at once; a CPU gains nothing from more than one
DEVICES = "choose auto, cpu, cuda, cuda:N or mps"

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # <malloc.h>
_KEEP = 1 << 30  # bytes of free heap that are kept


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; Apple's MPS has to be named. Raises `UsageError`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device {name!r}: {DEVICES}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r}: this machine shows {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps': this machine has none")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device {name!r}: {DEVICES}")
    return device


def pick_precision(name: Precision, device: torch.device) -> Precision:
    """`auto` is bf16 on a CUDA device whose hardware computes in it, else fp32. Raises `UsageError`."""
    if name not in ("auto", "fp32", "bf16"):
        raise UsageError(f"precision {name!r}: choose auto, fp32 or bf16")
    if name != "auto":
        return name
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if fast else "fp32"


def pick_compile(name: Compile, device: torch.device) -> bool:
    """Whether the segmenter is compiled: `auto` does on CUDA, elsewhere it warns and does not."""
    if name == "off":
        return False
    if device.type != "cuda":
        why = f"on {device.type} it would cost more than it gains"
    elif importlib.util.find_spec("triton") is None:
        why = "it needs Triton, which is not installed"
    else:
        return True
    warnings.warn(f"--compile auto: the network is not compiled: {why}", DvisWarning, stacklevel=2)
    return False


def forbid_tf32() -> None:
    """Exact products and convolutions on NVIDIA hardware, for the whole process."""
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Where `allowed`, fp32 products on NVIDIA hardware are made in TF32 for a while; then as before."""
    if not allowed:
        yield
        return
    product = torch.backends.cuda.matmul
    before, product.fp32_precision = product.fp32_precision, "tf32"
    try:
        yield
    finally:
        product.fp32_precision = before


def memory_budget(device: torch.device) -> int:
    """Bytes of waiting data to keep in RAM.

    A CPU's network is so slow that a file costs nothing; a GPU may outrun a disk, so it gets a quarter of the memory
    that this process may use.
    """
    return CPU_BUDGET if device.type == "cpu" else memory_limit() // 4


def device_budget(device: torch.device) -> int:
    """Bytes of mask features that may stay on a GPU: a third of what is free, the rest is for the networks."""
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    # This process has it already.
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (free + unused) // 3


def batch_size(device: torch.device) -> int:
    """Frames that the segmenter sees at once."""
    return 1 if device.type == "cpu" else GPU_BATCH


def video_encoding(device: torch.device, deterministic: bool) -> Encoding:
    """On what videos are encoded: the CPU's cores belong to the network, unless that runs on an NVIDIA GPU."""
    if deterministic or device.type != "cuda":
        return DETERMINISTIC
    return Encoding(threads=2, gpu=device.index or 0)


def prepare_process(threads: int | None = None) -> None:
    """Settings of a whole process: for programs, at their start. The library leaves them to its user.

    Args:
        threads: CPU threads of the network; None leaves torch's choice.
    """
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep big buffers; returns whether that was possible.

    glibc returns every block over a threshold to the kernel when it is freed and faults it in again at the next
    layer; on a CPU that doubles the time of a network. Other allocators (macOS, musl) do not behave so.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEEP), (_M_TOP_PAD, 1 << 26))
    return all(mallopt(option, value) == 1 for option, value in settings)
