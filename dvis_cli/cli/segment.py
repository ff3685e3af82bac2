"""`dvis segment`: videos in, panoptic maps, segments and overlay videos out."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dvis_cli.errors import DvisError, UsageError

from .console import Reporter, print_json
from .units import parse_bytes, parse_seconds

if TYPE_CHECKING:
    from dvis_cli.model import DvisModel


class ModeChoice(str, Enum):
    """Which parts of the model are used."""

    minvis = "minvis"
    online = "online"
    offline = "offline"


class TaskChoice(str, Enum):
    """What is made of the model's output."""

    panoptic = "panoptic"


class PrecisionChoice(str, Enum):
    """Number format of the segmenter."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class OverlayChoice(str, Enum):
    """What the overlay video shows."""

    blend = "blend"
    side_by_side = "side-by-side"
    masks = "masks"
    none = "none"


def segment(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Video files, or folders of images.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Each video gets a folder of its name in here.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="NAME|FILE", help="A name from 'dvis models', or a weight file."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="YAML", help="The model's configuration: ours, or the official code's as it is."
        ),
    ] = None,
    mode: Annotated[
        ModeChoice | None,
        typer.Option(
            help="offline refines tracks with the whole clip in view. Default: all the model can do."
        ),
    ] = None,
    task: Annotated[
        TaskChoice, typer.Option(help="What to make of the model's output.")
    ] = TaskChoice.panoptic,
    short_side: Annotated[
        int | None, typer.Option(help="Pixels of the short side in the network. Default: the model's own.")
    ] = None,
    start: Annotated[str | None, typer.Option(metavar="TIME", help="Begin here: seconds, or M:SS.")] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="Stop before this time.")] = None,
    stride: Annotated[int, typer.Option(help="Take every N-th frame.")] = 1,
    max_frames: Annotated[int | None, typer.Option(help="Stop after this many frames.")] = None,
    folder_fps: Annotated[float, typer.Option(help="Frame rate of an image folder.")] = 25.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[
        PrecisionChoice, typer.Option(help="fp32 is exact, bf16 faster; auto is bf16 where a GPU has it.")
    ] = PrecisionChoice.auto,
    window: Annotated[int, typer.Option(help="Frames that the refiner sees at once.")] = 300,
    horizon: Annotated[
        int | None,
        typer.Option(
            help="Frames whose classes are decided together. Default: 300, or the window if longer."
        ),
    ] = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Waiting data in RAM, e.g. 2GB; more goes to a temporary file."),
    ] = None,
    score_threshold: Annotated[
        float | None, typer.Option(help="Drop objects less certain than this. Usually 0.8.")
    ] = None,
    overlap_threshold: Annotated[
        float | None,
        typer.Option(help="Drop objects less visible than this share of their mask. Usually 0.8."),
    ] = None,
    overlay: Annotated[OverlayChoice, typer.Option(help="The overlay video's style.")] = OverlayChoice.blend,
    panoptic: Annotated[bool, typer.Option(help="Write the PNG maps.")] = True,
    segments: Annotated[bool, typer.Option(help="Write segments.json.")] = True,
    overwrite: Annotated[bool, typer.Option(help="Replace earlier results. Default: refuse.")] = False,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of the network. Default: all cores.")
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print a summary of the results as JSON.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Turn videos into panoptic videos.

    For clip.mp4 it writes OUT/clip/ with panoptic/000000.png ... (id = R + 256 G + 65536 B), segments.json and
    overlay.mp4.
    """
    reporter = Reporter(quiet)
    targets = _targets(sources, out)
    from dvis_cli.allocator import keep_freed_memory

    keep_freed_memory()
    # Whatever can be refused at once is refused before seconds go into loading torch and weights.
    from dvis_cli.video import Selection, open_video
    from dvis_cli.writers.folder import check_target
    from dvis_cli.writers.video_folder import Outputs

    selection = Selection(
        start=parse_seconds(start, "--start"),
        end=parse_seconds(end, "--end"),
        stride=stride,
        max_frames=max_frames,
    )
    outputs = Outputs(panoptic, segments, None if overlay is OverlayChoice.none else overlay.value)
    if not (panoptic or segments or outputs.overlay):
        raise UsageError("nothing to write: --no-panoptic, --no-segments and --overlay none leave no output")
    if len(sources) == 1:
        open_video(sources[0], selection, folder_fps=folder_fps)
        check_target(targets[0], overwrite)
    budget = parse_bytes(memory_budget, "--memory-budget")
    _check_numbers(short_side, threads, window, horizon, score_threshold, overlap_threshold)
    network = _load(reporter, model, config, mode, device, precision, threads)
    options = {
        "mode": mode.value if mode else None,
        "short_side": short_side,
        "selection": selection,
        "folder_fps": folder_fps,
        "window": window,
        "horizon": horizon,
        "memory_budget": budget,
        "score_threshold": score_threshold,
        "overlap_threshold": overlap_threshold,
        "outputs": outputs,
        "overwrite": overwrite,
    }
    results, failures = [], []
    for source in sources:
        try:
            results.append(_one(reporter, source, out, network, options))
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
    places: dict[str, Path] = {}
    for source in sources:
        resolved = source if source.name not in ("", ".", "..") else source.resolve()
        name = resolved.name if resolved.is_dir() else resolved.stem
        if name in places:
            raise UsageError(
                f"{places[name]} and {source} would both be written to {out / name}; segment them into two "
                "folders"
            )
        places[name] = source
    return [out / name for name in places]


def _check_numbers(
    short_side: int | None,
    threads: int | None,
    window: int,
    horizon: int | None,
    score_threshold: float | None,
    overlap_threshold: float | None,
) -> None:
    """Refuse values out of range before the weights are read."""
    for option, value in (("--short-side", short_side), ("--threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"{option} {value} must be at least 1")
    from dvis_cli.pipeline import check_settings

    check_settings(window, horizon, score_threshold, overlap_threshold)


def _load(
    reporter: Reporter,
    model: str | None,
    config: Path | None,
    mode: ModeChoice | None,
    device: str,
    precision: PrecisionChoice,
    threads: int | None,
) -> DvisModel:
    import torch

    from dvis_cli.loading import load_model

    if threads:
        torch.set_num_threads(threads)
    network = load_model(
        model,
        config=config,
        mode=mode.value if mode else None,
        device=device,
        precision=precision.value,
    )
    if network.weights is None:
        reporter.warn(
            f"model {network.config.name!r} is untrained: the files have the right form, the segments mean "
            "nothing; use a trained checkpoint with --model FILE"
        )
    return network


def _one(
    reporter: Reporter, source: Path, out: Path, network: DvisModel, options: dict[str, Any]
) -> dict[str, Any]:
    """Segment one source; returns what `--json` says of it."""
    import time

    from dvis_cli.pipeline import save_video
    from dvis_cli.video import open_video

    started = time.monotonic()
    total = open_video(source, options["selection"], folder_fps=options["folder_fps"]).info.frames
    with reporter.warnings_as_lines(), reporter.progress(source.name, total) as bar:
        seen = {"network": 0}

        def on_progress(stage: str, frames: int) -> None:
            seen[stage] = frames
            bar.update(seen["network"], stage if stage == "network" else f"{stage} {frames}")

        document = save_video(source, out, network, on_progress=on_progress, **options)
    seconds = time.monotonic() - started
    frames = document["source"]["frames"]
    target = out / document["source"]["name"]
    count = len(document["segments"])
    reporter.say(
        f"{target}: {frames} frames, {count} segments, {seconds:.1f} s ({frames / max(seconds, 1e-6):.2f} frames/s)"
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
