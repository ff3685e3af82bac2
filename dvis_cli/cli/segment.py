"""`dvis segment`: videos in, panoptic maps, segments and overlay videos out."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dvis_cli.errors import UsageError

from .console import Reporter
from .units import parse_bytes, parse_seconds


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
        list[Path] | None,
        typer.Argument(metavar="SOURCE...", help="Video files, or folders of images.", show_default=False),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Each video gets a folder of its name in here.")
    ] = Path("out"),
    dataset: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Segment a split of this VIPSeg_720P folder instead of SOURCE."),
    ] = None,
    split: Annotated[str, typer.Option(help="The split of --dataset.")] = "val",
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
    overlay.mp4. With --dataset, OUT becomes a submission: pan_pred/ and pred.json; run again to resume.
    """
    reporter = Reporter(quiet)
    from .segment_runs import Request, run_split, run_videos

    request = Request(
        out=out,
        model=model,
        config=config,
        mode=mode.value if mode else None,
        device=device,
        precision=precision.value,
        threads=threads,
        short_side=short_side,
        window=window,
        horizon=horizon,
        memory_budget=parse_bytes(memory_budget, "--memory-budget"),
        score_threshold=score_threshold,
        overlap_threshold=overlap_threshold,
    )
    if dataset is not None:
        if sources:
            raise UsageError(f"both --dataset {dataset} and {sources[0]} were given: choose one")
        run_split(request, reporter, dataset, split, json_output)
        return
    if not sources:
        raise UsageError(
            "nothing to segment: name a SOURCE (a video file or a folder of images) or --dataset DIR"
        )
    from dvis_cli.video import Selection
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
    run_videos(request, reporter, sources, selection, folder_fps, outputs, overwrite, json_output)
