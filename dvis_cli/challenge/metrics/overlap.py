"""A frame of truth and a frame of prediction, reduced to one small table of pixel counts.

Both scores need only how many pixels every true segment shares with every predicted one. A table is a few
kilobytes where the two maps are megabytes, so each frame is looked at once however many windows are scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dvis_cli.errors import DatasetError

ID_LIMIT = 256**3  # ids are three bytes of a PNG; 0 is void

IntArray: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FrameOverlap:
    """One frame: its G true and P predicted segments, and how many pixels they share."""

    gt_ids: IntArray  # (G,) in the order of the json
    gt_categories: IntArray  # (G,) dataset ids
    gt_areas: IntArray  # (G,) pixels, as the json says (the public scorer trusts it, not the PNG)
    gt_crowd: npt.NDArray[np.bool_]  # (G,)
    pred_ids: IntArray  # (P,)
    pred_categories: IntArray  # (P,) dataset ids
    pred_areas: IntArray  # (P,) pixels, counted
    counts: IntArray  # (G + 1, P + 1) shared pixels; row 0 is true void, column 0 predicted void


def frame_overlap(
    gt_ids: npt.NDArray[Any],
    gt_segments: Sequence[Mapping[str, Any]],
    pred_ids: npt.NDArray[Any],
    pred_segments: Sequence[Mapping[str, Any]],
) -> FrameOverlap:
    """Count what two id maps share.

    Args:
        gt_ids: (H, W) integers 0..2^24-1, 0 = void.
        gt_segments: the frame's `segments_info`: `id`, `category_id`, optional `iscrowd` (0) and `area` in
            pixels (as counted). True ids without an entry are ignored, as the public scorers do.
        pred_ids, pred_segments: the same for the prediction; only `id` and `category_id` are used.

    Raises:
        DatasetError: the sizes differ, an id is out of range, listed twice, or (prediction) is in the map and
            not in the list or the other way round.
    """
    if gt_ids.shape != pred_ids.shape or gt_ids.ndim != 2:
        raise DatasetError(
            f"the prediction is {size_text(pred_ids)} pixels and the ground truth {size_text(gt_ids)}: "
            "sizes must be equal"
        )
    true, predicted = _listed(gt_segments, "ground truth"), _listed(pred_segments, "prediction")
    shared = _joint_counts(gt_ids, true, pred_ids, predicted)
    pred_areas = shared[:, 2:].sum(axis=0)
    if shared[:, 0].any() or not pred_areas.all():
        raise DatasetError(_disagreement(pred_ids, predicted, pred_areas))
    counted = shared[2:].sum(axis=1)
    areas = [segment.get("area", counted[row]) for row, segment in enumerate(gt_segments)]
    return FrameOverlap(
        gt_ids=true,
        gt_categories=np.array([segment["category_id"] for segment in gt_segments], dtype=np.int64),
        gt_areas=np.array(areas, dtype=np.int64),
        gt_crowd=np.array([segment.get("iscrowd", 0) == 1 for segment in gt_segments], dtype=np.bool_),
        pred_ids=predicted,
        pred_categories=np.array([segment["category_id"] for segment in pred_segments], dtype=np.int64),
        pred_areas=pred_areas,
        counts=shared[1:, 1:],
    )


def _joint_counts(
    gt_ids: npt.NDArray[Any], true: IntArray, pred_ids: npt.NDArray[Any], predicted: IntArray
) -> IntArray:
    """(G + 2, P + 2) pixel counts; the first row and column are unlisted ids, the second void."""
    shape = len(true) + 2, len(predicted) + 2
    starts, lengths = _runs(gt_ids.ravel(), pred_ids.ravel())
    joint = shape[1] * _rows(gt_ids.ravel()[starts], true) + _rows(pred_ids.ravel()[starts], predicted)
    counts = np.bincount(joint, weights=lengths, minlength=shape[0] * shape[1])  # exact below 2^53 pixels
    return counts.reshape(shape).astype(np.int64)


def _runs(gt: npt.NDArray[Any], pred: npt.NDArray[Any]) -> tuple[IntArray, IntArray]:
    """Starts and lengths of the runs in which neither flat map changes: far fewer than pixels."""
    changes = (gt[1:] != gt[:-1]) | (pred[1:] != pred[:-1])
    starts = np.concatenate([np.zeros(min(len(gt), 1), dtype=np.int64), np.flatnonzero(changes) + 1])
    return starts, np.diff(starts, append=len(gt))


def _listed(segments: Sequence[Mapping[str, Any]], side: str) -> IntArray:
    ids = np.array([segment["id"] for segment in segments], dtype=np.int64)
    wrong = ids[(ids < 1) | (ids >= ID_LIMIT)].tolist()
    if wrong:
        raise DatasetError(f"{side}: segment ids must be 1..{ID_LIMIT - 1}, found {wrong[:5]}")
    if len(np.unique(ids)) != len(ids):
        twice = sorted({int(value) for value in ids if (ids == value).sum() > 1})
        raise DatasetError(f"{side}: segment ids {twice[:5]} are listed more than once in one frame")
    return ids


def _rows(ids: npt.NDArray[Any], known: IntArray) -> IntArray:
    """Rows of flat ids: 0 for an id that is not known, 1 for void, 2.. for `known[0]`.. ."""
    if ids.dtype.kind not in "iu":
        raise DatasetError(f"an id map must hold integers, not {ids.dtype}")
    if ids.size and (int(ids.max()) >= ID_LIMIT or int(ids.min()) < 0):
        raise DatasetError(f"an id map must hold 0..{ID_LIMIT - 1}, found {int(ids.min())}..{int(ids.max())}")
    values = np.append(0, known)
    order = np.argsort(values)
    values = values[order]
    found = np.minimum(np.searchsorted(values, ids), len(values) - 1)
    return np.where(values[found] == ids, order[found] + 1, 0)


def _disagreement(pred_ids: npt.NDArray[Any], predicted: IntArray, areas: IntArray) -> str:
    extra = sorted(set(np.unique(pred_ids).tolist()) - {0, *predicted.tolist()})
    absent = predicted[areas == 0].tolist()
    parts = [f"ids {extra[:5]} are in the prediction's PNG and not in its json"] if extra else []
    parts += [f"ids {absent[:5]} are in the prediction's json and not in its PNG"] if absent else []
    return "; ".join(parts)


def size_text(ids: npt.NDArray[Any]) -> str:
    """`1280x720` for a (720, 1280) map."""
    return "x".join(str(side) for side in reversed(ids.shape))
