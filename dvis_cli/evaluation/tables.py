"""Scores as data: one json document for each run, and a flat table for spreadsheets."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dvis_cli.errors import OutputError
from dvis_cli.evaluation.scoring import Evaluation
from dvis_cli.metrics import PUBLIC_WINDOWS, REPORT_WINDOWS, STQResult, VPQResult, WindowResult

GROUPS: dict[str, bool | None] = {"all": None, "thing": True, "stuff": False}
MEANS = {"report": REPORT_WINDOWS, "public": PUBLIC_WINDOWS}
CSV_COLUMNS = ["run", "metric", "scope", "name", "category_id", "isthing", "window"]
CSV_COLUMNS += ["pq", "sq", "rq", "tp", "fp", "fn", "iou_sum", "classes", "vpq_report", "vpq_public"]
CSV_COLUMNS += ["stq", "aq", "sq_stq"]


def score_document(evaluation: Evaluation) -> dict[str, Any]:
    """All numbers of a run. VPQ, PQ, SQ, RQ are percent, STQ, AQ and its SQ 0..1; null: nothing to count."""
    document: dict[str, Any] = {
        "prediction": str(evaluation.prediction),
        "ground_truth": str(evaluation.ground_truth),
        "videos": evaluation.videos,
        "frames": evaluation.frames,
        "seconds": round(evaluation.seconds, 3),
    }
    if evaluation.vpq is not None:
        document["vpq"] = _vpq_document(evaluation.vpq)
    if evaluation.stq is not None:
        document["stq"] = _stq_document(evaluation.stq)
    return document


def headline(document: dict[str, Any]) -> dict[str, float | None]:
    """The columns of the report's tables: VPQ (mean over 1, 2, 4, 6), VPQ1, VPQ2, VPQ4, VPQ6, STQ."""
    row: dict[str, float | None] = {}
    if "vpq" in document:
        row["VPQ"] = document["vpq"]["means"]["report"]["all"]
        for window in REPORT_WINDOWS:
            row[f"VPQ{window}"] = document["vpq"]["windows"].get(str(window), {}).get("all", {}).get("pq")
    if "stq" in document:
        row["STQ"] = document["stq"]["stq"]
    return row


def write_csv(path: Path, documents: Sequence[dict[str, Any]]) -> None:
    """One row for each run x metric x (group, class or video) x window.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, CSV_COLUMNS, restval="")
            writer.writeheader()
            for document in documents:
                for row in _rows(document):
                    writer.writerow({"run": document["prediction"], **row})
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _vpq_document(result: VPQResult) -> dict[str, Any]:
    return {
        "means": {name: _means(result, windows) for name, windows in MEANS.items()},
        "windows": {str(window): _window_document(one) for window, one in result.windows.items()},
        "empty_windows": list(result.empty_windows),
        "per_class": _class_rows(result),
        "per_video": [
            {
                "video_id": name,
                "windows": {str(window): one.quality().pq for window, one in windows.items()},
                **{kind: result.video_mean(name, wanted) for kind, wanted in MEANS.items()},
            }
            for name, windows in result.videos.items()
        ],
    }


def _means(result: VPQResult, windows: Sequence[int]) -> dict[str, float | None]:
    """Null unless all the windows were asked for; those longer than every video are left out."""
    whole = set(windows) <= result.windows.keys()
    return {name: result.mean(windows, isthing) if whole else None for name, isthing in GROUPS.items()}


def _window_document(one: WindowResult) -> dict[str, Any]:
    return {
        "videos": one.videos,
        **{name: asdict(one.quality(isthing)) for name, isthing in GROUPS.items()},
    }


def _class_rows(result: VPQResult) -> list[dict[str, Any]]:
    """Classes that have any tp, fp or fn in any window, by id."""
    tables = {window: (one, one.per_class()) for window, one in result.windows.items()}
    rows = []
    categories = next(iter(result.windows.values())).categories
    for index, category in sorted(enumerate(categories), key=lambda pair: pair[1].id):
        cells = {}
        for window, (one, quality) in tables.items():
            if one.counts[index].any():
                pq, sq, rq = (float(value) for value in quality[index])
                tp, fp, fn = (int(value) for value in one.counts[index])
                iou = float(one.iou[index])
                cells[str(window)] = {
                    "pq": pq,
                    "sq": sq,
                    "rq": rq,
                    "tp": tp,
                    "fp": fp,
                    "fn": fn,
                    "iou_sum": iou,
                }
        if cells:
            rows.append(
                {"id": category.id, "name": category.name, "isthing": category.isthing, "windows": cells}
            )
    return rows


def _stq_document(result: STQResult) -> dict[str, Any]:
    classes = [
        {"id": category.id, "name": category.name, "isthing": category.isthing, "iou": float(iou)}
        for category, iou in zip(result.categories, result.class_iou, strict=True)
        if not math.isnan(iou)
    ]
    return {
        "stq": result.stq,
        "aq": result.aq,
        "sq": result.sq,
        "classes": result.classes,
        "per_class": sorted(classes, key=lambda row: int(row["id"])),
        "per_video": [{"video_id": name, **asdict(video)} for name, video in result.videos.items()],
    }


def _rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "vpq" in document:
        yield from _vpq_rows(document["vpq"])
    if "stq" in document:
        stq = document["stq"]
        total = {"stq": stq["stq"], "aq": stq["aq"], "sq_stq": stq["sq"], "classes": stq["classes"]}
        yield {"metric": "stq", "scope": "group", "name": "all", **total}
        for row in stq["per_class"]:
            yield {"metric": "stq", "scope": "class", **_named(row), "sq_stq": row["iou"]}
        for row in stq["per_video"]:
            scores = {"stq": row["stq"], "aq": row["aq"], "sq_stq": row["sq"]}
            yield {"metric": "stq", "scope": "video", "name": row["video_id"], **scores}


def _vpq_rows(vpq: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in GROUPS:
        means = {f"vpq_{kind}": vpq["means"][kind][group] for kind in MEANS}
        yield {"metric": "vpq", "scope": "group", "name": group, "window": "mean", **means}
        for window, groups in vpq["windows"].items():
            yield {"metric": "vpq", "scope": "group", "name": group, "window": window, **groups[group]}
    for row in vpq["per_class"]:
        for window, cells in row["windows"].items():
            yield {"metric": "vpq", "scope": "class", **_named(row), "window": window, **cells}
    for row in vpq["per_video"]:
        means = {f"vpq_{kind}": row[kind] for kind in MEANS}
        yield {"metric": "vpq", "scope": "video", "name": row["video_id"], "window": "mean", **means}
        for window, pq in row["windows"].items():
            yield {"metric": "vpq", "scope": "video", "name": row["video_id"], "window": window, "pq": pq}


def _named(row: dict[str, Any]) -> dict[str, Any]:
    return {"name": row["name"], "category_id": row["id"], "isthing": int(row["isthing"])}
