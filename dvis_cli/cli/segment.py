"""`dvis segment`: videos in, panoptic maps, segments and overlay videos out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dvis_cli.batch.options import BatchOptions
from dvis_cli.errors import UsageError
from dvis_cli.run.options import LiveOptions, SegmentOptions

from .console import Reporter
from .options import with_options
from .weights import make_ready


@with_options
def segment(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...",
            help="Video files, folders of images; or folders of videos, patterns, lists (.txt), addresses. "
            "Or one camera (0), stream (rtsp://, udp://, ...) or pipe (-).",
            show_default=False,
        ),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Segment the street scene that comes with dvis.")
    ] = False,
    out: Annotated[
        str,
        typer.Option("--out", "-o", help="Each video gets a folder of its name in here; - (live) is stdout."),
    ] = "out",
    dataset: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Segment a split of this VIPSeg_720P folder instead of SOURCE."),
    ] = None,
    split: Annotated[str, typer.Option(help="The split of --dataset.")] = "val",
    *,
    options: SegmentOptions,
    batch: BatchOptions,
    live: LiveOptions,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print a summary as JSON; of many videos, one line an event.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Fetch the model without asking, if it is not here yet.")
    ] = False,
) -> None:
    """Turn videos into panoptic videos, or into instances (--task instance) or classes (--task semantic).

    For clip.mp4 it writes OUT/clip/ with panoptic/000000.png ... (id = R + 256 G + 65536 B), segments.json and
    overlay.mp4. With --dataset, OUT becomes a submission: pan_pred/ and pred.json; run again to resume.
    """
    from .segment_runs import announce_default, check_split, run_live, run_split, run_video

    reporter = Reporter(quiet)
    if "" in (out, *(sources or [])):
        raise UsageError(
            "a SOURCE or --out is empty: is a variable of the shell not set? The folder you are in is ."
        )
    _refuse_two_inputs(sources, demo, dataset)
    if sources or demo or dataset is not None:
        make_ready(options.model, reporter, yes)
    if dataset is not None:
        if options.format is not None:
            raise UsageError("--format is for videos; of --dataset, export the results: dvis export FORMAT")
        if batch != BatchOptions() or live != LiveOptions():
            raise UsageError("--dataset is one run: --jobs, --watch, --display and the like are not for it")
        check_split(options)
        run_split(reporter, dataset, split, out, options, json_output)
        return
    if demo:
        from dvis_cli.checkpoints.registry import demo_video

        sources = [str(demo_video())]
    if not sources:
        raise UsageError(
            "nothing to segment: name a SOURCE (a video, a folder, a pattern) or --dataset DIR, or try --demo"
        )
    if _means_live(sources, batch, live):
        run_live(reporter, sources[0], out, options, live, json_output)
        return
    if out == "-":
        raise UsageError(f"-o - is for live sources: cat {sources[0]} | dvis segment - -o -")
    from dvis_cli.batch import means_batch
    from dvis_cli.batch.output import local_path

    if batch.watch or means_batch(sources, out):
        from .batch import segment_many

        announce_default(reporter, options.model)
        raise typer.Exit(segment_many(reporter, sources, out, options, batch, json_output))
    if batch != BatchOptions():
        raise UsageError(f"{sources[0]} is one video; --jobs, --engine, --shard and the like are for many")
    source, folder = local_path(sources[0]), local_path(out)  # also of file://
    assert source is not None and folder is not None
    run_video(reporter, source, str(folder), options, json_output)


def _means_live(sources: list[str], batch: BatchOptions, live: LiveOptions) -> bool:
    """Whether the one source is a camera, a stream or a pipe; options for these are refused with anything else."""
    from dvis_cli.video.names import is_live

    found = [source for source in sources if is_live(source)]
    if found and (len(sources) > 1 or batch != BatchOptions()):
        raise UsageError(f"{found[0]} is live: it comes alone, without other sources and options for many")
    if not found and live != LiveOptions():
        raise UsageError(f"{sources[0]} is no camera, stream or pipe: leave the options for these out")
    return bool(found)


def _refuse_two_inputs(sources: list[str] | None, demo: bool, dataset: Path | None) -> None:
    given = [
        *(sources or [])[:1],
        *(["--demo"] if demo else []),
        *([f"--dataset {dataset}"] if dataset else []),
    ]
    if len(given) > 1:
        raise UsageError(f"both {given[0]} and {given[1]} were given: choose one")
