"""Segment ids as a picture: 8-bit RGB PNG, id = R + 256 G + 65536 B, 0 = void."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from dvis_cli.errors import OutputError
from dvis_cli.files import output_errors

LARGEST_ID = 2**24 - 1
LARGEST_TABLE = 2**20  # entries; ids beyond are looked up among those in the map

# Label maps are runs of equal pixels, and rows that repeat the row above: run lengths over differences to
# it. Half the time and two thirds of the bytes of the default settings at their fastest.
PNG_SETTINGS = [cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # older OpenCV has one fixed filter, which does as well
    PNG_SETTINGS += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]


def write_panoptic_png(path: Path, ids: np.ndarray) -> None:
    """Write (height, width) integer ids.

    Raises:
        ValueError: an id below 0 or above 2**24 - 1.
        OutputError: the file cannot be written.
    """
    write_png(path, cv2.cvtColor(_id_bytes(ids), cv2.COLOR_RGBA2BGR))


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write a label map, (height, width) or BGR. Raises OutputError when the file cannot be written."""
    done, data = cv2.imencode(".png", pixels, PNG_SETTINGS)
    if not done:
        raise OutputError(f"cannot write {path}: {pixels.shape[1]}x{pixels.shape[0]} pixels do not fit a PNG")
    with output_errors(path):
        path.write_bytes(data.tobytes())  # not imwrite, which ignores a full disk


def relabel(ids: np.ndarray, numbers: Mapping[int, int], kind: type, other: int = 0) -> np.ndarray:
    """(height, width) of type `kind`: `numbers[id]` for every id >= 0, and `other` for those that are not in it."""
    rows: np.ndarray | None = None
    size = int(ids.max(initial=0)) + 1
    if size > LARGEST_TABLE:
        values, rows = np.unique(ids, return_inverse=True)
        numbers = {row: numbers[id] for row, id in enumerate(values.tolist()) if id in numbers}
        size = len(values)
    table: np.ndarray = np.full(size, other, kind)
    for id, number in numbers.items():
        if id < size:
            table[id] = number
    return table[ids] if rows is None else table[rows].reshape(ids.shape)


def _id_bytes(ids: np.ndarray) -> np.ndarray:
    """(...) integers to (..., 4) uint8, lowest byte first; the last one is 0 for ids in range."""
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) > LARGEST_ID):
        raise ValueError(f"segment ids must lie in 0..{LARGEST_ID}, found {int(ids.min())}..{int(ids.max())}")
    return np.ascontiguousarray(ids, "<i4").view(np.uint8).reshape(*ids.shape, 4)
