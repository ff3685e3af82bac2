"""What `dvis segment` does once its options are read: a video, many videos, or a split of a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvis_cli.errors import DvisError, UsageError

from .console import Progress, Reporter, print_json

if TYPE_CHECKING:
    from dvis_cli.batch import BatchOptions
    from dvis_cli.model import DvisModel
    from dvis_cli.split_run import SplitReport


@dataclass(frozen=True)
class Request:
    """How to segment, as the options say; what to segment comes apart."""

    out: str
    model: str | None
    config: Path | None
    mode: Any
    task: Any
    device: str
    precision: Any
    threads: int | None
    short_side: int | None
    scales: tuple[int, ...] | None
    tta: bool
    flip: bool
    window: int | None
    horizon: int | None
    memory_budget: int | None
    score_threshold: float | None
    overlap_threshold: float | None
    top_k: int | None

    def check(self) -> None:
        """Refuse values out of range before the weights are read."""
        for option, value in (("--short-side", self.short_side), ("--threads", self.threads)):
            if value is not None and value < 1:
                raise UsageError(f"{option} {value} must be at least 1")
        from dvis_cli.pipeline import check_settings
        from dvis_cli.video.views import REPORT_PAIR, choose_scales

        choose_scales(REPORT_PAIR[0], self.short_side, self.scales, self.tta, self.flip)
        check_settings(
            self.window, self.horizon, self.score_threshold, self.overlap_threshold, self.task, self.top_k
        )

    def options(self) -> dict[str, Any]:
        """For `segment_video`."""
        names = (
            "mode",
            "task",
            "short_side",
            "scales",
            "tta",
            "flip",
            "window",
            "horizon",
            "memory_budget",
            "score_threshold",
            "overlap_threshold",
            "top_k",
        )
        return {name: getattr(self, name) for name in names}

    def announce_default(self, reporter: Reporter) -> None:
        """Say what the bundled model knows when it is used because none was asked for."""
        from dvis_cli.checkpoints.registry import DEFAULT_MODEL, default_model, known_model

        if self.model is None and default_model() == DEFAULT_MODEL:
            about = known_model(DEFAULT_MODEL).description
            reporter.say(f"model {DEFAULT_MODEL}: {about}; other classes and better masks: --model FILE")

    def load(self, reporter: Reporter) -> DvisModel:
        """Load the model; an untrained one is announced."""
        import torch

        from dvis_cli.allocator import keep_freed_memory
        from dvis_cli.loading import load_model

        self.announce_default(reporter)
        keep_freed_memory()
        if self.threads:
            torch.set_num_threads(self.threads)
        with reporter.warnings_as_lines():
            network = load_model(
                self.model, config=self.config, mode=self.mode, device=self.device, precision=self.precision
            )
        if network.weights is None:
            reporter.warn(
                f"model {network.config.name!r} is untrained: the files have the right form, the segments mean "
                "nothing; use a trained checkpoint with --model FILE"
            )
        return network


def run_video(
    request: Request, reporter: Reporter, source: Path, what: dict[str, Any], json_output: bool
) -> None:
    """Segment one source. `what`: selection, folder_fps, outputs and overwrite, as for `save_video`."""
    from dvis_cli.pipeline import save_video
    from dvis_cli.video import open_video
    from dvis_cli.writers.folder import check_target, safe_name

    request.check()
    # Whatever can be refused at once is refused before seconds go into loading weights.
    info = open_video(source, what["selection"], folder_fps=what["folder_fps"]).info
    target = Path(request.out) / safe_name(info.name)
    check_target(target, what["overwrite"])
    network = request.load(reporter)
    started = time.monotonic()
    with reporter.warnings_as_lines(), reporter.progress(source.name, info.frames) as bar:
        options = {**request.options(), **what}
        document = save_video(source, request.out, network, on_progress=_shown_on(bar), **options)
    seconds = time.monotonic() - started
    frames = document["source"]["frames"]
    reporter.say(
        f"{target}: {frames} frames, {len(document['segments'])} segments, {seconds:.1f} s "
        f"({frames / max(seconds, 1e-6):.2f} frames/s)"
    )
    if json_output:
        keys = ("id", "category_id", "category", "isthing", "score")
        print_json({
            "source": str(source),
            "output": str(target),
            "frames": frames,
            "seconds": round(seconds, 3),
            "segments": [{key: one[key] for key in keys} for one in document["segments"]],
        })  # fmt: skip


def run_many(
    request: Request,
    reporter: Reporter,
    sources: list[str],
    what: dict[str, Any],
    options: BatchOptions,
    json_output: bool,
) -> int:
    """Segment many sources with a manifest; returns the exit code."""
    from dvis_cli.batch import VideoSettings

    from .batch import segment_many

    request.check()
    request.announce_default(reporter)
    load = {name: getattr(request, name) for name in ("model", "config", "mode", "device", "precision")}
    save = {name: value for name, value in request.options().items() if name != "mode"}
    settings = VideoSettings(load=load, save={**save, **what})
    return segment_many(reporter, sources, request.out, settings, options, json_output)


def _shown_on(bar: Progress) -> Callable[[str, int], None]:
    """Count the frames that are through the network; say how far the later stages are."""
    networked = 0

    def show(stage: str, frames: int) -> None:
        nonlocal networked
        if stage == "network":
            networked = frames
        bar.update(networked, stage if stage == "network" else f"{stage} {frames}")

    return show


def run_split(request: Request, reporter: Reporter, folder: Path, split: str, json_output: bool) -> None:
    """Segment a split of a dataset into a submission folder; finished videos are skipped."""
    from dvis_cli.datasets.vipseg import VIPSeg
    from dvis_cli.split_run import segment_split

    request.check()
    dataset = VIPSeg.open(folder, split)
    network = request.load(reporter)
    total = sum(len(video.frames) for video in dataset.videos)
    frames_of = {video.video_id: len(video.frames) for video in dataset.videos}
    with reporter.warnings_as_lines(), reporter.progress(f"{folder.name} {split}", total) as bar:
        finished = 0

        def on_video(video_id: str, report: SplitReport) -> None:
            nonlocal finished
            finished += frames_of[video_id]
            bar.update(finished, f"{len(report.done) + len(report.skipped)} of {len(dataset.videos)} videos")
            if video_id in report.failed:
                reporter.warn(f"{video_id}: {report.failed[video_id]}")

        def on_progress(stage: str, frames: int) -> None:
            if stage == "network":
                bar.update(finished + frames)

        report = segment_split(
            dataset,
            Path(request.out),
            network,
            on_video=on_video,
            on_progress=on_progress,
            **request.options(),
        )
    if json_output:
        print_json({
            "output": request.out,
            "done": report.done,
            "skipped": report.skipped,
            "failed": report.failed,
            "frames": report.frames,
            "pred_json": str(report.result) if report.result and request.task == "panoptic" else None,
            "result": str(report.result) if report.result else None,
        })  # fmt: skip
    reporter.say(
        f"{request.out}: {len(report.done)} videos done, {len(report.skipped)} were done before, "
        f"{len(report.failed)} failed"
    )
    if report.failed:
        name, why = next(iter(report.failed.items()))
        raise DvisError(
            f"{len(report.failed)} of {len(dataset.videos)} videos failed, the first: {name}: {why}"
        )
