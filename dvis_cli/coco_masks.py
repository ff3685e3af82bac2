"""Masks as COCO run lengths, through pycocotools, and a look at run lengths from elsewhere.

A compressed run-length code is a short ASCII string; with the size `(height, width)` it is a mask. pycocotools
trusts the strings it decodes, so those that come out of files go through `check_counts` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from .errors import DatasetError

LONGEST_COUNTS = 2**24  # characters; the mask of the largest frame needs less


def coco() -> ModuleType:
    """`pycocotools.mask`, loaded when the first mask is packed."""
    from pycocotools import mask

    return mask


def encode(masks: np.ndarray) -> list[str]:
    """Run-length codes of (n, height, width) bool masks."""
    stacked = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))
    return [rle["counts"].decode("ascii") for rle in coco().encode(stacked)]


def decode(counts: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """(n, height, width) bool masks of codes of one `size` (height, width), which were made here or checked."""
    height, width = size
    masks = np.zeros((len(counts), height, width), bool)
    for mask, code in zip(masks, counts, strict=True):
        runs = run_lengths(code)
        mask[:] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    return masks


def rle(counts: str, size: tuple[int, int]) -> dict[str, Any]:
    """The form in which pycocotools and result files have one mask."""
    return {"size": list(size), "counts": counts}


def is_empty(counts: str) -> bool:
    """Whether a mask has no pixel."""
    return bool(run_lengths(counts)[1::2].sum() == 0)


def measure(counts: Sequence[str], size: tuple[int, int]) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Area in pixels and box `(x, y, width, height)` of each mask."""
    if not counts:
        return []
    codes = [rle(code, size) for code in counts]
    areas, boxes = coco().area(codes), coco().toBbox(codes)
    return [
        (int(area), (int(box[0]), int(box[1]), int(box[2]), int(box[3])))
        for area, box in zip(areas, boxes, strict=True)
    ]


def check_counts(counts: Any, size: tuple[int, int]) -> str:
    """A compressed code from a file, if it really is one of a mask of `size` (height, width).

    Raises:
        DatasetError: no text, characters that no code has, or runs that do not fill the mask.
    """
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    if not isinstance(counts, str) or len(counts) > LONGEST_COUNTS:
        raise DatasetError("counts is no compressed run-length text")
    runs = run_lengths(counts)
    if (runs < 0).any() or int(runs.sum()) != size[0] * size[1]:
        raise DatasetError(
            f"the runs of a mask hold {int(runs.sum())} pixels, {size[1]}x{size[0]} are {size[0] * size[1]}"
        )
    return counts


def run_lengths(counts: str) -> np.ndarray:
    """The runs (n,) int64 that a compressed code spells, those of background first; column by column.

    Each number is a row of 5-bit digits, the lowest first, bit 6 set on all but the last; from the fourth on
    they are differences to the number two before.

    Raises:
        DatasetError: characters that no code has, or a number that never ends.
    """
    digits = np.frombuffer(counts.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if digits.size == 0:
        return np.zeros(0, np.int64)
    last = digits < 32
    if digits.min() < 0 or digits.max() > 63 or not last[-1]:
        raise DatasetError("counts is no compressed run-length text")
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    rank = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    if rank.max() > 11:  # 60 bits: more than any frame has pixels, and more than int64 could add up
        raise DatasetError("counts holds a number that is too large")
    values = np.add.reduceat((digits & 31) << (5 * rank), starts)
    negative = (digits[ends] & 16) != 0
    values -= negative.astype(np.int64) << (5 * (rank[ends] + 1))
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs
