"""What several scales cost: CPU seconds of each part and the peak of memory, each scale alone and all together.

    python tests/benchmarks/fusion.py offline-r50 --scales 720,800 --frames 6

Weights are noise, the picture is 1280 x 720. Each row is a process of its own; seconds are those of the CPU, so
that other work on the machine disturbs them little.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dvis_cli.checkpoints.registry import known_model
from dvis_cli.run.loading import categories_of
from dvis_cli.run.noise import random_model
from dvis_cli.run.placement import keep_freed_memory
from dvis_cli.run.settings import RunSettings
from dvis_cli.run.video import SegmentedVideo
from dvis_cli.structures import Frame, VideoInfo
from dvis_cli.video.views import plan_views, preprocess_views

PARTS = ("input", "networks", "fusion", "decision")


class Clock:
    """CPU seconds by part; a part inside another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._stack: list[float] = []

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            started = time.process_time()
            self._stack.append(0.0)
            try:
                return function(*arguments)
            finally:
                spent, inner = time.process_time() - started, self._stack.pop()
                self.seconds[part] += spent - inner
                if self._stack:
                    self._stack[-1] += spent

        return timed


def measure(name: str, scales: list[int], frames: int, task: str) -> dict[str, float]:
    """Run a made-up video."""
    keep_freed_memory()
    config = known_model(name).config
    model = random_model(config, categories_of(config))
    views = plan_views(720, 1280, tuple(scales))
    settings = RunSettings(config.mode, task=task)  # type: ignore[arg-type]
    clock = Clock()
    prepare = clock.wrap("input", preprocess_views)
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (frames, 18, 32, 3), dtype=np.uint8)

    def source() -> Any:
        for i, pixels in enumerate(small):
            rgb = np.ascontiguousarray(pixels.repeat(40, axis=0).repeat(40, axis=1))
            yield Frame(i, i / 10, rgb), prepare(rgb, views)

    info = VideoInfo("noise", "noise", 1280, 720, 10.0, frames, None, False)
    video = SegmentedVideo(info, source(), model, views, settings)
    network: Any = video.network
    network.add = clock.wrap("networks", network.add)
    network.tubes = clock.wrap("fusion", network.tubes)
    for scale in network.scales:
        scale.state.finish_horizon = clock.wrap("networks", scale.state.finish_horizon)
    before = sum(clock.seconds.values())
    started = time.process_time()
    for _ in video:
        pass
    whole = time.process_time() - started
    clock.seconds["decision"] = whole - (sum(clock.seconds.values()) - before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**{part: seconds / frames for part, seconds in clock.seconds.items()}, "peak MB": peak}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="offline-r50")
    parser.add_argument("--scales", default="720,800")
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--task", default="panoptic")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        scales = [int(side) for side in arguments.row.split(",")]
        print(json.dumps(measure(arguments.model, scales, arguments.frames, arguments.task)))
        return
    table = Table(
        "scales", *PARTS, "total", "peak MB", title=f"{arguments.model}, {arguments.task}: s a frame"
    )
    rows = [*arguments.scales.split(","), arguments.scales]
    results = []
    for row in rows:
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--row", row], stdout=subprocess.PIPE, check=True
        )
        result = json.loads(done.stdout)
        results.append(result)
        total = sum(result[part] for part in PARTS)
        table.add_row(
            row, *(f"{result[part]:.3f}" for part in PARTS), f"{total:.2f}", f"{result['peak MB']:.0f}"
        )
    Console().print(table)
    together, alone = results[-1], results[:-1]
    networks = sum(one["networks"] for one in alone)
    total = sum(one[part] for one in alone for part in PARTS)
    Console().print(
        f"fusion is {together['fusion'] / together['networks']:.1%} of the networks; all together take "
        f"{sum(together[part] for part in PARTS) / total:.3f} of the sum of the scales alone (networks "
        f"{together['networks'] / networks:.3f}), at {together['peak MB'] / max(o['peak MB'] for o in alone):.2f} "
        "times the largest peak"
    )


if __name__ == "__main__":
    main()
