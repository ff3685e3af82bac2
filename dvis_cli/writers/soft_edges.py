"""Soft edges of frames, beside the maps while a result is made: exports read them, and then they go."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from dvis_cli.files import output_errors
from dvis_cli.structures import SoftEdges

SOFT_FOLDER = ".soft"
_BYTES = 5  # of a pixel of one of the two: an id and a share


def write_soft(folder: Path, index: int, soft: SoftEdges) -> None:
    """Keep a frame's. Raises OutputError when the file cannot be written."""
    data = soft.ids.astype("<i4").tobytes() + soft.shares.tobytes()
    with output_errors(folder):
        folder.mkdir(exist_ok=True)
        (folder / f"{index:06d}").write_bytes(zlib.compress(data, 1))


def read_soft(folder: Path, index: int, size: tuple[int, int]) -> SoftEdges | None:
    """A frame's, of (height, width) pixels; None where there are none, or none of this size."""
    pixels, expected = 2 * size[0] * size[1], 2 * size[0] * size[1] * _BYTES
    try:
        data = zlib.decompressobj().decompress((folder / f"{index:06d}").read_bytes(), expected + 1)
    except (OSError, zlib.error):
        return None
    if len(data) != expected:
        return None
    ids = np.frombuffer(data, "<i4", pixels).reshape(2, *size)
    return SoftEdges(ids, np.frombuffer(data, np.uint8, pixels, 4 * pixels).reshape(2, *size))
