"""Predicted instances and ground truth -> average precision and recall of YouTube-VIS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dvis_cli.datasets.instances import InstanceTruth, TruthReader
from dvis_cli.datasets.parallel import parallel_map
from dvis_cli.datasets.results import PredictedVideo, find_predictions
from dvis_cli.errors import DatasetError
from dvis_cli.metrics import InstanceAP, InstanceResult


@dataclass(frozen=True, slots=True)
class InstanceEvaluation:
    """The scores of one run on one split."""

    prediction: Path
    truth: InstanceTruth
    seconds: float  # that it took
    result: InstanceResult


def evaluate_instances(
    prediction: Path,
    truth: InstanceTruth,
    workers: int = 1,
    on_video: Callable[[str], None] = lambda name: None,
) -> InstanceEvaluation:
    """Score a run.

    Args:
        prediction: `results.json` (or a folder or zip with it), or results of `dvis segment --task instance`.
        truth: of `open_instance_truth`.
        workers: processes.
        on_video: called as each video is done.

    Raises:
        DatasetError: the predictions do not fit the ground truth, it has no annotations, or a file is damaged.
    """
    if not truth.annotated:
        raise DatasetError(f"{truth.path} has no annotations (a test split?): nothing to compare with")
    started = time.monotonic()
    tasks = list(zip(find_predictions(prediction, truth), truth.readers, strict=True))
    ids = tuple(category.id for category in truth.categories)
    scores = InstanceAP(ids)
    for video, part in zip(truth.videos, parallel_map(partial(_score, ids), tasks, workers), strict=True):
        scores.merge(part)
        on_video(video.name)
    return InstanceEvaluation(prediction, truth, time.monotonic() - started, scores.result())


def _score(category_ids: tuple[int, ...], task: tuple[PredictedVideo, TruthReader]) -> InstanceAP:
    predicted, reader = task
    part = InstanceAP(category_ids)
    part.add_video(predicted.video.name, predicted.video.size, reader.tubes(), predicted.tubes())
    return part


def instance_document(evaluation: InstanceEvaluation) -> dict[str, Any]:
    """All numbers of a run, in percent; null: nothing to count."""
    result, truth = evaluation.result, evaluation.truth
    names = {category.id: category.name for category in truth.categories}
    return {
        "task": "instance",
        "prediction": str(evaluation.prediction),
        "ground_truth": str(truth.path),
        "videos": len(truth.videos),
        "frames": sum(len(video.stems) for video in truth.videos),
        "seconds": round(evaluation.seconds, 3),
        **_scores(result),
        "classes": len(result.per_class),
        "per_class": [
            {
                "id": id,
                "name": names[id],
                "ap": 100 * ap,
                "ap50": 100 * ap50,
                "ap75": 100 * ap75,
                "tubes": tubes,
            }
            for id, (ap, ap50, ap75, tubes) in sorted(result.per_class.items())
        ],
        "per_video": [{"video_id": name, **_scores(video)} for name, video in result.videos.items()],
    }


def _scores(result: InstanceResult) -> dict[str, Any]:
    return {
        "ap": _percent(result.ap),
        "ap50": _percent(result.ap50),
        "ap75": _percent(result.ap75),
        "ar": {str(most): _percent(value) for most, value in result.ar.items()},
    }


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def instance_rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The numbers of a document as flat rows, for spreadsheets."""
    for scope, name, entry in (
        ("all", "", document),
        *(("video", row["video_id"], row) for row in document["per_video"]),
    ):
        recalls = {f"ar{most}": value for most, value in entry["ar"].items()}
        yield {"scope": scope, "name": name, **{key: entry[key] for key in ("ap", "ap50", "ap75")}, **recalls}
    for row in document["per_class"]:
        values = {key: row[key] for key in ("ap", "ap50", "ap75", "tubes")}
        yield {"scope": "class", "name": row["name"], "category_id": row["id"], **values}
