"""Predicted class maps and ground truth -> mIoU and video consistency."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dvis_cli.datasets.parallel import parallel_map
from dvis_cli.datasets.semantics import MapPair, SemanticTruth, pair_maps
from dvis_cli.errors import DatasetError
from dvis_cli.metrics import SemanticResult, Semantics


@dataclass(frozen=True, slots=True)
class SemanticEvaluation:
    """The scores of one run on one split."""

    prediction: Path
    truth: SemanticTruth
    frames: int
    seconds: float  # that it took
    result: SemanticResult


def evaluate_semantic(
    prediction: Path,
    truth: SemanticTruth,
    workers: int = 1,
    on_video: Callable[[str], None] = lambda name: None,
) -> SemanticEvaluation:
    """Score a run.

    Args:
        prediction: maps, see `datasets.class_maps`.
        truth: of `open_semantic_truth`.
        workers: processes.
        on_video: called as each video is done.

    Raises:
        DatasetError: a video or frame is missing, sizes differ, or a file is damaged.
    """
    started = time.monotonic()
    pairs = pair_maps(prediction, truth)
    scores = Semantics(truth.class_ids)
    found = parallel_map(partial(_score, truth.class_ids), pairs, workers)
    for pair, part in zip(pairs, found, strict=True):
        scores.merge(part)
        on_video(pair.truth.name)
    frames = sum(len(pair.positions) for pair in pairs)
    return SemanticEvaluation(prediction, truth, frames, time.monotonic() - started, scores.result())


def _score(class_ids: tuple[int, ...], pair: MapPair) -> Semantics:
    part = Semantics(class_ids)
    try:
        part.add_video(pair.truth.name, pair.frames())
    except DatasetError as error:
        raise DatasetError(f"video '{pair.truth.name}': {error}") from error
    return part


def semantic_document(evaluation: SemanticEvaluation) -> dict[str, Any]:
    """All numbers of a run, 0..1; null: nothing to count."""
    result, truth = evaluation.result, evaluation.truth
    return {
        "task": "semantic",
        "prediction": str(evaluation.prediction),
        "ground_truth": str(truth.path),
        "videos": len(result.videos),
        "frames": evaluation.frames,
        "seconds": round(evaluation.seconds, 3),
        **_scores(result),
        "classes": int((~np.isnan(result.class_iou)).sum()),
        "per_class": [
            {"id": id, "name": truth.names.get(id, f"class {id}"), "iou": float(iou)}
            for id, iou in zip(result.class_ids, result.class_iou, strict=True)
            if not np.isnan(iou)
        ],
        "per_video": [{"video_id": name, **_scores(video)} for name, video in result.videos.items()],
    }


def _scores(result: SemanticResult) -> dict[str, Any]:
    return {
        "miou": result.miou,
        "accuracy": result.accuracy,
        "vc": {str(window): value for window, value in result.vc.items()},
        "vc_right": {str(window): value for window, value in result.vc_right.items()},
    }


def semantic_rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The numbers of a document as flat rows, for spreadsheets."""
    for scope, name, entry in (
        ("all", "", document),
        *(("video", row["video_id"], row) for row in document["per_video"]),
    ):
        values = {f"vc{window}": value for window, value in entry["vc"].items()}
        values |= {f"vc{window}_right": value for window, value in entry["vc_right"].items()}
        yield {"scope": scope, "name": name, "miou": entry["miou"], "accuracy": entry["accuracy"], **values}
    for row in document["per_class"]:
        yield {"scope": "class", "name": row["name"], "category_id": row["id"], "iou": row["iou"]}
