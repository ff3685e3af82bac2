"""Deformable attention's three ways on a GPU: the Triton kernel, `embedding_bag` and `grid_sample`.

    python tests/benchmarks/deformable.py [BATCH]

A row for each published size at 720p: milliseconds for what is between the projections of one layer, for BATCH frames
(4), and how many times as long as the kernel the others take.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.utils.benchmark import Timer

sys.path.insert(0, str(Path(__file__).parent.parent))
from deformable_cases import PUBLISHED, Case, published, sampled

from dvis_cli.layers.deformable import attend, by_rows

WAYS = {"kernel": attend, "embedding_bag": by_rows, "grid_sample": sampled}


def times(one: Case) -> dict[str, float]:
    """Seconds for one call of each."""
    taken = {}
    with torch.inference_mode():
        for name, way in WAYS.items():
            way(*one)
            timer = Timer("way(*one)", globals={"way": way, "one": one})
            taken[name] = timer.blocked_autorange(min_run_time=0.5).median
    return taken


def main(batch: int, device: torch.device) -> None:
    print(f"{'batch ' + str(batch):32}", *(f"{name:>15}" for name in WAYS))
    for name in PUBLISHED:
        taken = times(published(name, batch, device))
        shown = (f"{s * 1e3:8.3f} ({s / taken['kernel']:4.1f})" for s in taken.values())
        print(f"{name:32}", *shown)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4, torch.device("cuda"))
