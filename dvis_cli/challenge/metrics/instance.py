"""Scores of video instance segmentation: average precision and recall of YouTube-VIS.

The definitions are COCO's, with tubes for masks: the IoU of two tubes adds intersections and unions up over the
frames of the video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dvis_cli.challenge.metrics.collector import Collector
from dvis_cli.coco_masks import coco, rle
from dvis_cli.structures import MaskTube

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_TUBES = (1, 10, 100)  # the likeliest of a class and video that are looked at
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Matches:
    """One class in one video: its predictions, likeliest first, and what became of them at each IoU threshold."""

    scores: FloatArray  # (D,)
    matched: BoolArray  # (10, D)
    ignored: BoolArray  # (10, D): matched to a crowd
    truths: int  # crowds aside


@dataclass
class InstanceResult:
    """Scores of a run, 0..1; None where there is no true tube."""

    ap: float | None  # mean over classes and IoU thresholds 0.5, 0.55, ..., 0.95
    ap50: float | None
    ap75: float | None
    ar: dict[int, float | None]  # number of tubes looked at -> mean recall over classes and thresholds
    per_class: dict[int, tuple[Any, ...]]  # category id -> AP, AP50, AP75, true tubes
    videos: dict[str, InstanceResult] = field(default_factory=dict)


class InstanceAP(Collector[dict[int, _Matches]]):
    """Collects videos and gives the scores.

    Args:
        category_ids: the dataset's. Tubes of other categories are left out.
    """

    def __init__(self, category_ids: Sequence[int]) -> None:
        self.category_ids = tuple(category_ids)
        super().__init__(self.category_ids)

    def count(
        self, size: tuple[int, int], truths: Sequence[MaskTube], predictions: Sequence[MaskTube]
    ) -> dict[int, _Matches]:
        """Count one video.

        Args:
            size: (height, width) of its frames.
            truths, predictions: each with as many frames as the video has.
        """
        found = {}
        for category in self.category_ids:
            true = [tube for tube in truths if tube.category_id == category]
            predicted = [tube for tube in predictions if tube.category_id == category]
            if true or predicted:
                found[category] = _match(true, predicted, size)
        return found

    def result(self) -> InstanceResult:
        """The scores of all videos together, and of each alone."""
        total = self._result(list(self.videos))
        total.videos = {name: self._result([name]) for name in self.videos}
        return total

    def _result(self, names: Sequence[str]) -> InstanceResult:
        precision: dict[int, FloatArray] = {}  # category -> (10, 101)
        recall: dict[int, dict[int, FloatArray]] = {most: {} for most in MAX_TUBES}  # -> category -> (10,)
        truths = {}
        for category in self.category_ids:
            parts = [self.videos[name][category] for name in names if category in self.videos[name]]
            count = sum(part.truths for part in parts)
            if count == 0:
                continue
            truths[category] = count
            for most in MAX_TUBES:
                precision[category], recall[most][category] = _curves(parts, count, most)
        levels = slice(None), 0, 5  # all thresholds, 0.5, 0.75
        ap, ap50, ap75 = (_mean([curves[level] for curves in precision.values()]) for level in levels)
        return InstanceResult(
            ap,
            ap50,
            ap75,
            {most: _mean(list(recalls.values())) for most, recalls in recall.items()},
            {
                category: (*(float(curves[level].mean()) for level in levels), truths[category])
                for category, curves in precision.items()
            },
        )


def tube_ious(
    predictions: Sequence[MaskTube], truths: Sequence[MaskTube], size: tuple[int, int]
) -> FloatArray:
    """(D, G) IoU of every prediction with every true tube of one video of `size` (height, width)."""
    shared = np.zeros((len(predictions), len(truths)))
    by_frame = [zip(*(tube.frames for tube in tubes), strict=True) for tubes in (predictions, truths)]
    for codes, true_codes in zip(*by_frame, strict=True):
        rows = [row for row, code in enumerate(codes) if code is not None]
        columns = [column for column, code in enumerate(true_codes) if code is not None]
        if rows and columns:
            masks = [rle(codes[row] or "", size) for row in rows]
            true_masks = [rle(true_codes[column] or "", size) for column in columns]
            # With "crowd" set, pycocotools divides the intersection by the first mask's area.
            share = coco().iou(masks, true_masks, [1] * len(columns))
            shared[np.ix_(rows, columns)] += np.rint(share * coco().area(masks)[:, None].astype(float))
    union = _areas(predictions, size)[:, None] + _areas(truths, size)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _areas(tubes: Sequence[MaskTube], size: tuple[int, int]) -> FloatArray:
    masks = [[rle(code, size) for code in tube.frames if code is not None] for tube in tubes]
    return np.array([coco().area(codes).sum() if codes else 0 for codes in masks], dtype=np.float64)


def _match(truths: Sequence[MaskTube], predictions: Sequence[MaskTube], size: tuple[int, int]) -> _Matches:
    """COCO's matching: likeliest first, each prediction takes the free true tube that it covers best."""
    order = np.argsort([-tube.score for tube in predictions], kind="stable")[: MAX_TUBES[-1]]
    predictions = [predictions[place] for place in order]
    truths = sorted(truths, key=lambda tube: tube.iscrowd)  # crowds last
    crowd = np.array([tube.iscrowd for tube in truths], dtype=bool)
    ious = tube_ious(predictions, truths, size) if truths and predictions else np.zeros((len(predictions), 0))
    matched = np.zeros((len(IOU_THRESHOLDS), len(predictions)), bool)
    ignored = np.zeros_like(matched)
    for level, threshold in enumerate(IOU_THRESHOLDS):
        free = np.ones(len(truths), bool)
        for row, overlaps in enumerate(ious):
            place = _best(overlaps, free, crowd, threshold)
            if place is not None:
                matched[level, row], ignored[level, row] = True, crowd[place]
                free[place] = crowd[place]  # a crowd takes any number
    scores = np.array([tube.score for tube in predictions], dtype=np.float64)
    return _Matches(scores, matched, ignored, int((~crowd).sum()))


