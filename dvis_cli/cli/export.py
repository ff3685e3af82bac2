"""`dvis export`: results in the forms that other tools read, and that scoring servers do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from dvis_cli.errors import UsageError

from .console import Reporter, print_json
from .options import Json, Overwrite, Quiet, Workers

if TYPE_CHECKING:
    from dvis_cli.challenge.format import PngFormat

_Results = Annotated[
    list[Path],
    typer.Argument(
        metavar="RESULT...", help="Outputs of dvis segment, or folders of them.", show_default=False
    ),
]
_Source = Annotated[
    Path | None, typer.Option(help="The film, where it is not where it was.", show_default=False)
]
ANY = "FORMAT"  # the command that takes every word that is no command of its own


class _Formats(TyperGroup):
    """`dvis export coco,masks RESULT`: what is not the name of a submission is a list of formats."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            return ANY, self.commands[ANY], args
        return super().resolve_command(ctx, args)


app = typer.Typer(
    help="Results as annotations, tables, masks and mattes, or as submissions.",
    no_args_is_help=True,
    cls=_Formats,
)


@app.callback()
def _root() -> None:
    """Results as annotations, tables, masks and mattes (FORMAT), or as submissions to a scoring server."""


@app.command(ANY)
def formats(
    format: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT[,FORMAT...]",
            help="coco, coco-video, davis, mots, cvat, yolo, csv, parquet, masks, matte, cutout, or all.",
            show_default=False,
        ),
    ],
    results: _Results,
    output: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder; of one format, a file, too. Default: exports/ in the result."
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|ID,...", help="These classes or segment ids. Default: all that the format is for."
        ),
    ] = None,
    per_object: Annotated[bool, typer.Option("--per-object", help="A file for each segment.")] = False,
    images: Annotated[bool, typer.Option("--images", help="Write the frames as JPEG, too.")] = False,
    source: _Source = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write finished results in other tools' formats.

    A variant comes after a colon: masks:png, matte:webm, matte:png, cutout:white, cutout:#00b140, cutout:transparent.
    """
    from dvis_cli.export.formats import parse_formats
    from dvis_cli.export.result import open_result, result_folders
    from dvis_cli.export.run import ExportOptions, export_result, passes
    from dvis_cli.run.units import parse_names

    reporter, made = Reporter(quiet), []
    with reporter.warnings_as_lines():
        names = parse_names(format, "FORMAT") or ()
        options = ExportOptions(names, parse_names(only, "--only"), per_object, images, source, overwrite)
        edges = [one.format.name for one in parse_formats(names) if one.format.edges]
        folders = [folder for path in results for folder in result_folders(path)]
        _check_many(folders, source, output)
        found = [open_result(folder) for folder in folders]
        # Of several results, one may lack a class or an id that is named: a warning.
        known = [one.category for result in found for one in result.segments] if len(found) > 1 else None
        if edges:
            reporter.say(
                f"{', '.join(edges)}: edges are antialiased from the map; in a new run, dvis segment --format "
                "makes them from the mask probabilities"
            )
        for result in found:
            target = output if output is None or len(found) == 1 else output / result.folder.name
            total = len(result) * passes(result, options, known)
            with reporter.progress(f"export {result.folder.name}", total) as bar:
                made += export_result(result, options, target, bar.advance, known)
    _print_made(made, json_output, reporter)


@app.command("report")
def report(
    results: _Results,
    source: _Source = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write report.html into finished results: a page that plays the film with its objects, as --report does."""
    from dvis_cli.export.report import write_report
    from dvis_cli.export.result import open_result, result_folders

    reporter, made = Reporter(quiet), []
    folders = [folder for path in results for folder in result_folders(path)]
    _check_many(folders, source)
    for folder in folders:
        with reporter.warnings_as_lines(), reporter.progress(folder.name, len(open_result(folder))) as bar:
            made.append(write_report(folder, source, bar.update))
    _print_made(made, json_output, reporter)


def _check_many(folders: list[Path], source: Path | None, output: Path | None = None) -> None:
    """Refuse what would mix the films or files of several results."""
    if source is not None and len(folders) > 1:
        raise UsageError(f"--source {source} is one film, and there are {len(folders)} results")
    names = [folder.name for folder in folders]
    same = next((one for one in names if names.count(one) > 1), None)
    if output is not None and same is not None:
        raise UsageError(f"two results are called {same}: export them one by one, or without --out")


def _print_made(made: list[Path], json_output: bool, reporter: Reporter) -> None:
    if json_output:
        print_json({"files": [str(path) for path in made], "warnings": reporter.warned})
        return
    for path in made:
        typer.echo(path)


@app.command("vipseg")
def vipseg(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Outputs of dvis segment, folders of them, or submissions.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--out", "-o", help="The zip to make.")],
    overwrite: Overwrite = False,
    workers: Workers = None,
    json_output: Json = False,
    quiet: Quiet = False,
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
    overwrite: Overwrite = False,
    json_output: Json = False,
    quiet: Quiet = False,
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
    overwrite: Overwrite = False,
    json_output: Json = False,
    quiet: Quiet = False,
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
