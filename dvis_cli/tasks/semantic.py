"""From queries to a class for every pixel (VSS), one frame at a time.

    class(pixel) = arg-max over real classes k of  sum over queries q of  P(q, k) * mask(q, pixel)

The sums of all classes at all pixels of a frame would be hundreds of megabytes; they are made in bands of rows.
Classes are classes in every horizon, so nothing has to be carried from one to the next but what was seen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from dvis_cli.layers.masks import FrameMasks, Tubes
from dvis_cli.layers.transfer import accelerated, fetch, send
from dvis_cli.structures import Category, Frame, PanopticFrame, Segment

BAND_BYTES = 64 * 2**20  # of masks and class sums at any moment
DENSE_BYTES = 2**30  # the same on a GPU, where each band is a wait
MAX_CLASSES = 2**16 - 1  # what a map can number


class SemanticTask:
    """The class of every pixel, over one horizon after the other: a `Task`.

    A segment is a class: its id is the contiguous index + 1, in all videos. Its score is the mean, over its pixels,
    of the share that its sum has in the sums of all classes.

    Args:
        categories: in the order of the class probabilities.
        size: (height, width) of the output.
        shown: contiguous classes that get segments, the rest is void; None: all.
    """

    def __init__(
        self, categories: Sequence[Category], size: tuple[int, int], shown: Collection[int] | None = None
    ) -> None:
        if len(categories) > MAX_CLASSES:
            raise ValueError(f"{len(categories)} classes, a map numbers at most {MAX_CLASSES}")
        self.categories, self.size = tuple(categories), size
        self.dtype = np.uint8 if len(categories) < 256 else np.uint16
        self.values = np.arange(1, len(categories) + 1, dtype=self.dtype)  # of the map, by class; 0 is void
        if shown is not None:
            self.values[[index not in shown for index in range(len(categories))]] = 0
        self.pixels = np.zeros(len(categories), np.int64)
        self.shares = np.zeros(len(categories))  # summed over the pixels of the class
        self.by_id: dict[int, Segment] = {}  # of the classes seen so far

    @property
    def segments(self) -> list[Segment]:
        return [self.by_id[id] for id in sorted(self.by_id)]

    def decide(self, tubes: Tubes) -> SemanticDecision:
        return SemanticDecision(self, tubes)

    def update(self) -> None:
        """Have a segment for every class that was seen so far, with its score so far."""
        for index in np.flatnonzero(self.pixels * (self.values > 0)).tolist():
            score = float(self.shares[index] / self.pixels[index])
            segment = self.by_id.setdefault(index + 1, Segment(index + 1, self.categories[index], score))
            segment.score = score


class SemanticDecision:
    """One horizon; each frame's map is final as soon as it is made."""

    def __init__(self, task: SemanticTask, tubes: Tubes) -> None:
        self._task, self._tubes = task, tubes
        self._weights = tubes.class_probs[:, :-1].float().T.contiguous()  # (K, Q)
        self._there: Tensor | None = None  # the same on the masks' device
        self._queries = torch.arange(self._weights.shape[1])

    def frame(self, index: int) -> np.ndarray:
        """(height, width): the map, class index + 1."""
        masks = self._tubes.masks(index, self._queries)
        if self._there is None:
            self._there = send(self._weights, masks.device)
        height, width = self._task.size
        ids = np.empty((height, width), self._task.dtype)
        at_once = DENSE_BYTES if accelerated(masks.device) else BAND_BYTES
        step = max(1, at_once // (4 * width * sum(self._weights.shape)))
        for first in range(0, height, step):
            rows = slice(first, min(first + step, height))
            ids[rows] = self._band(masks, rows)
        return ids

    def _band(self, masks: FrameMasks, rows: slice) -> np.ndarray:
        assert self._there is not None
        sums = torch.einsum("kq,qhw->khw", self._there, masks.band(rows))
        best, winner = sums.max(dim=0)
        share = best / sums.sum(dim=0).clamp(min=1e-12)
        small = winner.to(torch.uint8) if len(self._weights) < 256 else winner.int()
        ids, shares = (part.numpy() for part in fetch(small, share))
        task, count = self._task, len(self._weights)
        task.pixels += np.bincount(ids.ravel(), minlength=count)
        task.shares += np.bincount(ids.ravel(), shares.ravel(), minlength=count)
        return task.values[ids]

    def close(self) -> None:
        self._task.update()

    def finish(self, frame: Frame, stored: np.ndarray) -> PanopticFrame:
        known = self._task.by_id
        seen = np.flatnonzero(np.bincount(stored.ravel()))
        present = {int(id): known[int(id)] for id in seen if id}
        return PanopticFrame(frame.index, frame.pts, frame.rgb, stored.astype(np.int32), present, frame.name)
