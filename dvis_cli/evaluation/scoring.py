"""Predictions and ground truth -> VPQ and STQ.

Each frame pair is read once, in a worker, and reduced to a table of pixel counts that serves both scores and
all window lengths. What comes back from a worker is a few kilobytes for each video.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dvis_cli.datasets.id_map import decode_ids, read_ids
from dvis_cli.datasets.parallel import parallel_map
from dvis_cli.datasets.submission import open_submission
from dvis_cli.datasets.validation import check_before_scoring
from dvis_cli.datasets.vipseg import VIPSeg, VIPSegVideo, mask_path
from dvis_cli.errors import DatasetError, UsageError
from dvis_cli.metrics import PUBLIC_WINDOWS, STQ, VPQ, FrameOverlap, STQResult, VPQResult, frame_overlap
from dvis_cli.structures import Category

METRICS = ("vpq", "stq")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of one run on one split."""

    prediction: Path
    ground_truth: Path  # the split's json
    videos: int
    frames: int
    seconds: float  # that it took
    vpq: VPQResult | None
    stq: STQResult | None


@dataclass(frozen=True, slots=True)
class _Job:
    """What is the same for every video."""

    prediction: Path
    root: Path
    categories: tuple[Category, ...]
    metrics: tuple[str, ...]
    windows: tuple[int, ...]


_Task = tuple[VIPSegVideo, tuple[Mapping[str, Any], ...]]
_Partial = tuple["VPQ | None", "STQ | None"]


def evaluate(
    prediction: Path,
    dataset: VIPSeg,
    metrics: Sequence[str] = METRICS,
    windows: Sequence[int] = PUBLIC_WINDOWS,
    workers: int = 1,
    on_video: Callable[[str], None] = lambda video_id: None,
) -> Evaluation:
    """Score a run.

    Args:
        prediction: folder or zip with `pred.json` and `pan_pred/`.
        dataset: the split; only its json and `panomasksRGB/` are used.
        metrics: any of "vpq", "stq".
        windows: tube lengths of VPQ in frames.
        workers: processes.
        on_video: called as each video is done.

    Raises:
        DatasetError: the prediction would make the scorer stop (names, counts and sizes are looked at before
            any work), or the ground truth is damaged.
    """
    started = time.monotonic()
    tasks = _prepare(prediction, dataset)
    job = _Job(prediction, dataset.root, dataset.categories, check_metrics(metrics), tuple(windows))
    vpq = VPQ(job.categories, job.windows) if "vpq" in job.metrics else None
    stq = STQ(job.categories) if "stq" in job.metrics else None
    for (video, _), (some_vpq, some_stq) in zip(
        tasks, parallel_map(partial(_score_video, job), tasks, workers), strict=True
    ):
        if vpq is not None and some_vpq is not None:
            vpq.merge(some_vpq)
        if stq is not None and some_stq is not None:
            stq.merge(some_stq)
        on_video(video.video_id)
    return Evaluation(
        prediction=prediction,
        ground_truth=dataset.json_path,
        videos=len(tasks),
        frames=sum(len(video.frames) for video, _ in tasks),
        seconds=time.monotonic() - started,
        vpq=vpq.result() if vpq is not None else None,
        stq=stq.result() if stq is not None else None,
    )


def check_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """The metrics to compute; UsageError for a name that is not known."""
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        wrong = f"metric '{unknown[0]}' not known" if unknown else "no metric named"
        raise UsageError(f"{wrong}; known metrics: {', '.join(METRICS)}")
    return tuple(names)


def _prepare(prediction: Path, dataset: VIPSeg) -> list[_Task]:
    if not dataset.videos:
        raise DatasetError(f"{dataset.json_path} lists no videos")
    if not dataset.annotated:
        raise DatasetError(f"{dataset.json_path} has no annotations (a test split?): nothing to compare with")
    for video in dataset.videos:
        for frame in video.frames:
            path = dataset.mask_path(video, frame)
            if not path.is_file():
                raise DatasetError(f"ground truth {path} is missing")
    problems, entries = check_before_scoring(prediction, dataset)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems, the first"
        raise DatasetError(
            f"{prediction} cannot be scored, {count}: {problems[0]}; "
            f"see all with: dvis validate {prediction} --gt {dataset.json_path}"
        )
    return [(video, entries[video.video_id]) for video in dataset.videos]


def _score_video(job: _Job, task: _Task) -> _Partial:
    video, entries = task
    tables = list(_tables(job, video, entries))
    vpq = VPQ(job.categories, job.windows) if "vpq" in job.metrics else None
    stq = STQ(job.categories) if "stq" in job.metrics else None
    for metric in (vpq, stq):
        if metric is not None:
            metric.add_overlaps(video.video_id, tables)
    return vpq, stq


def _tables(job: _Job, video: VIPSegVideo, entries: Sequence[Mapping[str, Any]]) -> Iterator[FrameOverlap]:
    submission, stem = open_submission(job.prediction), ""
    try:
        for frame, entry in zip(video.frames, entries, strict=True):
            stem, size = frame.stem, (frame.width, frame.height)
            gt = read_ids(mask_path(job.root, video.video_id, stem), *size)
            pred = decode_ids(submission.png(video.video_id, stem, *size), *size)
            yield frame_overlap(gt, frame.segments, pred, entry["segments_info"])
    except DatasetError as error:
        raise DatasetError(f"video '{video.video_id}', frame '{stem}': {error}") from error
