"""What is seen of each segment in one frame: the one thing that every format is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dvis_cli.coco_masks import decode, encode, measure
from dvis_cli.structures import FinishedFrame, InstanceFrame, Record, Segment
from dvis_cli.writers.segments_json import measure_segments


@dataclass(frozen=True, slots=True, repr=False)
class Seen(Record):
    """One segment in one frame."""

    segment: Segment
    area: int  # pixels
    box: tuple[int, int, int, int]  # (x, y, width, height) in pixels, the smallest that holds all of them
    inside: np.ndarray  # (box height, box width) bool: the mask in its box
    size: tuple[int, int]  # (height, width) of the frame

    @property
    def mask(self) -> np.ndarray:
        """(height, width) bool."""
        x, y, width, height = self.box
        mask = np.zeros(self.size, bool)
        mask[y : y + height, x : x + width] = self.inside
        return mask

    @property
    def counts(self) -> str:
        """The mask as COCO run lengths."""
        return encode(self.mask[None])[0]

    @property
    def centroid(self) -> tuple[float, float]:
        """(x, y) mean of the pixels' centres; the top left pixel's is (0.5, 0.5)."""
        rows, columns = np.nonzero(self.inside)
        return self.box[0] + float(columns.mean()) + 0.5, self.box[1] + float(rows.mean()) + 0.5


def seen_in(frame: FinishedFrame, chosen: Callable[[Segment], bool]) -> Iterator[Seen]:
    """Every chosen segment that has a pixel in the frame, ids ascending."""
    size = (frame.rgb.shape[0], frame.rgb.shape[1])
    if isinstance(frame, InstanceFrame):
        for id in sorted(frame.masks):
            counts = frame.masks[id]
            area, box = measure([counts], size)[0]
            if area and chosen(frame.segments[id]):
                x, y, width, height = box
                inside = decode([counts], size)[0, y : y + height, x : x + width]
                yield Seen(frame.segments[id], area, box, inside, size)
        return
    for id, area, box in measure_segments(frame.ids):
        if id in frame.segments and chosen(frame.segments[id]):
            x, y, width, height = box
            inside = frame.ids[y : y + height, x : x + width] == id
            yield Seen(frame.segments[id], area, box, inside, size)


def union_of(frame: FinishedFrame, chosen: Callable[[Segment], bool]) -> np.ndarray:
    """(height, width) bool: all pixels of chosen segments."""
    union = np.zeros(frame.rgb.shape[:2], bool)
    for one in seen_in(frame, chosen):
        x, y, width, height = one.box
        union[y : y + height, x : x + width] |= one.inside
    return union
