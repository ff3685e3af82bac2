"""`dvis evaluate`: VPQ and STQ of one run, or of several side by side; with --task, the other tasks' scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dvis_cli.errors import UsageError

from .console import Reporter, print_json
from .segment import TaskChoice

if TYPE_CHECKING:
    from dvis_cli.datasets.vipseg import VIPSeg


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
        TaskChoice, typer.Option(help="instance: YouTube-VIS AP. semantic: mIoU and video consistency.")
    ] = TaskChoice.panoptic,
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
    workers: Annotated[int | None, typer.Option(min=1, help="Processes [default: all cores].")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print every number as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Score predictions against VIPSeg ground truth: VPQ and STQ, equal to the public scorers' numbers.

    With --task instance or semantic, ground truth may also be a YouTube-VIS json, or VSPW's maps.
    """
    from dvis_cli.files import usable_cores

    if task is not TaskChoice.panoptic:
        from .task_scores import evaluate_task

        if metric != DEFAULT_METRICS:
            raise UsageError(f"--metric {metric} is for --task panoptic; {task.value} has scores of its own")
        evaluate_task(
            task.value, runs, gt, split, workers or usable_cores(), csv=csv, json_output=json_output,
            per_class=per_class, per_video=per_video, quiet=quiet,
        )  # fmt: skip
        return
    from dvis_cli.datasets.vipseg import VIPSeg
    from dvis_cli.evaluation import check_metrics
    from dvis_cli.evaluation.ablation import methods
    from dvis_cli.evaluation.tables import write_csv

    metrics = check_metrics([name.strip() for name in metric.split(",") if name.strip()])
    dataset = VIPSeg.open(gt, split) if gt.is_dir() else VIPSeg.from_json(gt)
    documents = [_score(run, dataset, metrics, workers or usable_cores(), Reporter(quiet)) for run in runs]
    if compare:
        for document, method in zip(documents, methods(runs), strict=True):
            document["method"] = method
    if csv is not None:
        write_csv(csv, documents)
    several = compare or len(documents) > 1
    if json_output:
        print_json({"runs": documents} if several else documents[0])
        return
    from . import score_display

    score_display.print_comparison(documents)
    for document in documents:
        score_display.print_details(document, several, per_class, per_video)


def _score(
    run: Path, dataset: VIPSeg, metrics: tuple[str, ...], workers: int, reporter: Reporter
) -> dict[str, Any]:
    from dvis_cli.evaluation import evaluate as evaluate_run
    from dvis_cli.evaluation.tables import score_document

    with reporter.progress(run.name or str(run), len(dataset.videos), "videos") as progress:
        evaluation = evaluate_run(
            run, dataset, metrics, workers=workers, on_video=lambda _: progress.advance()
        )
    return score_document(evaluation)
