"""Time and agreement of a model's stages, fp32 against bf16, in one process.

    python tests/benchmarks/stages.py offline-r50 --short-side 720 --frames 3

Weights are noise: the arithmetic does not care. Times are the median over the frames after a first one that is
not counted; the bf16 columns also say how far its numbers are from fp32's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from dvis_cli.checkpoints.registry import known_model
from dvis_cli.run.loading import categories_of
from dvis_cli.run.model import DvisModel
from dvis_cli.run.noise import random_model
from dvis_cli.run.placement import keep_freed_memory
from dvis_cli.video.preprocess import plan_geometry

STAGES = ("backbone", "pixel decoder", "query decoder", "tracker", "refiner (a frame)")


def timed(seconds: list[float], work: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = work()
    seconds.append(time.perf_counter() - started)
    return result


def run(
    model: DvisModel, frames: torch.Tensor, bf16: bool
) -> tuple[dict[str, float], torch.Tensor, torch.Tensor]:
    """Median seconds a frame of each stage, and the last frame's queries and mask features."""
    seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
    tracked, state = [], None
    assert model.tracker is not None and model.refiner is not None
    segmenter, tracker, refiner = model.segmenter, model.tracker, model.refiner
    with torch.inference_mode():
        for frame in frames:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                features = timed(seconds["backbone"], lambda f=frame: segmenter.backbone(f[None]))
                pixels = timed(seconds["pixel decoder"], lambda f=features: segmenter.pixel_decoder(f))
                queries = timed(seconds["query decoder"], lambda p=pixels: segmenter.query_decoder(p))
            queries = queries.float()[None]

            def track(queries: torch.Tensor = queries, state: Any = state) -> Any:
                return tracker(queries, state), tracker.frame_forward(queries)

            (tracks, state), memory = timed(seconds["tracker"], track)
            tracked.append((tracks.queries, memory))
        window = [torch.cat(part, dim=1) for part in zip(*tracked, strict=True)]
        timed(seconds["refiner (a frame)"], lambda: refiner(*window))
    medians = {stage: statistics.median(times[1:] or times) for stage, times in seconds.items()}
    medians["refiner (a frame)"] /= len(frames)
    return medians, queries, pixels.mask_features.float()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="offline-r50")
    parser.add_argument("--short-side", type=int, default=720)
    parser.add_argument("--frames", type=int, default=4)
    arguments = parser.parse_args()
    keep_freed_memory()
    config = known_model(arguments.model).config
    model = random_model(config, categories_of(config))
    geometry = plan_geometry(720, 1280, arguments.short_side)
    frames = torch.randn(arguments.frames, 3, *geometry.padded)
    exact, exact_queries, exact_features = run(model, frames, bf16=False)
    fast, fast_queries, fast_features = run(model, frames, bf16=True)
    table = Table("stage", "fp32 s", "bf16 s", "ratio", title=f"{arguments.model}, {geometry.padded} pixels")
    exact["total"], fast["total"] = sum(exact.values()), sum(fast.values())
    for stage in (*STAGES, "total"):
        table.add_row(stage, f"{exact[stage]:.2f}", f"{fast[stage]:.2f}", f"{exact[stage] / fast[stage]:.2f}")
    Console().print(table)
    for name, one, other in (
        ("queries", exact_queries, fast_queries),
        ("mask features", exact_features, fast_features),
    ):
        error = (one - other).abs().mean() / one.abs().mean()
        Console().print(f"{name}: bf16 differs by {error:.2%} of the mean magnitude")


if __name__ == "__main__":
    main()
