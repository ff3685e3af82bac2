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
    from dvis_cli.datasets.parallel import usable_cores
    from dvis_cli.submission import export_vipseg, find_videos

    reporter = Reporter(quiet)
    with reporter.progress("export", len(find_videos(runs)), "videos") as progress:
        report = export_vipseg(
            runs, output, overwrite, workers or usable_cores(), on_video=lambda _: progress.advance()
        )
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
            "numbered_videos": list(report.unnamed),
        })  # fmt: skip
    else:
        typer.echo(f"{report.path}: {report.videos} videos, {report.frames} frames")
