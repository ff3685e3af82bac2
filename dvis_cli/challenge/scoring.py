"""The scoring loop, the same for all tasks: each video is read once, in a worker, and comes back as a few counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dvis_cli.challenge.format import Prediction, lengths
from dvis_cli.challenge.formats import FORMATS
from dvis_cli.challenge.metrics.vpq import PUBLIC_WINDOWS
from dvis_cli.challenge.vipseg import METRICS
from dvis_cli.config import TaskName
from dvis_cli.datasets.parallel import parallel_map


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of one run on one split."""

    task: TaskName
    prediction: Path
    ground_truth: Path
    videos: int
    frames: int
    seconds: float  # that it took
    classes: Mapping[int, str]  # names by id
    results: Mapping[str, Any]  # by metric: "vpq" and "stq", "ap", or "semantic"


def evaluate(
    prediction: Path,
    truth: Any,
    metrics: Sequence[str] = METRICS,
    windows: Sequence[int] = PUBLIC_WINDOWS,
    workers: int = 1,
    on_video: Callable[[str], None] = lambda name: None,
) -> Evaluation:
    """Score a run.

    Args:
        prediction: a submission; of instances and classes, results of `dvis segment` too.
        truth: of a format's `open_truth`: `VIPSeg`, `InstanceTruth` or `SemanticTruth`. It decides the task.
        metrics: any of "vpq", "stq"; panoptic only.
        windows: tube lengths of VPQ in frames.
        workers: processes.
        on_video: called as each video is done.

    Raises:
        DatasetError: the prediction does not fit the truth (names, counts and sizes are compared before any work),
            the truth has no annotations, or a file is damaged.
        UsageError: a metric is not known.
    """
    started = time.monotonic()
    form = next(form for form in FORMATS.values() if isinstance(truth, form.truth_type))
    empty = form.collectors(truth, metrics, windows)
    totals = {name: collector.empty() for name, collector in empty.items()}
    pairs = form.pairs(prediction, truth)
    for pair, parts in zip(pairs, parallel_map(partial(_score, empty), pairs, workers), strict=True):
        for name, part in parts.items():
            totals[name].merge(part)
        on_video(pair.name)
    classes = {category.id: category.name for category in truth.categories}
    results = {name: total.result() for name, total in totals.items()}
    frames, seconds = sum(lengths(truth).values()), time.monotonic() - started
    return Evaluation(form.task, prediction, truth.path, len(pairs), frames, seconds, classes, results)


def _score(empty: Mapping[str, Any], pair: Prediction) -> dict[str, Any]:
    parts = {name: collector.empty() for name, collector in empty.items()}
    pair.feed(parts)
    return parts
