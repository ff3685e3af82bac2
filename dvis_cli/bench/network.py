"""The networks alone, stage by stage: frames that are ready on the device in, decided maps out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dvis_cli.run.model import DvisModel
from dvis_cli.run.options import SegmentOptions
from dvis_cli.run.scales import Scales
from dvis_cli.run.settings import settings_for, task_for, views_for
from dvis_cli.segmenter.videomt import VideoMT
from dvis_cli.video import open_video
from dvis_cli.video.views import preprocess_views

from .machine import synchronise
from .stopwatch import Stopwatch, replaced

REST = "rest of the network"


def measure_network(model: DvisModel, film: Path, options: SegmentOptions) -> dict[str, Any]:
    """Time of a frame by stage, its arithmetic, and frames a second of the networks alone.

    The first batch is for counting arithmetic and is not timed. On a GPU the stages are timed in a pass of their own,
    because waiting for each of them takes time, too. A model that is compiled runs eagerly first.
    """
    wait = partial(synchronise, model.device)
    run = _Run(model, film, options)
    watch = Stopwatch(wait)
    with replaced((model, "compiled", None)):
        with _staged(model, watch):
            watch.counting = True
            run.add(run.first).close()
            watch.counting = False
            run.warm_up()
            whole = run.seconds(wait, watch)
        if model.device.type != "cpu":
            whole = run.seconds(wait)
    compiled = None
    if model.compiled:
        began, eager = time.perf_counter(), whole
        run.warm_up()
        after, whole = time.perf_counter() - began, run.seconds(wait)
        compiled = {"times": eager / whole, "after_seconds": after}
    frames = len(run.frames)
    seconds = {stage: spent / frames for (_, stage), spent in watch.seconds.items()}
    gflop = {stage: count / len(run.first) for stage, count in watch.gflop.items()}
    names = [*seconds, *(name for name in gflop if name not in seconds)]
    stages: list[dict[str, Any]] = [
        {"stage": n, "ms": seconds.get(n, 0.0) * 1e3, "gflop": gflop.get(n, 0.0)} for n in names
    ]
    return {
        "frames": frames,
        "batch": run.settings.batch,
        "input": list(run.views[0].geometry.padded),
        "ms": whole / frames * 1e3,
        "fps": frames / whole,
        "compiled": compiled,
        "gflop": sum(gflop.values()),
        "stages": [stage for stage in stages if stage["ms"] >= 0.005],
    }


class _Run:
    """The frames of a film on the device, and a way through the networks and the decision."""

    def __init__(self, model: DvisModel, film: Path, options: SegmentOptions) -> None:
        source = open_video(film, options.selection)
        self.settings = settings_for(model, options)
        self.views = views_for(model, options, source.info)
        self.model, self.norm = model, (model.config.input.mean, model.config.input.std)
        self.frames = [self._ready(frame.rgb) for frame in source]
        self.first = self.frames[: self.settings.batch]

    def _ready(self, rgb: Any) -> list[Tensor]:
        inputs = preprocess_views(rgb, self.views, *self.norm, self.model.device)
        return [one.to(self.model.device) for one in inputs]

    def add(self, frames: Sequence[list[Tensor]]) -> Scales:
        """Through the networks, as one horizon at the most."""
        scales, batch = Scales(self.model, self.views, self.settings), self.settings.batch
        for begin in range(0, len(frames), batch):
            scales.add(frames[begin : begin + batch])
        scales.tubes()
        return scales

    def warm_up(self) -> None:
        """Have kernels chosen and memory taken, where that happens at the first time."""
        if self.model.device.type != "cpu" or self.model.compiled:
            self.add(self.first * 6).close()

    @torch.inference_mode()
    def seconds(self, wait: Any, watch: Stopwatch | None = None) -> float:
        """Of the networks on all frames; with a stopwatch the decision comes after and is one of its stages."""
        wait()
        began = time.perf_counter()
        scales = self.add(self.frames)
        wait()
        spent = time.perf_counter() - began
        if watch is not None:
            task = task_for(self.model, self.settings, self.views[0].geometry.output)
            decision = task.decide(scales.tubes())
            for index in range(len(self.frames)):
                with watch.stage("decision"):
                    decision.frame(index)
        scales.close()
        return spent


@contextmanager
def _staged(model: DvisModel, watch: Stopwatch) -> Iterator[None]:
    """The model's parts as stages."""
    segmenter = model.segmenter
    parts: list[tuple[Any, str, str]]
    if isinstance(segmenter, VideoMT):
        parts = [
            (segmenter, "trunk", "blocks without queries"),
            (segmenter, "with_queries", "blocks with queries"),
            (segmenter, "read_out", "heads, upscaling"),
        ]
    else:
        parts = [
            (segmenter.backbone, "forward", "backbone"),
            (segmenter.pixel_decoder, "forward", "pixel decoder"),
            (segmenter.query_decoder, "forward", "query decoder"),
        ]
    for part, name in ((model.tracker, "tracker"), (model.refiner, "refiner")):
        if part is not None:
            parts.append((part, "forward", name))
    with replaced(*((owner, name, watch.wrap(stage, getattr(owner, name))) for owner, name, stage in parts)):
        yield
