"""Classes as a picture: a PNG of one channel whose values are the dataset's class ids.

8 bits where all ids of the label set are below 255, the value that VSPW keeps for "ignore"; else 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from dvis_cli.errors import OutputError
from dvis_cli.writers.panoptic_png import relabel, write_png

IGNORE = 255  # of an 8-bit map: no class
WIDE_IGNORE = 2**16 - 1  # of a 16-bit map
LARGEST_CLASS = 2**16 - 2


def is_wide(class_ids: Iterable[int]) -> bool:
    """Whether a label set needs 16-bit maps.

    Raises:
        OutputError: an id that no map can hold.
    """
    largest = 0
    for id in class_ids:
        if not 0 <= id <= LARGEST_CLASS:
            raise OutputError(
                f"category id {id} does not fit a class map: ids must lie in 0..{LARGEST_CLASS}"
            )
        largest = max(largest, id)
    return largest >= IGNORE


def write_class_png(path: Path, ids: np.ndarray, classes: Mapping[int, int], wide: bool = False) -> None:
    """Write a map of classes.

    Args:
        path: the file.
        ids: (height, width) integer segment ids; those that are not in `classes`, such as 0, become "ignore".
        classes: segment id -> dataset class id.
        wide: 16 bits a pixel instead of 8.

    Raises:
        OutputError: the file cannot be written.
    """
    kind, ignore = (np.uint16, WIDE_IGNORE) if wide else (np.uint8, IGNORE)
    write_png(path, relabel(ids, classes, kind, ignore))
