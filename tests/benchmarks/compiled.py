"""The segmenter compiled and eager on a CPU, a frame each in turn, processor time of one thread (docs/performance.md).

python tests/benchmarks/compiled.py offline-r50 --size 736x1280 --precision bf16 --rounds 3
"""

from __future__ import annotations

import argparse
import time

import torch

from dvis_cli.checkpoints.registry import known_model
from dvis_cli.run.compiled import CompiledSegmenter
from dvis_cli.run.loading import categories_of, ready
from dvis_cli.run.noise import random_model
from dvis_cli.run.placement import prepare_process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--size", default="736x1280", help="height and width of the padded input")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    prepare_process(threads=1)
    config = known_model(chosen.model).config
    model = ready(random_model(config, categories_of(config)), torch.device("cpu"), chosen.precision)
    frame = torch.randn(1, 3, *map(int, chosen.size.split("x")))
    ways, seconds = {"eager": None, "compiled": CompiledSegmenter(model.segmenter)}, {}

    def run(way: str, memory: torch.Tensor | None) -> torch.Tensor | None:
        model.compiled = ways[way]
        began = time.process_time()
        memory = model.segment(frame, memory).memory
        seconds.setdefault(way, []).append(time.process_time() - began)
        return memory

    with torch.inference_mode():
        memory, began = run("eager", None), time.perf_counter()
        for _ in range(3):
            memory = run("compiled", memory)
        print(f"compiled after {time.perf_counter() - began:.0f} s")
        seconds.clear()
        for _ in range(chosen.rounds):
            for way in ways:
                memory = run(way, memory)
    eager, compiled = (sorted(times)[len(times) // 2] for times in seconds.values())
    print(f"{chosen.model} {chosen.precision} {chosen.size}: eager {eager * 1e3:.0f} ms, "
          f"compiled {compiled * 1e3:.0f} ms, {eager / compiled:.2f} times as fast")  # fmt: skip


if __name__ == "__main__":
    main()
