"""`dvis export`: results in the form that a scoring server reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import Reporter, print_json

if TYPE_CHECKING:
    from dvis_cli.challenge.format import PngFormat

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
    from dvis_cli.challenge.vipseg import VIPSEG

    _export_pngs(VIPSEG, runs, output, overwrite, workers, json_output, Reporter(quiet))


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
    from dvis_cli.challenge.ytvis import YTVIS

    reporter = Reporter(quiet)
    truth = YTVIS.open_truth(gt, split) if gt is not None else None
    with reporter.progress("export", None, "videos") as progress:
        report = YTVIS.export(runs, output, truth, overwrite, on_video=progress.advance_named)
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
    from dvis_cli.challenge.vspw import VSPW

    _export_pngs(VSPW, runs, output, overwrite, 1, json_output, Reporter(quiet))


def _export_pngs(
    form: PngFormat[Any],
    runs: list[Path],
    output: Path,
    overwrite: bool,
    workers: int | None,
    json_output: bool,
    reporter: Reporter,
) -> None:
    from dvis_cli.files import usable_cores

    with reporter.progress("export", None, "videos") as progress:
        report = form.export(runs, output, overwrite, workers or usable_cores(), progress.advance_named)
    if report.unnamed:
        reporter.warn(
            f"{len(report.unnamed)} videos do not come from image folders ({report.unnamed[0]}, ...): their "
            "frames are called 000000, 000001, ..., which a ground truth's names may not be"
        )
    if json_output:
        print_json({
            "file": str(report.path),
            "videos": report.videos,
            "frames": report.frames,
            "numbered_videos": report.unnamed,
        })  # fmt: skip
    else:
        typer.echo(f"{report.path}: {report.videos} videos, {report.frames} frames")
