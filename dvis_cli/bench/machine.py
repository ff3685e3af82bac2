"""What this machine can do at the most, and how much of it and of its memory is used."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dvis_cli.files import usable_cores

SECONDS = 0.5  # of matrix products
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def facts(device: torch.device) -> dict[str, Any]:
    """The hardware and the versions that a measurement is of."""
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def matmul_peak(device: torch.device, precision: str) -> float:
    """GFLOP/s of a large matrix product in "fp32" or "bf16": the most that a network can hope for."""
    side = 8192 if device.type == "cuda" else 1536
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    torch.mm(a, b)
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        synchronise(device)
        began = time.perf_counter()
        torch.mm(a, b)
        synchronise(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best / 1e9


def peak_memory(device: torch.device) -> dict[str, int | None]:
    """Bytes: of the process's RAM since it began, and of the device since `forget_peak`."""
    unit = 1 if sys.platform == "darwin" else 1024
    there = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"ram": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "device": there}


def forget_peak(device: torch.device) -> None:
    """Begin the device's peak anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def resident_bytes() -> int:
    """Bytes of RAM that the process has now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def slope(samples: Sequence[int]) -> float | None:
    """Growth in a frame, by least squares over the second half of a value for every frame; None for too few."""
    half = torch.tensor(samples[len(samples) // 2 :], dtype=torch.float64)
    if len(half) < 4:
        return None
    time = torch.arange(len(half), dtype=torch.float64)
    time -= time.mean()
    return float((time * (half - half.mean())).sum() / time.square().sum())


def device_use(events: Sequence[dict[str, Any]], frames: int) -> dict[str, float]:
    """What a trace of torch's profiler says of a GPU.

    Args:
        events: `traceEvents` of the exported trace; times in microseconds.
        frames: of the video in it.

    Returns:
        share of the time in which the GPU did anything, and a frame: waits, copies, bytes copied, kernels.
    """
    spans = []
    waits = copies = copied = kernels = 0
    for event in events:
        category, name = str(event.get("cat", "")).lower(), str(event.get("name", ""))
        if category in ("kernel", "gpu_memcpy", "gpu_memset"):
            spans.append((float(event["ts"]), float(event["ts"]) + float(event["dur"])))
        if category == "kernel":
            kernels += 1
        elif category == "gpu_memcpy" and "DtoD" not in name:
            copies += 1
            copied += int(event.get("args", {}).get("bytes", 0))
        elif category == "cuda_runtime" and name in WAITS:
            waits += 1
    busy = end = 0.0
    for start, stop in sorted(spans):
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    whole = end - min((start for start, _ in spans), default=0.0)
    return {
        "busy_share": busy / whole if whole else 0.0,
        "waits": waits / frames,
        "copies": copies / frames,
        "copied_bytes": copied / frames,
        "kernels": kernels / frames,
    }
