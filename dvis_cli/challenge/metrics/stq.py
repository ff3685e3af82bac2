"""Segmentation and tracking quality: STQ = sqrt(AQ x SQ).

Source: M. Weber et al., "STEP: Segmenting and Tracking Every Pixel", NeurIPS 2021, as the public VIPSeg
script computes it (its recorded output is what the tests compare with). Three of its habits differ from the
paper and are kept, because published numbers have them:

- a video's true segments are numbered by first appearance in the json, and number 0 means crowd: a thing
  that is listed first has no tube and predictions on it are not punished;
- `iscrowd` is not read;
- predicted void on a true class counts as one more class, of IoU 0, in the mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dvis_cli.challenge.metrics.collector import Collector
from dvis_cli.challenge.metrics.overlap import FrameOverlap, IntArray
from dvis_cli.challenge.metrics.tubes import class_indices
from dvis_cli.structures import Category


@dataclass(frozen=True, slots=True)
class STQVideo:
    """One video's share. STQ, AQ, SQ are 0..1."""

    stq: float
    aq: float
    sq: float
    tubes: int  # true thing tubes
    frames: int


@dataclass(frozen=True, slots=True)
class STQResult:
    """The score over all videos, 0..1."""

    stq: float
    aq: float  # association: mean over all true thing tubes
    sq: float  # segmentation: mean class IoU
    categories: tuple[Category, ...]
    class_iou: npt.NDArray[np.float64]  # (C,) 0..1, NaN for classes neither true nor predicted
    classes: int  # classes in the mean, predicted void included
    videos: dict[str, STQVideo]


@dataclass(frozen=True, slots=True)
class _VideoCounts:
    association: float  # sum over the video's tubes
    tubes: int
    confusion: IntArray  # (C, C + 1) pixels: true class x predicted class, the last column void
    frames: int


class STQ(Collector[_VideoCounts]):
    """Collects videos and gives the score.

    Args:
        categories: the label set; json ids outside of it are refused.
    """

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories = tuple(categories)
        super().__init__(self.categories)
        self._index = {category.id: index for index, category in enumerate(self.categories)}
        self._things = np.array([category.isthing for category in self.categories], dtype=np.bool_)

    def count(self, tables: Iterable[FrameOverlap]) -> _VideoCounts:
        """Count one video, a table a frame. Raises `DatasetError`: an unknown category."""
        video = _Video(len(self.categories), self._things)
        for table in tables:
            video.add(table, *class_indices(table, self._index))
        return video.counts()

    def result(self) -> STQResult:
        """The score of the videos so far; 0 where nothing can be counted."""
        size, counts = len(self.categories), list(self.videos.values())
        confusion = sum((video.confusion for video in counts), np.zeros((size, size + 1), dtype=np.int64))
        aq = sum(video.association for video in counts) / max(sum(video.tubes for video in counts), 1)
        iou, sq, classes = _mean_iou(confusion)
        videos = {}
        for name, video in self.videos.items():
            own_aq, own_sq = video.association / max(video.tubes, 1), _mean_iou(video.confusion)[1]
            stq = float(np.sqrt(own_aq * own_sq))
            videos[name] = STQVideo(stq, own_aq, own_sq, video.tubes, video.frames)
        return STQResult(float(np.sqrt(aq * sq)), aq, sq, self.categories, iou[:size], classes, videos)


class _Video:
    """Running sums of one video. A tube is a (class, segment) pair: an id that changes class makes two."""

    def __init__(self, classes: int, things: npt.NDArray[np.bool_]) -> None:
        self.things = things
        self.confusion = np.zeros((classes, classes + 1), dtype=np.int64)
        self.first: int | None = None  # the id that the public script numbers 0
        self.frames = 0
        self.true: Counter[tuple[int, int]] = Counter()
        self.predicted: Counter[tuple[int, int]] = Counter()
        self.shared: Counter[tuple[int, int, int, int]] = Counter()

    def add(self, table: FrameOverlap, gt_classes: IntArray, pred_classes: IntArray) -> None:
        self.frames += 1
        if self.first is None and len(table.gt_ids):
            self.first = int(table.gt_ids[0])
        columns = np.append(pred_classes, self.confusion.shape[1] - 1)
        inside = np.concatenate([table.counts[1:, 1:], table.counts[1:, :1]], axis=1)  # void last
        np.add.at(self.confusion, (gt_classes[:, None], columns[None, :]), inside)

        things = self.things[gt_classes]
        crowd = things & (table.gt_ids == self.first)
        tubes = np.flatnonzero(things & ~crowd)
        areas = table.counts[1:].sum(axis=1)
        pred_areas = table.pred_areas - table.counts[1:, 1:][crowd].sum(axis=0)
        for gt in tubes:
            if areas[gt]:
                self.true[int(gt_classes[gt]), int(table.gt_ids[gt])] += int(areas[gt])
        for pred in np.flatnonzero(self.things[pred_classes] & (pred_areas > 0)):
            key = int(pred_classes[pred]), int(table.pred_ids[pred])
            self.predicted[key] += int(pred_areas[pred])
            for gt in tubes[table.counts[tubes + 1, pred + 1] > 0]:
                pair = int(gt_classes[gt]), int(table.gt_ids[gt]), *key
                self.shared[pair] += int(table.counts[gt + 1, pred + 1])

    def counts(self) -> _VideoCounts:
        association = 0.0
        for (gt_class, gt_id, pred_class, pred_id), pixels in self.shared.items():
            size = self.true[gt_class, gt_id]
            union = size + self.predicted[pred_class, pred_id] - pixels
            association += pixels * (pixels / union) / size
        return _VideoCounts(association, len(self.true), self.confusion, self.frames)


def _mean_iou(confusion: IntArray) -> tuple[npt.NDArray[np.float64], float, int]:
    """IoU of every class, void last (NaN where it is empty), their mean, and how many are not empty."""
    square = np.concatenate([confusion, np.zeros_like(confusion[:1])])
    if confusion.size == 0:
        return np.zeros(0), 0.0, 0
    hit = square.diagonal()
    union = square.sum(axis=0) + square.sum(axis=1) - hit
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = hit / union
    classes = int(np.count_nonzero(union))
    return iou, float(np.nansum(iou) / classes) if classes else 0.0, classes
