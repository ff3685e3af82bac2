"""`dvis validate`: will the scorer take this submission?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import Reporter, print_json

if TYPE_CHECKING:
    from dvis_cli.datasets.problems import Problem


def validate(
    file: Annotated[
        Path, typer.Argument(help="Submission: a zip, or a folder with pred.json and pan_pred/.")
    ],
    gt: Annotated[
        Path, typer.Option("--gt", help="The split's json, or the dataset's folder (then with --split).")
    ],
    split: Annotated[str, typer.Option(help="Split, when --gt is a folder.")] = "val",
    show: Annotated[int, typer.Option(min=0, help="Problems of each kind to print; 0 prints all.")] = 5,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes [default: all cores].")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Report all that is wrong with a VIPSeg submission, in the scorer's terms: then the exit code is 1."""
    from dvis_cli.datasets.parallel import usable_cores
    from dvis_cli.datasets.validation import validate_submission
    from dvis_cli.datasets.vipseg import VIPSeg

    dataset = VIPSeg.open(gt, split) if gt.is_dir() else VIPSeg.from_json(gt)
    with Reporter(quiet).progress("validate", len(dataset.videos), "videos") as progress:
        report = validate_submission(
            file, dataset, workers or usable_cores(), on_video=lambda _: progress.advance()
        )
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
    from dvis_cli.datasets.problems import KINDS

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
