"""`dvis validate`: will the scorer take this submission?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dvis_cli.config import TaskName

from .console import Reporter, print_json
from .options import Json, Quiet, Workers

if TYPE_CHECKING:
    from dvis_cli.challenge.problems import Problem


def validate(
    file: Annotated[
        Path, typer.Argument(help="Submission: a zip or folder with pred.json, maps or results.json.")
    ],
    gt: Annotated[
        Path, typer.Option("--gt", help="The split's json, or the dataset's folder (then with --split).")
    ],
    task: Annotated[
        TaskName | None, typer.Option(help="Kind of submission. Default: what it looks like.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split, when --gt is a folder.")] = "val",
    show: Annotated[int, typer.Option(min=0, help="Problems of each kind to print; 0 prints all.")] = 5,
    workers: Workers = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Report all that is wrong with a submission, in the scorer's terms: then the exit code is 1.

    VIPSeg's (pred.json), YouTube-VIS' (results.json) and VSPW's (<video>/<stem>.png).
    """
    from dvis_cli.challenge.formats import FORMATS, task_of_submission
    from dvis_cli.files import usable_cores

    form = FORMATS[task or task_of_submission(file)]
    truth = form.open_truth(gt, split)
    with Reporter(quiet).progress("validate", len(truth.videos), "videos") as progress:
        report = form.validate(file, truth, workers or usable_cores(), progress.advance_named)
    if json_output:
        print_json(report.to_json())
    else:
        _print_problems(report.problems, show)
        wrong = sum(not problem.harmless for problem in report.problems)
        counts = f"{report.videos} videos, {report.frames} frames"
        typer.echo(f"{file}: valid ({counts})" if report.ok else f"{file}: {wrong} problems ({counts})")
    if not report.ok:
        raise typer.Exit(1)


def _print_problems(problems: list[Problem], show: int) -> None:
    from dvis_cli.challenge.problems import KINDS

    for kind, meaning in KINDS.items():
        found = [problem for problem in problems if problem.kind == kind]
        if not found:
            continue
        typer.echo(f"{kind}: {meaning}")
        shown = found[:show] if show else found
        for problem in shown:
            typer.echo(f"  {problem}")
        if len(found) > len(shown):
            typer.echo(f"  ... and {len(found) - len(shown)} more of these")
