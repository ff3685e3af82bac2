"""`dvis dataset`: VIPSeg prepared and described, synthetic scenes made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dvis_cli.run.units import parse_size

from .console import Reporter, print_json
from .options import Json, Quiet, Workers

if TYPE_CHECKING:
    from dvis_cli.datasets.prepare import VideoReport

app = typer.Typer(help="Datasets: prepare and describe them.", no_args_is_help=True)


@app.command("prepare-vipseg")
def prepare_vipseg(
    raw: Annotated[Path, typer.Argument(help="Raw VIPSeg: imgs/, panomasks/, train.txt, val.txt, test.txt.")],
    out: Annotated[Path, typer.Argument(help="Folder for the 720P layout; finished videos in it are kept.")],
    split: Annotated[
        list[str] | None, typer.Option("--split", help="Only this split; repeat for more. Default: all.")
    ] = None,
    workers: Workers = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make the 720P layout and its json from raw VIPSeg, like the official one. Run again to resume."""
    from dvis_cli.datasets import prepare
    from dvis_cli.files import usable_cores

    reporter = Reporter(quiet)
    with reporter.progress("prepare", None, "videos") as progress:
        report = prepare.prepare_vipseg(raw, out, split, workers or usable_cores(), progress.advance_named)
    _warn(reporter, report.videos)
    resumed = sum(video.resumed for video in report.videos)
    frames = sum(video.frames for video in report.videos)
    if json_output:
        print_json({"folder": str(out), "splits": report.splits, "frames": frames, "kept_videos": resumed})
        return
    counts = ", ".join(f"{name} {videos}" for name, videos in report.splits.items())
    kept = f", {resumed} of them finished before" if resumed else ""
    typer.echo(f"{out}: {len(report.videos)} videos ({counts}), {frames} frames{kept}")


@app.command("synth")
def synth(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the dataset; finished videos in it are kept.")
    ],
    videos: Annotated[int, typer.Option(help="How many.")] = 100,
    size: Annotated[str, typer.Option(help="Of a frame: HEIGHTxWIDTH in pixels.")] = "128x224",
    frames: Annotated[int, typer.Option(help="Of a video.")] = 24,
    seed: Annotated[int, typer.Option(help="Another seed makes other videos.")] = 0,
    split: Annotated[str, typer.Option(help="Name of the split; each has its own videos.")] = "train",
    difficulty: Annotated[
        float, typer.Option(help="0 (easy) to 1: speed, encounters, likeness, spoilt frames.")
    ] = 0.5,
    workers: Workers = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make synthetic videos with their truth, in the 720P layout. Run again to resume or to add videos."""
    from dvis_cli.datasets.synthetic.settings import Settings
    from dvis_cli.datasets.synthetic.writing import write_dataset
    from dvis_cli.files import usable_cores

    height, width = parse_size(size, "--size")
    settings = Settings(height, width, frames, seed, split, difficulty)
    with Reporter(quiet).progress("synth", videos, "videos") as progress:
        kept = write_dataset(
            out, settings, videos, workers or usable_cores(), on_video=progress.advance_named
        )
    if json_output:
        report = {"folder": str(out), "split": split, "videos": videos, "frames": videos * frames}
        print_json({**report, "kept_videos": kept})
        return
    finished = f", {kept} of them finished before" if kept else ""
    typer.echo(
        f"{out}: split {split}, {videos} videos, {videos * frames} frames of {height}x{width}{finished}"
    )


@app.command("info")
def info(
    folder: Annotated[Path, typer.Argument(help="Dataset in the 720P layout.")],
    check: Annotated[
        bool, typer.Option("--check", help="Also decode every image and mask; slow on all of VIPSeg.")
    ] = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print a dataset's splits with their videos, frames and classes, and what is missing.

    With --check the exit code is 1 if anything is wrong.
    """
    from dvis_cli.datasets.description import describe_split
    from dvis_cli.datasets.vipseg import VIPSeg, splits_of
    from dvis_cli.errors import DatasetError

    splits = splits_of(folder)
    if not splits:
        raise DatasetError(
            f"{folder} holds no panoptic_gt_VIPSeg_<split>.json; dvis dataset prepare-vipseg makes it"
        )
    described = []
    for name in splits:
        dataset = VIPSeg.open(folder, name)
        with Reporter(quiet).progress(name, len(dataset.videos), "videos") as progress:
            described.append(describe_split(name, dataset, check, on_video=progress.advance_named))
    if json_output:
        print_json({"folder": str(folder), "splits": described})
    else:
        _print_splits(described)
    if check and any(split["problems"] for split in described):
        raise typer.Exit(1)


def _warn(reporter: Reporter, videos: tuple[VideoReport, ...]) -> None:
    without = sum(video.without_mask for video in videos)
    differing = sum(video.mask_size_differs for video in videos)
    if without:
        reporter.warn(f"{without} images of train and val have no mask and were left out")
    if differing:
        reporter.warn(f"{differing} masks are not of their image's size and were resized to it")


def _print_splits(splits: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("split")
    for heading in ("videos", "frames", "longest", "segments", "classes", "things", "stuff", "sizes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for split in splits:
        cells = [split[key] for key in ("videos", "frames", "longest_video", "segments")]
        cells += [split["classes_seen"], split["things_seen"], split["stuff_seen"], len(split["sizes"])]
        table.add_row(split["split"], *map(str, cells))
    Console().print(table)
    for split in splits:
        for problem in split["problems"][:10]:
            typer.echo(f"{split['split']}: {problem}")
        if len(split["problems"]) > 10:
            typer.echo(f"{split['split']}: ... and {len(split['problems']) - 10} more (--json lists all)")
