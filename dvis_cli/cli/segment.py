"""`dvis segment`: videos in, panoptic maps, segments and overlay videos out."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dvis_cli.errors import UsageError

from .console import Reporter
from .units import parse_bytes, parse_seconds, parse_short_sides


class ModeChoice(str, Enum):
    """Which parts of the model are used."""

    minvis = "minvis"
    online = "online"
    offline = "offline"


class TaskChoice(str, Enum):
    """What is made of the model's output."""

    panoptic = "panoptic"
    instance = "instance"
    semantic = "semantic"


class PrecisionChoice(str, Enum):
    """Number format of the segmenter."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class EngineChoice(str, Enum):
    """Who works on many videos."""

    local = "local"
    ray = "ray"


class OverlayChoice(str, Enum):
    """What the overlay video shows."""

    blend = "blend"
    side_by_side = "side-by-side"
    masks = "masks"
    none = "none"


BATCH = "Many videos"


def segment(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...",
            help="Video files, folders of images; or folders of videos, patterns, lists (.txt), addresses.",
            show_default=False,
        ),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Segment the street scene that comes with dvis.")
    ] = False,
    out: Annotated[
        str, typer.Option("--out", "-o", help="Each video gets a folder of its name in here.")
    ] = "out",
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
        TaskChoice, typer.Option(help="Objects and stuff, objects with masks that overlap, or classes only.")
    ] = TaskChoice.panoptic,
    short_side: Annotated[
        int | None, typer.Option(help="Pixels of the short side in the network. Default: the model's own.")
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Several short sides, e.g. 720,800, whose results are fused."),
    ] = None,
    tta: Annotated[
        bool,
        typer.Option("--tta", help="The report's two scales: the short side and 10/9 of it, 720 and 800."),
    ] = False,
    flip: Annotated[bool, typer.Option("--flip", help="Fuse with every scale mirrored, too.")] = False,
    start: Annotated[str | None, typer.Option(metavar="TIME", help="Begin here: seconds, or M:SS.")] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="Stop before this time.")] = None,
    stride: Annotated[int, typer.Option(help="Take every N-th frame.")] = 1,
    max_frames: Annotated[int | None, typer.Option(help="Stop after this many frames.")] = None,
    folder_fps: Annotated[float, typer.Option(help="Frame rate of an image folder.")] = 25.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[
        PrecisionChoice, typer.Option(help="fp32 is exact, bf16 faster; auto is bf16 where a GPU has it.")
    ] = PrecisionChoice.auto,
    window: Annotated[
        int | None, typer.Option(help="Frames that the refiner sees at once. Default: the model's own.")
    ] = None,
    horizon: Annotated[
        int | None,
        typer.Option(
            help="Frames whose classes are decided together. Default: the model's own, or the window."
        ),
    ] = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Waiting data in RAM, e.g. 2GB; more goes to a temporary file."),
    ] = None,
    score_threshold: Annotated[
        float | None, typer.Option(help="Drop objects less certain than this. Usually 0.8; instances: 0.")
    ] = None,
    overlap_threshold: Annotated[
        float | None,
        typer.Option(help="Drop objects less visible than this share of their mask. Usually 0.8."),
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Instances to keep: the likeliest. Default: 20.")] = None,
    overlay: Annotated[OverlayChoice, typer.Option(help="The overlay video's style.")] = OverlayChoice.blend,
    panoptic: Annotated[
        bool,
        typer.Option(
            "--maps/--no-maps",
            "--panoptic/--no-panoptic",
            help="Write the PNG maps; of instances, the masks.",
        ),
    ] = True,
    segments: Annotated[bool, typer.Option(help="Write segments.json.")] = True,
    overwrite: Annotated[bool, typer.Option(help="Replace earlier results. Default: refuse.")] = False,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of the network. Default: all cores.")
    ] = None,
    engine: Annotated[
        EngineChoice, typer.Option(help="Who works on many videos.", rich_help_panel=BATCH)
    ] = EngineChoice.local,
    jobs: Annotated[
        int | None,
        typer.Option(help="Workers, one model each. Default: one a GPU, or one.", rich_help_panel=BATCH),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Only these files of folders; repeat.", rich_help_panel=BATCH),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Not these files of folders; repeat.", rich_help_panel=BATCH),
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Try again what failed in an earlier run.", rich_help_panel=BATCH
        ),
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first failure.", rich_help_panel=BATCH)
    ] = False,
    max_failures: Annotated[
        int | None, typer.Option(help="Stop after this many failed videos.", rich_help_panel=BATCH)
    ] = None,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="A fixed order without meaning.", rich_help_panel=BATCH)
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only part I of N, for schedulers.", rich_help_panel=BATCH),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on looking for new videos.", rich_help_panel=BATCH)
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A running Ray cluster, or 'auto'.", rich_help_panel=BATCH),
    ] = None,
    ray_cpus: Annotated[
        float, typer.Option(help="CPUs that Ray reserves for a worker.", rich_help_panel=BATCH)
    ] = 1.0,
    ray_gpus: Annotated[
        float | None, typer.Option(help="GPUs that Ray reserves for a worker.", rich_help_panel=BATCH)
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print a summary as JSON; of many videos, one line an event.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Turn videos into panoptic videos, or into instances (--task instance) or classes (--task semantic).

    For clip.mp4 it writes OUT/clip/ with panoptic/000000.png ... (id = R + 256 G + 65536 B), segments.json and
    overlay.mp4. With --dataset, OUT becomes a submission: pan_pred/ and pred.json; run again to resume.
    """
    reporter = Reporter(quiet)
    from .segment_runs import Request, run_many, run_split, run_video

    request = Request(
        out=out,
        model=model,
        config=config,
        mode=mode.value if mode else None,
        task=task.value,
        device=device,
        precision=precision.value,
        threads=threads,
        short_side=short_side,
        scales=parse_short_sides(scales, "--scales"),
        tta=tta,
        flip=flip,
        window=window,
        horizon=horizon,
        memory_budget=parse_bytes(memory_budget, "--memory-budget"),
        score_threshold=score_threshold,
        overlap_threshold=overlap_threshold,
        top_k=top_k,
    )
    given = [
        *(sources or [])[:1],
        *(["--demo"] if demo else []),
        *([f"--dataset {dataset}"] if dataset else []),
    ]
    if len(given) > 1:
        raise UsageError(f"both {given[0]} and {given[1]} were given: choose one")
    if dataset is not None:
        run_split(request, reporter, dataset, split, json_output)
        return
    if demo:
        from dvis_cli.checkpoints.registry import demo_video

        sources = [str(demo_video())]
    if not sources:
        raise UsageError(
            "nothing to segment: name a SOURCE (a video, a folder, a pattern) or --dataset DIR, or try --demo"
        )
    from dvis_cli.batch import BatchOptions, means_batch, parse_shard
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
        raise UsageError("nothing to write: --no-maps, --no-segments and --overlay none leave no output")
    what = {"selection": selection, "folder_fps": folder_fps, "outputs": outputs, "overwrite": overwrite}
    many = BatchOptions(
        engine=engine.value,
        jobs=jobs,
        threads=threads,
        ray_address=ray_address,
        ray_cpus=ray_cpus,
        ray_gpus=ray_gpus,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        retry_failed=retry_failed,
        max_failures=1 if fail_fast else max_failures,
        shuffle=shuffle,
        shard=parse_shard(shard),
        watch=watch,
    )
    if watch or means_batch(sources, out):
        raise typer.Exit(run_many(request, reporter, sources, what, many, json_output))
    if many != BatchOptions(threads=threads):
        raise UsageError(f"{sources[0]} is one video; --jobs, --engine, --shard and the like are for many")
    run_video(request, reporter, Path(sources[0]), what, json_output)
