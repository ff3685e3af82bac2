"""`dvis evaluate --task instance|semantic`: scores of runs, and their tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .console import Reporter, print_json
from .score_display import _console, _names, _number, _table

Score = Callable[[Path, Callable[[str], None]], dict[str, Any]]


def evaluate_task(
    task: str,
    runs: Sequence[Path],
    gt: Path,
    split: str,
    workers: int,
    *,
    csv: Path | None,
    json_output: bool,
    per_class: bool,
    per_video: bool,
    quiet: bool,
) -> None:
    """Score the runs and print or write what was asked for."""
    from dvis_cli.evaluation.rows import write_rows

    if task == "instance":
        from dvis_cli.evaluation.instance import instance_rows as rows_of

        score, videos = _instance_scores(gt, split, workers)
    else:
        from dvis_cli.evaluation.semantic import semantic_rows as rows_of

        score, videos = _semantic_scores(gt, split, workers)
    documents = []
    for run in runs:
        with Reporter(quiet).progress(run.name or str(run), videos, "videos") as progress:
            documents.append(score(run, lambda _, progress=progress: progress.advance()))  # type: ignore[misc]
    if csv is not None:
        write_rows(csv, documents, rows_of)
    if json_output:
        print_json({"runs": documents} if len(documents) > 1 else documents[0])
        return
    _print_headlines(documents)
    for document in documents:
        _print_details(document, len(documents) > 1, per_class, per_video)


def _instance_scores(gt: Path, split: str, workers: int) -> tuple[Score, int]:
    from dvis_cli.datasets.instances import open_instance_truth
    from dvis_cli.evaluation.instance import evaluate_instances, instance_document

    truth = open_instance_truth(gt, split)

    def score(run: Path, on_video: Callable[[str], None]) -> dict[str, Any]:
        return instance_document(evaluate_instances(run, truth, workers, on_video))

    return score, len(truth.videos)


def _semantic_scores(gt: Path, split: str, workers: int) -> tuple[Score, int]:
    from dvis_cli.datasets.semantics import open_semantic_truth
    from dvis_cli.evaluation.semantic import evaluate_semantic, semantic_document

    truth = open_semantic_truth(gt, split)

    def score(run: Path, on_video: Callable[[str], None]) -> dict[str, Any]:
        return semantic_document(evaluate_semantic(run, truth, workers, on_video))

    return score, len(truth.videos)


def _columns(entry: dict[str, Any]) -> dict[str, float | None]:
    """The columns of a table of scores, in percent."""
    if "miou" not in entry:
        recalls = {f"AR{most}": value for most, value in entry["ar"].items()}
        return {"AP": entry["ap"], "AP50": entry["ap50"], "AP75": entry["ap75"], **recalls}
    shares = {"mIoU": entry["miou"]}
    shares |= {f"VC{window}": value for window, value in entry["vc"].items()}
    shares |= {f"VC{window} right": value for window, value in entry["vc_right"].items()}
    shares["Pixels right"] = entry["accuracy"]
    return {name: None if value is None else 100 * value for name, value in shares.items()}


def _print_headlines(documents: Sequence[dict[str, Any]]) -> None:
    rows = [_columns(document) for document in documents]
    table = _table(["Run", *rows[0]])
    for name, row in zip(_names(documents), rows, strict=True):
        table.add_row(name, *(_number(value) for value in row.values()))
    _console().print(table)


def _print_details(document: dict[str, Any], headed: bool, per_class: bool, per_video: bool) -> None:
    console = _console()
    if headed and (per_class or per_video):
        console.print(f"\n{document['prediction']}", markup=False, highlight=False)
    elif not headed:
        counts = f"{document['videos']} videos, {document['frames']} frames, {document['classes']} classes"
        console.print(f"\n{counts}, {document['seconds']:.1f} s", highlight=False)
    if per_class:
        console.print()
        console.print(_class_table(document))
    if per_video:
        rows = [(row["video_id"], _columns(row)) for row in document["per_video"]]
        table = _table(["Video", *(rows[0][1] if rows else [])])
        for name, values in rows:
            table.add_row(name, *(_number(value) for value in values.values()))
        console.print()
        console.print(table)


def _class_table(document: dict[str, Any]) -> Any:
    if document["task"] == "semantic":
        table = _table(["Class", "Id", "IoU"])
        for row in document["per_class"]:
            table.add_row(row["name"], str(row["id"]), _number(100 * row["iou"]))
        return table
    table = _table(["Class", "Id", "AP", "AP50", "AP75", "True tubes"])
    for row in document["per_class"]:
        scores = [_number(row[key]) for key in ("ap", "ap50", "ap75")]
        table.add_row(row["name"], str(row["id"]), *scores, str(row["tubes"]))
    return table
