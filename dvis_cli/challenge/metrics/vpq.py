"""Video panoptic quality: PQ over tubes, for windows of several lengths at once.

A window of k frames slides over each video with stride 1; a segment's tube is its pixels in the k frames.
Source: D. Kim et al., "Video Panoptic Segmentation", CVPR 2020, and the recorded output of the public VIPSeg
scorer, whose variants are kept: the area of a true tube is the sum of the json's `area`, class and crowd flag
are those of its first frame in the window, and of several crowd regions of a class only the last one excuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dvis_cli.challenge.metrics.collector import Collector
from dvis_cli.challenge.metrics.overlap import FrameOverlap, IntArray
from dvis_cli.challenge.metrics.tubes import Tubes
from dvis_cli.errors import DatasetError
from dvis_cli.structures import Category

TP, FP, FN = range(3)
PUBLIC_WINDOWS = (1, 2, 4, 6, 8)  # the public scorer's, whose mean is its "VPQ"
REPORT_WINDOWS = (1, 2, 4, 6)  # the challenge report's columns, whose mean is its "VPQ"


@dataclass(frozen=True, slots=True)
class Quality:
    """PQ = SQ x RQ over a group of classes, means in percent. None where no class has anything to count."""

    pq: float | None
    sq: float | None
    rq: float | None
    classes: int  # classes with any tp, fp or fn


@dataclass(frozen=True, slots=True)
class WindowResult:
    """The counts of one window length. C classes, in the order of `categories`."""

    categories: tuple[Category, ...]
    counts: IntArray  # (C, 3): tp, fp, fn over all windows of the videos
    iou: npt.NDArray[np.float64]  # (C,) sum of the IoU of the true positives
    videos: int  # videos with at least `window` frames

    def per_class(self) -> npt.NDArray[np.float64]:
        """(C, 3) PQ, SQ, RQ in percent; NaN for classes without tp, fp or fn."""
        tp, fp, fn = self.counts.T
        weight = tp + 0.5 * (fp + fn)
        with np.errstate(divide="ignore", invalid="ignore"):
            pq, rq = self.iou / weight, tp / weight
            sq = np.where(tp > 0, self.iou / tp, 0.0)
        sq = np.where(weight > 0, sq, np.nan)
        return 100 * np.stack([pq, sq, rq], axis=1)

    def quality(self, isthing: bool | None = None) -> Quality:
        """The mean over all classes, or over things or stuff only."""
        member = np.array([isthing is None or category.isthing == isthing for category in self.categories])
        member &= self.counts.any(axis=1)
        if not member.any():
            return Quality(None, None, None, 0)
        pq, sq, rq = self.per_class()[member].mean(axis=0)
        return Quality(float(pq), float(sq), float(rq), int(member.sum()))


@dataclass(frozen=True, slots=True)
class VPQResult:
    """All window lengths, for all videos together and for each by itself."""

    windows: dict[int, WindowResult]
    videos: dict[str, VPQResult] = field(default_factory=dict)

    def mean(self, windows: Sequence[int] | None = None, isthing: bool | None = None) -> float | None:
        """The mean PQ in percent over `windows` (default all); those that no video fills are left out."""
        chosen = (self.windows[window] for window in windows or self.windows if window in self.windows)
        values = [
            quality.pq for quality in (one.quality(isthing) for one in chosen) if quality.pq is not None
        ]
        return float(np.mean(values)) if values else None


@dataclass(frozen=True, slots=True)
class _VideoCounts:
    frames: int
    counts: IntArray  # (windows, C, 3)
    iou: npt.NDArray[np.float64]  # (windows, C)


class VPQ(Collector[_VideoCounts]):
    """Collects videos and gives the score.

    Args:
        categories: the label set; json ids outside of it are refused.
        windows: tube lengths in frames.
    """

    def __init__(self, categories: Sequence[Category], windows: Sequence[int] = PUBLIC_WINDOWS) -> None:
        if not windows or min(windows) < 1:
            raise ValueError(f"windows must be 1 frame or longer, got {tuple(windows)}")
        self.categories, self.windows = tuple(categories), tuple(windows)
        super().__init__(self.categories, self.windows)
        self._index = {category.id: index for index, category in enumerate(self.categories)}

    def count(self, tables: Iterable[FrameOverlap]) -> _VideoCounts:
        """Count one video, a table a frame. Raises `DatasetError`: an unknown category."""
        counts = np.zeros((len(self.windows), len(self.categories), 3), dtype=np.int64)
        iou = np.zeros((len(self.windows), len(self.categories)))
        tubes = Tubes.of_frames(list(tables), self._index)
        for row, window in enumerate(self.windows):
            if window <= tubes.rows:
                _count(tubes.windows(window), counts[row], iou[row])
        return _VideoCounts(tubes.rows, counts, iou)

    def result(self) -> VPQResult:
        """The score of the videos so far."""
        each = {name: VPQResult(self._sum([video])) for name, video in self.videos.items()}
        return VPQResult(self._sum(list(self.videos.values())), each)

    def _sum(self, videos: Sequence[_VideoCounts]) -> dict[int, WindowResult]:
        found = {}
        for row, window in enumerate(self.windows):
            kept = [video for video in videos if video.frames >= window]
            counts = sum((v.counts[row] for v in kept), np.zeros((len(self.categories), 3), dtype=np.int64))
            iou = sum((v.iou[row] for v in kept), np.zeros(len(self.categories)))
            found[window] = WindowResult(self.categories, counts, iou, len(kept))
        return found


def _count(tubes: Tubes, counts: IntArray, iou_sums: npt.NDArray[np.float64]) -> None:
    """Match true and predicted tubes of every window; add to (C, 3) counts and (C,) IoU sums in place."""
    gt, pred, shared = tubes.pair_gt, tubes.pair_pred, tubes.pair_pixels
    alive = (shared > 0) & (tubes.gt_class[:, gt] >= 0) & (tubes.pred_class[:, pred] >= 0)
    alive &= ~tubes.gt_crowd[:, gt] & (tubes.gt_class[:, gt] == tubes.pred_class[:, pred])
    union = tubes.pred_areas[:, pred] + tubes.gt_areas[:, gt] - shared - tubes.pred_void[:, pred]
    if (alive & ((union <= 0) | (shared > union))).any():
        raise DatasetError(
            "the ground truth's json gives areas smaller than its PNGs show: IoU would exceed 1"
        )
    iou = np.divide(shared, union, out=np.zeros(shared.shape), where=alive)
    matched = iou > 0.5
    rows, pairs = np.nonzero(matched)
    hit = tubes.gt_class[rows, gt[pairs]]
    np.add.at(counts[:, TP], hit, 1)
    np.add.at(iou_sums, hit, iou[rows, pairs])

    gt_matched = np.zeros(tubes.gt_class.shape, dtype=np.bool_)
    pred_matched = np.zeros(tubes.pred_class.shape, dtype=np.bool_)
    gt_matched[rows, gt[pairs]] = True
    pred_matched[rows, pred[pairs]] = True
    missed = (tubes.gt_class >= 0) & ~tubes.gt_crowd & ~gt_matched
    np.add.at(counts[:, FN], tubes.gt_class[missed], 1)

    excused = tubes.pred_void + tubes.pred_on_crowd()
    false = (tubes.pred_class >= 0) & ~pred_matched & ~(excused / np.maximum(tubes.pred_areas, 1) > 0.5)
    np.add.at(counts[:, FP], tubes.pred_class[false], 1)
