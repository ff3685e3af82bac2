"""Scores as data: one json document for each run, and flat rows for spreadsheets.

VPQ, PQ, SQ, RQ and AP are percent; STQ, AQ, its SQ and the semantic scores 0..1; null: nothing to count.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dvis_cli.challenge.metrics.instance import InstanceResult
from dvis_cli.challenge.metrics.semantic import SemanticResult
from dvis_cli.challenge.metrics.stq import STQResult
from dvis_cli.challenge.metrics.vpq import PUBLIC_WINDOWS, REPORT_WINDOWS, VPQResult
from dvis_cli.challenge.scoring import Evaluation
from dvis_cli.challenge.writing import SETTINGS_NAME, VOLATILE
from dvis_cli.files import atomic_open

GROUPS: dict[str, bool | None] = {"all": None, "thing": True, "stuff": False}
AP = ("ap", "ap50", "ap75")
MEANS = {"report": REPORT_WINDOWS, "public": PUBLIC_WINDOWS}
PANOPTIC_COLUMNS = ["run", "metric", "scope", "name", "category_id", "isthing", "window"]
PANOPTIC_COLUMNS += ["pq", "sq", "rq", "tp", "fp", "fn", "iou_sum", "classes", "vpq_report", "vpq_public"]
PANOPTIC_COLUMNS += ["stq", "aq", "sq_stq"]


def score_document(evaluation: Evaluation) -> dict[str, Any]:
    """All numbers of a run."""
    document: dict[str, Any] = {} if evaluation.task == "panoptic" else {"task": evaluation.task}
    document |= {
        "prediction": str(evaluation.prediction),
        "ground_truth": str(evaluation.ground_truth),
        "videos": evaluation.videos,
        "frames": evaluation.frames,
        "seconds": round(evaluation.seconds, 3),
    }
    for name, result in evaluation.results.items():
        if name == "vpq":
            document["vpq"] = _vpq_document(result)
        elif name == "stq":
            document["stq"] = _stq_document(result)
        else:
            document |= _class_document(result, evaluation.classes)
    return document


def headline(entry: dict[str, Any]) -> dict[str, float | None]:
    """The columns of a table of a document, or of one of its videos, all but STQ in percent.

    Panoptic: VPQ (mean over 1, 2, 4, 6), VPQ1, VPQ2, VPQ4, VPQ6, STQ, as in the challenge report.
    """
    if "ap" in entry:
        return {key.upper(): value for key, value in _scores(entry).items()}
    if "miou" in entry:
        shares = {key: _percent(value) for key, value in _scores(entry).items()}
        windows = {
            key.replace("vc", "VC").replace("_", " "): shares[key] for key in shares if key.startswith("vc")
        }
        return {"mIoU": shares["miou"], **windows, "Pixels right": shares["accuracy"]}
    row: dict[str, float | None] = {}
    if "vpq" in entry:
        row["VPQ"] = entry["vpq"]["means"]["report"]["all"]
        for window in REPORT_WINDOWS:
            row[f"VPQ{window}"] = entry["vpq"]["windows"].get(str(window), {}).get("all", {}).get("pq")
    if "stq" in entry:
        row["STQ"] = entry["stq"]["stq"]
    return row


def write_csv(path: Path, documents: Sequence[dict[str, Any]]) -> None:
    """One row for each run x metric x (all or group, class or video) x window.

    Raises:
        OutputError: the file cannot be written.
    """
    rows = [{"run": document["prediction"], **row} for document in documents for row in _rows(document)]
    columns = PANOPTIC_COLUMNS
    if "task" in documents[0]:
        columns = list(dict.fromkeys(column for row in rows for column in row))
    with atomic_open(path, newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


# --- documents ------------------------------------------------------------------------------------------------


def _vpq_document(result: VPQResult) -> dict[str, Any]:
    windows = {
        str(window): {
            "videos": one.videos,
            **{group: asdict(one.quality(isthing)) for group, isthing in GROUPS.items()},
        }
        for window, one in result.windows.items()
    }
    return {
        "means": {kind: _means(result, wanted) for kind, wanted in MEANS.items()},
        "windows": windows,
        "empty_windows": [window for window, one in result.windows.items() if not one.videos],
        "per_class": list(_vpq_classes(result)),
        "per_video": [
            {
                "video_id": name,
                "windows": {str(window): one.quality().pq for window, one in own.windows.items()},
                **{kind: own.mean(wanted) for kind, wanted in MEANS.items()},
            }
            for name, own in result.videos.items()
        ],
    }


def _means(result: VPQResult, windows: Sequence[int]) -> dict[str, float | None]:
    """Null unless all the windows were scored; those longer than every video are left out."""
    whole = set(windows) <= result.windows.keys()
    return {name: result.mean(windows, isthing) if whole else None for name, isthing in GROUPS.items()}


def _vpq_classes(result: VPQResult) -> Iterator[dict[str, Any]]:
    """Classes that have any tp, fp or fn in any window, by id."""
    quality = {window: one.per_class() for window, one in result.windows.items()}
    categories = next(iter(result.windows.values())).categories
    for index, category in sorted(enumerate(categories), key=lambda pair: pair[1].id):
        cells = {
            str(window): {
                **dict(zip(("pq", "sq", "rq"), quality[window][index].tolist(), strict=True)),
                **dict(zip(("tp", "fp", "fn"), one.counts[index].tolist(), strict=True)),
                "iou_sum": float(one.iou[index]),
            }
            for window, one in result.windows.items()
            if one.counts[index].any()
        }
        if cells:
            yield {"id": category.id, "name": category.name, "isthing": category.isthing, "windows": cells}


def _stq_document(result: STQResult) -> dict[str, Any]:
    classes = [
        {"id": category.id, "name": category.name, "isthing": category.isthing, "iou": float(iou)}
        for category, iou in zip(result.categories, result.class_iou, strict=True)
        if not math.isnan(iou)
    ]
    return {
        **{key: getattr(result, key) for key in ("stq", "aq", "sq", "classes")},
        "per_class": sorted(classes, key=lambda row: int(row["id"])),
        "per_video": [{"video_id": name, **asdict(video)} for name, video in result.videos.items()],
    }


def _class_document(result: InstanceResult | SemanticResult, names: Mapping[int, str]) -> dict[str, Any]:
    """AP and AR of instances, or mIoU and VC of classes."""
    rows: list[dict[str, Any]] = []
    if isinstance(result, InstanceResult):
        for id, (*scores, tubes) in sorted(result.per_class.items()):
            percents = dict(zip(AP, map(_percent, scores), strict=True))
            rows.append({"id": id, "name": names[id], **percents, "tubes": tubes})
    else:
        for id, iou in zip(result.class_ids, result.class_iou, strict=True):
            if not math.isnan(iou):
                rows.append({"id": id, "name": names[id], "iou": float(iou)})
    videos = [{"video_id": name, **_totals(video)} for name, video in result.videos.items()]
    return {**_totals(result), "classes": len(rows), "per_class": rows, "per_video": videos}


def _totals(result: InstanceResult | SemanticResult) -> dict[str, Any]:
    if isinstance(result, InstanceResult):
        recalls = {str(most): _percent(value) for most, value in result.ar.items()}
        return {key: _percent(getattr(result, key)) for key in AP} | {"ar": recalls}
    return {
        "miou": result.miou,
        "accuracy": result.accuracy,
        "vc": {str(window): value for window, value in result.vc.items()},
        "vc_right": {str(window): value for window, value in result.vc_right.items()},
    }


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


# --- rows -----------------------------------------------------------------------------------------------------


def _rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "task" in document:
        yield from _class_rows(document)
    if "vpq" in document:
        yield from _vpq_rows(document["vpq"])
    if "stq" in document:
        yield from _stq_rows(document["stq"])


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


def _stq_rows(stq: dict[str, Any]) -> Iterator[dict[str, Any]]:
    total = {"stq": stq["stq"], "aq": stq["aq"], "sq_stq": stq["sq"], "classes": stq["classes"]}
    yield {"metric": "stq", "scope": "group", "name": "all", **total}
    for row in stq["per_class"]:
        yield {"metric": "stq", "scope": "class", **_named(row), "sq_stq": row["iou"]}
    for row in stq["per_video"]:
        scores = {"stq": row["stq"], "aq": row["aq"], "sq_stq": row["sq"]}
        yield {"metric": "stq", "scope": "video", "name": row["video_id"], **scores}


def _named(row: dict[str, Any]) -> dict[str, Any]:
    return {"name": row["name"], "category_id": row["id"], "isthing": int(row["isthing"])}


def _class_rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"scope": "all", "name": "", **_scores(document)}
    for row in document["per_video"]:
        yield {"scope": "video", "name": row["video_id"], **_scores(row)}
    for row in document["per_class"]:
        values = {key: value for key, value in row.items() if key not in ("id", "name")}
        yield {"scope": "class", "name": row["name"], "category_id": row["id"], **values}


def _scores(entry: dict[str, Any]) -> dict[str, float | None]:
    """AP and AR, or mIoU and VC, by column."""
    if "ap" in entry:
        return {key: entry[key] for key in AP} | {f"ar{most}": value for most, value in entry["ar"].items()}
    shares = {f"vc{window}": value for window, value in entry["vc"].items()}
    shares |= {f"vc{window}_right": value for window, value in entry["vc_right"].items()}
    return {"miou": entry["miou"], "accuracy": entry["accuracy"], **shares}


# --- comparisons ----------------------------------------------------------------------------------------------


def methods(runs: Sequence[Path]) -> list[str]:
    """How each run was made: "Baseline" for the first, "+ multi scale (720, 800)" and the like for others.

    A run without `run.json`, such as a zip from elsewhere, is called by its name.
    """
    first, *others = [_settings_of(run) for run in runs]
    names = ["Baseline"]
    for run, own in zip(runs[1:], others, strict=True):
        if first is None or own is None:
            names.append(run.name or str(run))
        else:
            names.append(", ".join(_differences(first, own)) or "same settings")
    return names


def _differences(first: dict[str, Any], own: dict[str, Any]) -> list[str]:
    found = []
    scales = own.get("scales") or []
    if scales != (first.get("scales") or []):
        listed = ", ".join(map(str, scales))
        found.append(f"+ multi scale ({listed})" if len(scales) > 1 else f"scale {listed}")
    if own.get("flip") != first.get("flip"):
        found.append("+ flip" if own.get("flip") else "no flip")
    for key in dict.fromkeys((*first, *own)):
        value, base = own.get(key), first.get(key)
        if key in ("scales", "flip", *VOLATILE) or value == base:
            continue
        if isinstance(value, dict) and isinstance(base, dict):
            found += [f"{key} {name} {value[name]}" for name in value if value[name] != base.get(name)]
        else:
            found.append(f"{key} {value}")
    return found


def _settings_of(run: Path) -> dict[str, Any] | None:
    try:
        document = json.loads((run / SETTINGS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
