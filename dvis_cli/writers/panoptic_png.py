"""Segment ids as a picture: 8-bit RGB PNG, id = R + 256 G + 65536 B, 0 = void."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from dvis_cli.errors import OutputError
from dvis_cli.files import output_errors

LARGEST_ID = 2**24 - 1

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


def _id_bytes(ids: np.ndarray) -> np.ndarray:
    """(...) integers to (..., 4) uint8, lowest byte first; the last one is 0 for ids in range."""
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) > LARGEST_ID):
        raise ValueError(f"segment ids must lie in 0..{LARGEST_ID}, found {int(ids.min())}..{int(ids.max())}")
    return np.ascontiguousarray(ids, "<i4").view(np.uint8).reshape(*ids.shape, 4)