def _best(overlaps: FloatArray, free: BoolArray, crowd: BoolArray, threshold: float) -> int | None:
    """The free true tube with the largest overlap, the last of equal ones; a crowd only where no other fits."""
    for allowed in (free & ~crowd, crowd):
        fits = np.flatnonzero(allowed & (overlaps >= min(threshold, 1 - 1e-10)))
        if len(fits):
            return int(fits[::-1][overlaps[fits[::-1]].argmax()])
    return None


def _curves(parts: Sequence[_Matches], truths: int, most: int) -> tuple[FloatArray, FloatArray]:
    """Precision at 101 recalls (10, 101) and the largest recall (10,) of one class, at each IoU threshold."""
    scores = np.concatenate([part.scores[:most] for part in parts])
    order = np.argsort(-scores, kind="stable")
    matched = np.concatenate([part.matched[:, :most] for part in parts], axis=1)[:, order]
    ignored = np.concatenate([part.ignored[:, :most] for part in parts], axis=1)[:, order]
    right = np.cumsum(matched & ~ignored, axis=1).astype(float)
    wrong = np.cumsum(~matched & ~ignored, axis=1).astype(float)
    curves = np.zeros((len(IOU_THRESHOLDS), len(RECALLS)))
    for level in range(len(IOU_THRESHOLDS)):
        recall = right[level] / truths
        precision = right[level] / (right[level] + wrong[level] + np.spacing(1))
        precision = np.maximum.accumulate(precision[::-1])[::-1]  # the best at this recall or a larger one
        places = np.searchsorted(recall, RECALLS, side="left")
        reached = places < len(precision)
        curves[level, reached] = precision[places[reached]]
    largest = right[:, -1] / truths if right.shape[1] else np.zeros(len(IOU_THRESHOLDS))
    return curves, largest


def _mean(arrays: Sequence[FloatArray]) -> float | None:
    return float(np.stack(arrays).mean()) if arrays else None
