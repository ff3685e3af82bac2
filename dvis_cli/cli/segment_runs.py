"""What `dvis segment` does once its options are read: some videos, or a split of a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvis_cli.errors import DvisError, UsageError

from .console import Progress, Reporter, print_json

if TYPE_CHECKING:
    from dvis_cli.model import DvisModel
    from dvis_cli.split_run import SplitReport
    from dvis_cli.video import Selection
    from dvis_cli.writers.video_folder import Outputs


@dataclass(frozen=True)
class Request:
    """How to segment, as the options say; what to segment comes apart."""

    out: Path
    model: str | None
    config: Path | None
    mode: Any
    device: str
    precision: Any
    threads: int | None
    short_side: int | None
    window: int
    horizon: int | None
    memory_budget: int | None
    score_threshold: float | None
    overlap_threshold: float | None

    def check(self) -> None:
        """Refuse values out of range before the weights are read."""
        for option, value in (("--short-side", self.short_side), ("--threads", self.threads)):
            if value is not None and value < 1:
                raise UsageError(f"{option} {value} must be at least 1")
        from dvis_cli.pipeline import check_settings

        check_settings(self.window, self.horizon, self.score_threshold, self.overlap_threshold)

    def options(self) -> dict[str, Any]:
        """For `segment_video`."""
        names = (
            "mode",
            "short_side",
            "window",
            "horizon",
            "memory_budget",
            "score_threshold",
            "overlap_threshold",
        )
        return {name: getattr(self, name) for name in names}

    def load(self, reporter: Reporter) -> DvisModel:
        """Load the model; an untrained one is announced."""
        import torch

        from dvis_cli.allocator import keep_freed_memory
        from dvis_cli.loading import load_model

        keep_freed_memory()
        if self.threads:
            torch.set_num_threads(self.threads)
        network = load_model(
            self.model, config=self.config, mode=self.mode, device=self.device, precision=self.precision
        )
        if network.weights is None:
            reporter.warn(
                f"model {network.config.name!r} is untrained: the files have the right form, the segments mean "
                "nothing; use a trained checkpoint with --model FILE"
            )
        return network


def run_videos(
    request: Request,
    reporter: Reporter,
    sources: list[Path],
    selection: Selection,
    folder_fps: float,
    outputs: Outputs,
    overwrite: bool,
    json_output: bool,
) -> None:
    """Segment sources one after the other; one that fails does not stop the others."""
    targets = _targets(sources, request.out)
    request.check()
    if len(sources) == 1:
        # Whatever can be refused at once is refused before seconds go into loading weights.
        from dvis_cli.video import open_video
        from dvis_cli.writers.folder import check_target

        open_video(sources[0], selection, folder_fps=folder_fps)
        check_target(targets[0], overwrite)
    network = request.load(reporter)
    options = {
        **request.options(),
        "selection": selection,
        "folder_fps": folder_fps,
        "outputs": outputs,
        "overwrite": overwrite,
    }
    results, failures = [], []
    for source in sources:
        try:
            results.append(_one_video(reporter, source, request.out, network, options))
        except DvisError as error:
            if len(sources) == 1:
                raise
            failures.append({"source": str(source), "error": str(error)})
            reporter.warn(f"{source}: {error}")
    if json_output:
        print_json({"videos": results, "failed": failures})
    if failures:
        raise DvisError(f"{len(failures)} of {len(sources)} videos failed, the first: {failures[0]['error']}")


def _targets(sources: list[Path], out: Path) -> list[Path]:
    """Where each source goes; two that would go to one place are refused before any work."""
    from dvis_cli.writers.folder import safe_name

    places: dict[str, Path] = {}
    for source in sources:
        resolved = source if source.name not in ("", ".", "..") else source.resolve()
        name = safe_name(resolved.name if resolved.is_dir() else resolved.stem)
        if name in places:
            raise UsageError(
                f"{places[name]} and {source} would both be written to {out / name}; segment them into two "
                "folders"
            )
        places[name] = source
    return [out / name for name in places]


def _one_video(
    reporter: Reporter, source: Path, out: Path, network: DvisModel, options: dict[str, Any]
) -> dict[str, Any]:
    """Segment one source; returns what `--json` says of it."""
    from dvis_cli.pipeline import save_video
    from dvis_cli.video import open_video
    from dvis_cli.writers.folder import safe_name

    started = time.monotonic()
    total = open_video(source, options["selection"], folder_fps=options["folder_fps"]).info.frames
    with reporter.warnings_as_lines(), reporter.progress(source.name, total) as bar:
        document = save_video(source, out, network, on_progress=_shown_on(bar), **options)
    seconds = time.monotonic() - started
    frames = document["source"]["frames"]
    target = out / safe_name(document["source"]["name"])
    reporter.say(
        f"{target}: {frames} frames, {len(document['segments'])} segments, {seconds:.1f} s "
        f"({frames / max(seconds, 1e-6):.2f} frames/s)"
    )
    return {
        "source": str(source),
        "output": str(target),
        "frames": frames,
        "seconds": round(seconds, 3),
        "segments": [
            {key: one[key] for key in ("id", "category_id", "category", "isthing", "score")}
            for one in document["segments"]
        ],
    }


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
            dataset, request.out, network, on_video=on_video, on_progress=on_progress, **request.options()
        )
    if json_output:
        print_json({
            "output": str(request.out),
            "done": report.done,
            "skipped": report.skipped,
            "failed": report.failed,
            "frames": report.frames,
            "pred_json": str(report.pred_json) if report.pred_json else None,
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
