"""Scores of video semantic segmentation: mIoU and video consistency (VC).

A video is looked at frame by frame: how long each pixel has kept its class is all that consistency needs to know.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dvis_cli.challenge.metrics.collector import Collector
from dvis_cli.challenge.metrics.overlap import size_text
from dvis_cli.errors import DatasetError

IGNORE = -1  # in maps of class ids: no class
WINDOWS = (8, 16)  # frames
ClassMap = npt.NDArray[Any]
Lengths = npt.NDArray[np.int32]
BoolMap = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Mean:
    """A running mean."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """Add a value; NaN is left out."""
        if not math.isnan(value):
            self.total += value
            self.count += 1


@dataclass(frozen=True, slots=True)
class VideoSemantics:
    """What one video says, to be added up over videos."""

    confusion: npt.NDArray[np.int64]  # (K, K + 1): true, predicted class; the last column is none of them
    consistency: dict[int, _Consistency]  # by window length


@dataclass
class SemanticResult:
    """Scores of a run. Shares are 0..1; None where there is nothing to count."""

    class_ids: tuple[int, ...]
    miou: float | None
    class_iou: npt.NDArray[np.float64]  # (K,), NaN for a class that the truth does not have
    accuracy: float | None  # share of the pixels that are right
    vc: dict[int, float | None]  # window length -> video consistency, the public script's
    vc_right: dict[int, float | None]
    videos: dict[str, SemanticResult] = field(default_factory=dict)


class Semantics(Collector[VideoSemantics]):
    """Collects videos and gives the scores.

    Args:
        class_ids: the dataset's, K of them.
        windows: lengths of VC's windows, in frames.
    """

    def __init__(self, class_ids: Sequence[int], windows: Sequence[int] = WINDOWS) -> None:
        self.class_ids, self.windows = tuple(class_ids), tuple(windows)
        super().__init__(self.class_ids, self.windows)

    def count(self, frames: Iterable[tuple[ClassMap, ClassMap]]) -> VideoSemantics:
        """Count one video.

        Args:
            frames: truth and prediction of each frame, (H, W) integer class ids each, one size in all of a video.
                Ids that are none of the classes are "no class": pixels of the truth that have none are ignored.

        Raises:
            DatasetError: sizes that differ.
        """
        count = len(self.class_ids)
        table = _table_of(self.class_ids)
        confusion = np.zeros((count, count + 1), np.int64)
        consistency = {n: _Consistency(n) for n in self.windows}
        last: list[Lengths | None] = [None, None]  # of truth and prediction: the frame before
        runs: list[Lengths | None] = [None, None]
        for number, (truth, prediction) in enumerate(frames):
            if truth.shape != prediction.shape or (last[0] is not None and last[0].shape != truth.shape):
                raise DatasetError(
                    f"frame {number}: the prediction is {size_text(prediction)} pixels, the ground truth "
                    f"{size_text(truth)}; sizes must be equal, in all frames of a video"
                )
            true, predicted = now = _look_up(table, truth), _look_up(table, prediction)
            valid = true < count
            joint = true[valid].astype(np.int64) * (count + 1) + predicted[valid]
            confusion += np.bincount(joint, minlength=count * (count + 1)).reshape(count, count + 1)
            lengths = [_run_lengths(*one) for one in zip(runs, last, now, strict=True)]
            runs, last = [*lengths], [*now]
            for one in consistency.values():
                one.add(lengths[0], lengths[1], valid, true == predicted)
        return VideoSemantics(confusion, consistency)

    def result(self) -> SemanticResult:
        """The scores of all videos together, and of each alone."""
        total = self._result(list(self.videos.values()))
        total.videos = {name: self._result([video]) for name, video in self.videos.items()}
        return total

    def _result(self, videos: list[VideoSemantics]) -> SemanticResult:
        count = len(self.class_ids)
        confusion = sum((video.confusion for video in videos), np.zeros((count, count + 1), np.int64))
        there = confusion.sum(axis=1) > 0
        hits = np.diagonal(confusion)
        union = confusion.sum(axis=1) + confusion[:, :count].sum(axis=0) - hits
        iou = np.full(count, np.nan)
        iou[there] = hits[there] / union[there]
        pixels = int(confusion.sum())
        return SemanticResult(
            self.class_ids,
            float(iou[there].mean()) if there.any() else None,
            iou,
            float(hits.sum()) / pixels if pixels else None,
            {n: _mean([video.consistency[n].public for video in videos]) for n in self.windows},
            {n: _mean([video.consistency[n].right for video in videos]) for n in self.windows},
        )


class _Consistency:
    """VC of one window length in one video.

    `public`: of the pixels whose true class (or lack of one) is the same in all n frames of a window, the share
    whose predicted class is, whichever it is; over all windows but the video's last one.
    `right`: of the pixels that have the same true class in all n frames, the share that is predicted to be of it
    in all n; over all windows.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.public, self.right = Mean(), Mean()
        self._held_back = math.nan  # of the window that ends at the frame before
        self._frames = 0

    def add(self, true_run: Lengths, predicted_run: Lengths, valid: BoolMap, equal: BoolMap) -> None:
        """The next frame: how long its pixels have had their classes, which have one, which are right now."""
        self._frames += 1
        if self._frames < self.window:
            return
        self.public.add(self._held_back)
        steady = true_run >= self.window
        both = steady & (predicted_run >= self.window)
        self._held_back = _share(both, steady)
        self.right.add(_share(both & valid & equal, steady & valid))


def _run_lengths(before: Lengths | None, last: Lengths | None, classes: Lengths) -> Lengths:
    """(H, W) for how many frames each pixel has had its class; `before` and `last`: the frame before's."""
    if before is None or last is None:
        return np.ones(classes.shape, np.int32)
    return np.where(classes == last, before + 1, 1).astype(np.int32)


def _table_of(class_ids: Sequence[int]) -> Lengths:
    """Class id to 0..K-1; K for any other, which the last entry stands for."""
    table = np.full(max(class_ids, default=0) + 2, len(class_ids), np.int32)
    table[list(class_ids)] = np.arange(len(class_ids))
    return table


def _look_up(table: Lengths, ids: ClassMap) -> Lengths:
    """(H, W) ids to (H, W) indices."""
    last = len(table) - 1
    return table[np.where((ids >= 0) & (ids < last), ids, last)]


def _share(part: BoolMap, whole: BoolMap) -> float:
    count = int(np.count_nonzero(whole))
    return float(np.count_nonzero(part)) / count if count else math.nan


def _mean(means: list[Mean]) -> float | None:
    count = sum(mean.count for mean in means)
    return sum(mean.total for mean in means) / count if count else None
