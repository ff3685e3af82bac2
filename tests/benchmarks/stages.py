"""Time, arithmetic and agreement of a model's stages, fp32 against bf16, in one process.

    python tests/benchmarks/stages.py                                   # one model of each family and size
    python tests/benchmarks/stages.py offline-r50 videomt-vitl-vipseg --frames 3

Weights are noise: the arithmetic does not care. Times are the median over the frames after a first one, which is not
timed but counted: GFLOP a frame, a multiply-add as two. The last columns say how far bf16 is from fp32.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from dvis_cli.checkpoints.registry import known_model
from dvis_cli.run.loading import categories_of
from dvis_cli.run.model import DvisModel
from dvis_cli.run.noise import random_model
from dvis_cli.run.placement import keep_freed_memory
from dvis_cli.segmenter.videomt import VideoMT
from dvis_cli.structures import SegmenterOutput
from dvis_cli.video.preprocess import plan_geometry

MODELS = (
    "videomt-vits-ytvis19",
    "offline-r50",
    "dvis-plus-offline-r50-vipseg",
    "offline-swinl",
    "videomt-vitl-vipseg",
    "dvis-plus-offline-vitl-vipseg",
)


def attention_on_a_cpu(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """From the three shapes; PyTorch's counter knows the GPU's kernels only."""
    return sdpa_flop_count(query, key, value)


COUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_on_a_cpu}


class Stopwatch:
    """Seconds, or GFLOP, of each stage."""

    clock = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.gflop: dict[str, float] = defaultdict(float)
        self.counting = False

    def __call__(self, stage: str, work: Callable[[], Any]) -> Any:
        if self.counting:
            with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
                result = work()
            self.gflop[stage] += counter.get_total_flops() / 1e9
            return result
        started = self.clock()
        result = work()
        self.seconds[stage].append(self.clock() - started)
        return result

    def medians(self) -> dict[str, float]:
        return {stage: statistics.median(times) for stage, times in self.seconds.items()}


def segment(model: DvisModel, frame: torch.Tensor, memory: Any, watch: Stopwatch) -> SegmenterOutput:
    """The segmenter's parts, one after the other. frame: (1, 3, H, W)."""
    segmenter = model.segmenter
    if not isinstance(segmenter, VideoMT):
        features = watch("backbone", lambda: segmenter.backbone(frame))
        with torch.autocast("cpu", enabled=False):  # as in the segmenter
            levels = [feature.float() for feature in features]
            pixels = watch("pixel decoder", lambda: segmenter.pixel_decoder(levels))
        queries = watch("query decoder", lambda: segmenter.query_decoder(pixels))
        return SegmenterOutput(queries, pixels.mask_features, queries)
    tokens = watch("trunk", lambda: segmenter.trunk(frame))
    joint, memory = watch("query blocks", lambda: segmenter.with_queries(tokens, memory))
    size = tuple(side // segmenter.encoder.patch.stride[0] for side in frame.shape[2:])
    return watch("heads, upscaling", lambda: segmenter.read_out(joint, size, memory))


def run(model: DvisModel, frames: torch.Tensor, bf16: bool) -> tuple[Stopwatch, SegmenterOutput]:
    """Every stage on every frame, and the segmenter's last output."""
    watch, tracked, state, memory = Stopwatch(), [], None, None
    tracker, refiner = model.tracker, model.refiner
    assert tracker is not None
    with torch.inference_mode():
        for i, frame in enumerate(frames):
            watch.counting = i == 0
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                output = segment(model, frame[None], memory, watch)
            memory, queries = output.memory, output.queries.float()[None]
            if model.config.family == "videomt":
                watch("masks", lambda output=output: tracker.mask_features(output))
                continue

            def track(queries: torch.Tensor = queries, state: Any = state) -> Any:
                tracks, after = tracker(queries, state)
                return tracker.refiner_inputs(queries, tracks), after

            inputs, state = watch("tracker", track)
            tracked.append(inputs)
        window = [torch.cat(part, dim=1) for part in zip(*tracked, strict=True)]
        for counting in (True, False) if refiner is not None and window else ():
            watch.counting = counting
            watch("refiner", lambda: refiner(*window))
    if "refiner" in watch.seconds:  # of the whole window
        watch.gflop["refiner"] /= len(frames)
        watch.seconds["refiner"] = [seconds / len(frames) for seconds in watch.seconds["refiner"]]
    return watch, output


def compare(name: str, frames: int, short_side: int, console: Console) -> None:
    """Print the table of one model."""
    config = known_model(name).config
    model = random_model(config, categories_of(config)).requires_grad_(False)
    geometry = plan_geometry(720, 1280, short_side)
    pictures = torch.randn(frames, 3, *geometry.padded)
    exact, exact_output = run(model, pictures, bf16=False)
    fast, fast_output = run(model, pictures, bf16=True)
    slow, quick = exact.medians(), fast.medians()
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    title = f"{name}, {millions:.1f}M parameters, {geometry.padded[0]} x {geometry.padded[1]} pixels"
    table = Table("stage", "GFLOP", "fp32 s", "bf16 s", "ratio", title=title)
    for amounts in (slow, quick, exact.gflop):
        amounts["total"] = sum(amounts.values())
    for stage in slow:
        numbers = (f"{exact.gflop[stage]:.0f}", f"{slow[stage]:.2f}", f"{quick[stage]:.2f}")
        table.add_row(stage, *numbers, f"{slow[stage] / quick[stage]:.2f}")
    console.print(table)
    for what in ("queries", "mask_features"):
        one, other = (getattr(output, what).float() for output in (exact_output, fast_output))
        share = (one - other).abs().mean() / one.abs().mean()
        console.print(f"{what}: bf16 differs by {share:.2%} of the mean magnitude")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--short-side", type=int, default=720)
    parser.add_argument("--frames", type=int, default=3, help="the first is not timed")
    parser.add_argument(
        "--busy", action="store_true", help="a machine with other work: one thread's own time"
    )
    arguments = parser.parse_args()
    if arguments.busy:
        torch.set_num_threads(1)
        Stopwatch.clock = staticmethod(time.thread_time)
    keep_freed_memory()
    for name in arguments.models:
        compare(name, max(2, arguments.frames), arguments.short_side, Console())


if __name__ == "__main__":
    main()
