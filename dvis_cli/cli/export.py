"""`dvis export`: results in the form that a scoring server reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Reporter, print_json

app = typer.Typer(help="Results in the form that a scoring server reads.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Results in the form that a scoring server reads."""


@app.command("vipseg")
def vipseg(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Outputs of dvis segment, folders of them, or submissions.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--out", "-o", help="The zip to make.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing zip.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes [default: all cores].")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and messages.")] = False,
) -> None:
    """Make a VIPSeg submission: pred.json and pan_pred/ in one zip. Check it with dvis validate."""
    from dvis_cli.files import usable_cores
    from dvis_cli.submission import export_vipseg, find_videos

    reporter = Reporter(quiet)
    with reporter.progress("export", len(find_videos(runs)), "videos") as progress:
        report = export_vipseg(
            runs, output, overwrite, workers or usable_cores(), on_video=lambda _: progress.advance()
        )
    _warn_of_numbers(reporter, report.unnamed)
    if json_output:
        print_json({
            "file": str(report.path),
            "videos": report.videos,
            "frames": report.frames,
            "numbered_videos": list(report.unnamed),
        })  # fmt: skip
    else:
        typer.echo(f"{report.path}: {report.videos} videos, {report.frames} frames")


@app.command("ytvis")
def ytvis(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Results of --task instance, folders of them, or results.json.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("--out", "-o", help="The json to make, or a zip with it.")],
    gt: Annotated[
        Path | None,
        typer.Option("--gt", help="The dataset's json or folder: gives the numbers of the videos."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split, when --gt is a folder.")] = "val",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and messages.")] = False,
) -> None:
    """Make a YouTube-VIS or OVIS submission: results.json. Check it with dvis validate."""
    from dvis_cli.datasets.instances import open_instance_truth
    from dvis_cli.submission.ytvis import export_ytvis, find_results

    reporter = Reporter(quiet)
    truth = open_instance_truth(gt, split) if gt is not None else None
    folders, _ = find_results(runs)
    with reporter.progress("export", len(folders), "videos") as progress:
        report = export_ytvis(runs, output, truth, overwrite, on_video=lambda _: progress.advance())
    if report.numbers and truth is None:
        reporter.warn("videos are numbered 1, 2, ... by name; with --gt they get the dataset's numbers")
    if json_output:
        print_json({"file": str(report.path), "videos": report.numbers, "tubes": report.tubes})
    else:
        typer.echo(f"{report.path}: {report.tubes} tubes")


@app.command("vspw")
def vspw(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Results of --task semantic, folders of them, or submissions.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("--out", "-o", help="The zip to make, or a folder.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing zip.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and messages.")] = False,
) -> None:
    """Make a VSPW submission: <video>/<stem>.png, class ids. Check it with dvis validate."""
    from dvis_cli.submission.vspw import count_videos, export_vspw

    reporter = Reporter(quiet)
    with reporter.progress("export", count_videos(runs), "videos") as progress:
        report = export_vspw(runs, output, overwrite, on_video=lambda _: progress.advance())
    _warn_of_numbers(reporter, report.unnamed)
    if json_output:
        print_json({
            "file": str(report.path),
            "videos": report.videos,
            "frames": report.frames,
            "numbered_videos": list(report.unnamed),
        })  # fmt: skip
    else:
        typer.echo(f"{report.path}: {report.videos} videos, {report.frames} frames")


def _warn_of_numbers(reporter: Reporter, unnamed: tuple[str, ...]) -> None:
    if unnamed:
        reporter.warn(
            f"{len(unnamed)} videos do not come from image folders ({unnamed[0]}, ...): their "
            "frames are called 000000, 000001, ..., which a ground truth's names may not be"
        )
