"""`dvis evaluate`: VPQ and STQ of one run, or of several side by side; with --task, the other tasks' scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dvis_cli.config import TaskName
from dvis_cli.errors import UsageError

from .console import Reporter, print_json
from .options import Json, Quiet, Workers

DEFAULT_METRICS = "vpq,stq"


def evaluate(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="PRED...",
            help="Folder or zip: pred.json and pan_pred/, or what --task has.",
            show_default=False,
        ),
    ],
    gt: Annotated[
        Path, typer.Option("--gt", help="Dataset folder with panomasksRGB/, or a split's json in it.")
    ],
    task: Annotated[
        TaskName, typer.Option(help="instance: YouTube-VIS AP. semantic: mIoU and video consistency.")
    ] = "panoptic",
    split: Annotated[str, typer.Option(help="Split, when --gt is a folder.")] = "val",
    metric: Annotated[str, typer.Option(help="What to compute, separated by commas.")] = DEFAULT_METRICS,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Compare with the first run, setting by setting: evaluate A --compare B C."
        ),
    ] = False,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Also print a table of the classes.")
    ] = False,
    per_video: Annotated[bool, typer.Option("--per-video", help="Also print a table of the videos.")] = False,
    csv: Annotated[Path | None, typer.Option("--csv", help="Also write every number to this file.")] = None,
    workers: Workers = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score predictions against VIPSeg ground truth: VPQ and STQ, equal to the public scorers' numbers.

    With --task instance or semantic, ground truth may also be a YouTube-VIS json, or VSPW's maps.
    """
    from dvis_cli.challenge.formats import FORMATS
    from dvis_cli.challenge.scoring import evaluate as evaluate_run
    from dvis_cli.challenge.tables import methods, score_document, write_csv
    from dvis_cli.files import usable_cores

    from .score_display import print_scores

    if task != "panoptic" and metric != DEFAULT_METRICS:
        raise UsageError(f"--metric {metric} is for --task panoptic; {task} has scores of its own")
    metrics = [name.strip() for name in metric.split(",") if name.strip()]
    form = FORMATS[task]
    truth = form.open_truth(gt, split)
    total, reporter = len(truth.videos), Reporter(quiet)
    documents = []
    for run in runs:
        with reporter.progress(run.name or str(run), total, "videos") as progress:
            scores = evaluate_run(
                run, truth, metrics, workers=workers or usable_cores(), on_video=progress.advance_named
            )
        documents.append(score_document(scores))
    if compare:
        for document, method in zip(documents, methods(runs), strict=True):
            document["method"] = method
    if csv is not None:
        write_csv(csv, documents)
    several = compare or len(documents) > 1
    if json_output:
        print_json({"runs": documents} if several else documents[0])
    else:
        print_scores(documents, several, per_class, per_video)
