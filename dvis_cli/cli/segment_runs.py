"""What `dvis segment` does once its options are read: a video, a live source, or a split of a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dvis_cli.errors import DvisError, UsageError

from .console import Progress, Reporter, print_json

if TYPE_CHECKING:
    from dvis_cli.challenge.split import SplitReport
    from dvis_cli.run.model import DvisModel
    from dvis_cli.run.options import LiveOptions, SegmentOptions

COMPILING = "compiling the network for this size, for a minute or more"
UNTRAINED = (
    "model {!r} is untrained: the files have the right form, the segments mean nothing; use a trained checkpoint with "
    "--model FILE"
)


def announce_default(reporter: Reporter, model: str | None) -> None:
    """One line on what the bundled model knows, where no model was named."""
    from dvis_cli.checkpoints.registry import DEFAULT_MODEL, default_model, known_model

    if model is None and default_model() == DEFAULT_MODEL:
        about = known_model(DEFAULT_MODEL).description
        reporter.say(f"model {DEFAULT_MODEL}: {about}; other classes and better masks: --model FILE")


def load(reporter: Reporter, options: SegmentOptions) -> DvisModel:
    """Load the model; an untrained one is announced."""
    from dvis_cli.run.loading import load_for
    from dvis_cli.run.placement import prepare_process

    announce_default(reporter, options.model)
    prepare_process(options.threads)
    with reporter.warnings_as_lines():
        network = load_for(options)
    if network.weights is None:
        reporter.warn(UNTRAINED.format(network.config.name))
    return network


def run_video(reporter: Reporter, source: Path, out: str, options: SegmentOptions, json_output: bool) -> None:
    """Segment one source."""
    from dvis_cli.run.saving import save_video
    from dvis_cli.video import open_video
    from dvis_cli.writers.folder import check_target, safe_name

    # Whatever can be refused at once is refused before seconds go into loading weights.
    info = open_video(source, options.selection, folder_fps=options.folder_fps).info
    target = Path(out) / safe_name(info.name)
    check_target(target, options.overwrite)
    network = load(reporter, options)
    started = time.monotonic()
    with reporter.warnings_as_lines(), reporter.progress(source.name, info.frames) as bar:
        document = save_video(source, out, network, options, on_progress=_shown_on(bar))
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
            "warnings": reporter.warned,
            "segments": [{key: one[key] for key in keys} for one in document["segments"]],
        })  # fmt: skip


def run_live(
    reporter: Reporter, source: str, out: str, options: SegmentOptions, live: LiveOptions, json_output: bool
) -> None:
    """Segment a camera, a stream or a pipe until it ends or Ctrl-C."""
    from dvis_cli.run.live import check_live, save_live
    from dvis_cli.video.live import LiveSource

    if [out, live.jsonl, "-" if json_output else None].count("-") > 1:
        raise UsageError("-o -, --jsonl - and --json all write to standard output: take one of them")
    check_live(options)
    network = load(reporter, options)
    reporter.say(f"{source}: waiting for the first frame")
    opened = LiveSource(source, live.realtime, options.stride, options.max_frames, live.patience)
    info, kept = opened.info, "the newest frame only waits" if opened.realtime else "all frames are kept"
    reporter.say(
        f"{source}: {info.width}x{info.height}, {info.fps:.4g} frames/s; each frame is decided when it comes, without "
        f"looking ahead (delay: 0 frames and the time of one); {kept}; Ctrl-C ends"
    )
    with reporter.warnings_as_lines(), reporter.progress(source, None) as bar:
        document = save_live(
            opened,
            out,
            network,
            options,
            live,
            lambda frames, delay: bar.update(frames, f"delay {delay:.2f} s"),
            lambda stage, _: bar.begin(COMPILING) if stage == "compile" else None,
        )
    facts = document["live"]
    delay = facts["delay_seconds"] or {"mean": 0.0, "least": 0.0, "most": 0.0}
    reporter.say(
        f"{source}: {facts['frames']} frames, {facts['dropped']} dropped; delay {delay['mean']:.2f} s "
        f"({delay['least']:.2f} to {delay['most']:.2f} s)"
    )
    if json_output:
        print_json({
            "source": source,
            "output": out,
            **facts,
            "warnings": reporter.warned,
            "segments": document.get("segments", []),
        })  # fmt: skip


def _shown_on(bar: Progress) -> Callable[[str, int], None]:
    """Count the frames that are through the network; name how far the later stages are."""
    networked = 0

    def show(stage: str, frames: int) -> None:
        nonlocal networked
        if stage == "compile":
            return bar.begin(COMPILING)
        if stage == "network":
            networked = frames
        bar.update(networked, stage if stage == "network" else f"{stage} {frames}")

    return show


def run_split(
    reporter: Reporter, folder: Path, split: str, out: str, options: SegmentOptions, json_output: bool
) -> None:
    """Segment a split of a dataset into a submission folder; finished videos are skipped."""
    from dvis_cli.challenge.split import segment_split
    from dvis_cli.datasets.vipseg import VIPSeg

    dataset = VIPSeg.open(folder, split)
    network = load(reporter, options)
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
            if stage == "compile":
                bar.begin(COMPILING)
            elif stage == "network":
                bar.update(finished + frames)

        report = segment_split(
            dataset, Path(out), network, options, on_video=on_video, on_progress=on_progress
        )
    if json_output:
        print_json({
            "output": out,
            "done": report.done,
            "skipped": report.skipped,
            "failed": report.failed,
            "frames": report.frames,
            "pred_json": str(report.result) if report.result and options.task == "panoptic" else None,
            "result": str(report.result) if report.result else None,
        })  # fmt: skip
    reporter.say(
        f"{out}: {len(report.done)} videos done, {len(report.skipped)} were done before, "
        f"{len(report.failed)} failed"
    )
    if report.failed:
        name, why = next(iter(report.failed.items()))
        raise DvisError(
            f"{len(report.failed)} of {len(dataset.videos)} videos failed, the first: {name}: {why}"
        )
