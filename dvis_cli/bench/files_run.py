"""From file to files: what `dvis segment` does, with a clock at every station of every thread."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dvis_cli.run import state, video
from dvis_cli.run.features import Features
from dvis_cli.run.model import DvisModel
from dvis_cli.run.options import SegmentOptions
from dvis_cli.run.saving import save_video
from dvis_cli.run.spool import WaitingFrames
from dvis_cli.tasks.instance import InstanceDecision
from dvis_cli.tasks.panoptic import PanopticDecision
from dvis_cli.tasks.semantic import SemanticDecision
from dvis_cli.threads import ahead
from dvis_cli.video.image_files import ImageFiles
from dvis_cli.video.video_file import VideoFile
from dvis_cli.writers.frame_files import FrameFiles, InstanceFiles, SemanticFiles
from dvis_cli.writers.overlay_video import OverlayVideo
from dvis_cli.writers.segments_json import SegmentStatistics
from dvis_cli.writers.video_folder import VideoFolderWriter

from .machine import device_use, peak_memory, resident_bytes, slope
from .stopwatch import Stopwatch, replaced

TRACED = 24  # frames under the profiler
NETWORK = ("segmenter", "tracker", "refiner")
WAITING = ("wait for frames", "wait for writers")
# Whose method is which stage.
STATIONS: tuple[tuple[Any, str, str], ...] = (
    (video, "preprocess_views", "resize"),
    (DvisModel, "segment", "segmenter"),
    (state.QueryState, "add", "tracker"),
    (state.QueryState, "_refine", "refiner"),
    (Features, "put", "features wait"),
    (Features, "get", "features come back"),
    (WaitingFrames, "add", "frames wait"),
    *((kind, "frame", "decision") for kind in (PanopticDecision, InstanceDecision, SemanticDecision)),
    *((kind, "finish", "ids") for kind in (PanopticDecision, InstanceDecision, SemanticDecision)),
    *((kind, "add", "maps") for kind in (FrameFiles, SemanticFiles, InstanceFiles)),
    (SegmentStatistics, "add", "areas"),
    (OverlayVideo, "draw", "draw"),
    (OverlayVideo, "encode", "encode"),
    (VideoFolderWriter, "add", "wait for writers"),
    (VideoFolderWriter, "finish", "close files"),
)


def measure_files(model: DvisModel, film: Path, options: SegmentOptions) -> dict[str, Any]:
    """Segment a film into a temporary folder."""
    watch, resident = Stopwatch(), []

    def on_progress(stage: str, frames: int) -> None:
        if stage == "files":
            resident.append(resident_bytes())

    began = time.perf_counter()
    with _stations(watch), tempfile.TemporaryDirectory(prefix="dvis-bench-") as folder:
        document = save_video(film, folder, model, options, name="result", on_progress=on_progress)
    seconds, frames = time.perf_counter() - began, len(resident)
    own = threading.current_thread().name
    network = sum(watch.seconds[own, name] for name in NETWORK if (own, name) in watch.seconds)
    rows: list[dict[str, Any]] = [
        {"thread": _named(thread, own), "stage": stage, "ms": spent / frames * 1e3}
        for (thread, stage), spent in sorted(
            watch.seconds.items(), key=lambda row: (row[0][0] != own, -row[1])
        )
    ]
    counted = sum(row["ms"] for row in rows if row["thread"] == "main") / 1e3 * frames
    rows.append(
        {"thread": "main", "stage": "everything else", "ms": max(0.0, seconds - counted) / frames * 1e3}
    )
    return {
        "frames": frames,
        "seconds": seconds,
        "fps": frames / seconds,
        "outside_network": 1 - network / seconds,
        "encoder": document.get("encoder"),
        "stages": [row for row in rows if row["ms"] >= 0.005],
        "memory": {**peak_memory(model.device), "slope_a_frame": slope(resident)},
    }


def trace_files(model: DvisModel, film: Path, options: SegmentOptions) -> dict[str, float] | None:
    """How busy a GPU is, and what crosses to and from it, over some frames; None without one."""
    if model.device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    options = replace(options, max_frames=min(TRACED, options.max_frames or TRACED))
    with tempfile.TemporaryDirectory(prefix="dvis-bench-") as folder:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            document = save_video(film, Path(folder), model, options, name="result")
            torch.cuda.synchronize(model.device)
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    return device_use(events, document["source"]["frames"])


@contextmanager
def _stations(watch: Stopwatch) -> Iterator[None]:
    changes = [
        (owner, name, watch.wrap(stage, vars(owner)[name]))
        for owner, name, stage in STATIONS
        if name in vars(owner)
    ]
    for kind in (VideoFile, ImageFiles):
        frames = kind.__iter__
        changes.append(
            (kind, "__iter__", lambda source, frames=frames: watch.iterate("decode", frames(source)))
        )

    def waited(*arguments: Any) -> Iterator[Any]:
        items = ahead(*arguments)
        try:
            yield from watch.iterate("wait for frames", items)
        finally:
            items.close()  # type: ignore[attr-defined]

    with replaced(*changes, (video, "ahead", waited)):
        yield


def _named(thread: str, own: str) -> str:
    return "main" if thread == own else thread.removeprefix("dvis-").removesuffix("_0")
