"""The tubes of one video: its frame tables side by side, and their sums over windows of k frames.

Letters: R rows (T frames, or T - k + 1 windows), G and P true and predicted segments of the whole video,
N pairs of them that share a pixel somewhere in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dvis_cli.challenge.metrics.overlap import FrameOverlap, IntArray
from dvis_cli.errors import DatasetError

ABSENT = -1


@dataclass(frozen=True, slots=True)
class Tubes:
    """Every segment of a video has one column, every frame or window one row."""

    gt_class: IntArray  # (R, G) class index, -1 where the segment is not in the row
    gt_crowd: npt.NDArray[np.bool_]  # (R, G)
    gt_areas: IntArray  # (R, G) pixels
    gt_order: IntArray  # (R, G) order of first appearance in the row's json; later ones are larger
    pred_class: IntArray  # (R, P) class index, -1 where absent
    pred_areas: IntArray  # (R, P) pixels
    pred_void: IntArray  # (R, P) pixels on true void
    pair_gt: IntArray  # (N,) column of the true segment
    pair_pred: IntArray  # (N,) column of the predicted segment
    pair_pixels: IntArray  # (R, N) shared pixels

    @classmethod
    def of_frames(cls, tables: Sequence[FrameOverlap], classes: Mapping[int, int]) -> Tubes:
        """Lay the tables of a video side by side, one row a frame.

        Args:
            tables: one for every frame, in order.
            classes: dataset category id -> class index 0.. .

        Raises:
            DatasetError: a category id is not in `classes`.
        """
        gt_columns = _columns(table.gt_ids for table in tables)
        pred_columns = _columns(table.pred_ids for table in tables)
        no_gt = np.zeros((len(tables), len(gt_columns)), dtype=np.int64)
        no_pred = np.zeros((len(tables), len(pred_columns)), dtype=np.int64)
        tubes = cls(
            *(no_gt + ABSENT, no_gt.astype(np.bool_), no_gt.copy(), no_gt.copy()),
            *(no_pred + ABSENT, no_pred.copy(), no_pred.copy()),
            *_pairs(tables, gt_columns, pred_columns),
        )
        for row, table in enumerate(tables):
            gt = row, [gt_columns[int(value)] for value in table.gt_ids]
            pred = row, [pred_columns[int(value)] for value in table.pred_ids]
            tubes.gt_class[gt], tubes.pred_class[pred] = class_indices(table, classes)
            tubes.gt_crowd[gt] = table.gt_crowd
            tubes.gt_areas[gt] = table.gt_areas
            tubes.gt_order[gt] = np.arange(len(table.gt_ids))
            tubes.pred_areas[pred] = table.pred_areas
            tubes.pred_void[pred] = table.counts[0, 1:]
        return tubes

    @property
    def rows(self) -> int:
        """Frames, or windows."""
        return len(self.gt_class)

    def windows(self, length: int) -> Tubes:
        """The same for every run of `length` <= T frames: pixels summed, class as first seen in the run."""
        first_gt, in_gt = _first_present(self.gt_class, length)
        first_pred, in_pred = _first_present(self.pred_class, length)
        gt_order = first_gt * (self.gt_class.shape[1] + 1) + np.take_along_axis(self.gt_order, first_gt, 0)
        return Tubes(
            gt_class=np.where(in_gt, np.take_along_axis(self.gt_class, first_gt, 0), ABSENT),
            gt_crowd=in_gt & np.take_along_axis(self.gt_crowd, first_gt, 0),
            gt_areas=_sums(self.gt_areas, length),
            gt_order=gt_order,
            pred_class=np.where(in_pred, np.take_along_axis(self.pred_class, first_pred, 0), ABSENT),
            pred_areas=_sums(self.pred_areas, length),
            pred_void=_sums(self.pred_void, length),
            pair_gt=self.pair_gt,
            pair_pred=self.pair_pred,
            pair_pixels=_sums(self.pair_pixels, length),
        )

    def pred_on_crowd(self) -> IntArray:
        """(R, P) pixels that a predicted segment shares with the crowd region of its class.

        Where a row has several crowd regions of a class the last to appear counts, as in the public scorer.
        """
        result = np.zeros_like(self.pred_areas)
        for index in np.unique(self.gt_class[self.gt_crowd]):
            order = np.where(self.gt_crowd & (self.gt_class == index), self.gt_order, ABSENT)
            chosen = (order >= 0) & (order == order.max(axis=1, keepdims=True))
            shared = np.zeros_like(result)
            pixels = np.where(chosen[:, self.pair_gt], self.pair_pixels, 0)
            np.add.at(shared.T, self.pair_pred, pixels.T)
            result += np.where(self.pred_class == index, shared, 0)
        return result


def _columns(ids: Iterable[IntArray]) -> dict[int, int]:
    """Segment id -> column, by first appearance."""
    columns: dict[int, int] = {}
    for frame in ids:
        for value in frame:
            columns.setdefault(int(value), len(columns))
    return columns


def _pairs(
    tables: Sequence[FrameOverlap], gt_columns: Mapping[int, int], pred_columns: Mapping[int, int]
) -> tuple[IntArray, IntArray, IntArray]:
    """Columns of the pairs that share pixels, (N,) and (N,), and the pixels (T, N)."""
    numbers: dict[tuple[int, int], int] = {}
    cells: list[tuple[int, int, int]] = []
    for row, table in enumerate(tables):
        for gt, pred in zip(*np.nonzero(table.counts[1:, 1:]), strict=True):
            pair = gt_columns[int(table.gt_ids[gt])], pred_columns[int(table.pred_ids[pred])]
            cells.append((row, numbers.setdefault(pair, len(numbers)), int(table.counts[gt + 1, pred + 1])))
    pixels = np.zeros((len(tables), len(numbers)), dtype=np.int64)
    for row, number, count in cells:
        pixels[row, number] = count
    columns = np.array(list(numbers), dtype=np.int64).reshape(-1, 2)
    return columns[:, 0], columns[:, 1], pixels


def class_indices(table: FrameOverlap, classes: Mapping[int, int]) -> list[IntArray]:
    """Class indices (G,) and (P,) of a frame's segments. Raises `DatasetError`: a category id is not in `classes`."""
    found = []
    sides = (
        ("ground truth", table.gt_ids, table.gt_categories),
        ("prediction", table.pred_ids, table.pred_categories),
    )
    for side, ids, categories in sides:
        for number, category in zip(ids.tolist(), categories.tolist(), strict=True):
            if category not in classes:
                raise DatasetError(f"{side}: segment {number} has unknown category_id {category}")
        found.append(np.array([classes[category] for category in categories.tolist()], dtype=np.int64))
    return found


def _first_present(classes: IntArray, length: int) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """(W, S) each: the window's first frame with the segment (0 where none has it), and if one has it."""
    frames = len(classes)
    own = np.where(classes != ABSENT, np.arange(frames)[:, None], frames)
    following = np.minimum.accumulate(own[::-1], axis=0)[::-1][: frames - length + 1]
    inside = following < np.arange(len(following))[:, None] + length
    return np.where(inside, following, 0), inside


def _sums(values: IntArray, length: int) -> IntArray:
    """(T, S) -> (T - length + 1, S) sums over runs of `length` rows."""
    total = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    return total[length:] - total[:-length]
