"""From queries to instances (VIS): the likeliest (query, class) pairs, each with a mask of its own.

A pair is a *tube*: one object with one class through the video; masks of different tubes may overlap, and one
query may be there with two classes. Each horizon decides which of its tubes are the `top_k` likeliest, so a video
of one horizon is decided as a whole. In a longer video a pair that is chosen again is the same tube: it keeps its
id, and its score is the mean over the frames in which it was chosen. So a long video may hold more than `top_k`
tubes, of which no frame has more than `top_k`.

Masks are made for the chosen tubes only and leave each frame as run lengths: a few hundred bytes a mask.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dvis_cli.coco_masks import coco, encode, is_empty
from dvis_cli.layers.masks import Tubes
from dvis_cli.layers.transfer import accelerated, fetch
from dvis_cli.structures import Category, Frame, InstanceFrame, Segment

from .chosen import Chosen, SegmentList

QUERIES_AT_ONCE = 8  # masks held at the output size at any moment
_BETWEEN = "\n"  # codes hold no such character


def choose_tubes(
    class_probs: Tensor, top_k: int, threshold: float = 0.0, shown: Collection[int] | None = None
) -> Chosen:
    """The `top_k` likeliest pairs of a query and a real class, as far as they are likelier than `threshold`.

    Args:
        class_probs: (Q, K+1) float32, probabilities with "no object" last.
        shown: contiguous classes to choose from; None: all.
    """
    real = class_probs[:, :-1]
    if shown is not None:
        kept = torch.zeros(real.shape[1], dtype=torch.bool, device=real.device)
        kept[list(shown)] = True
        real = real.masked_fill(~kept, -1.0)
    scores, rows = real.flatten().topk(min(top_k, real.numel()))
    sure = scores > threshold  # the others' -1 is never
    scores, rows = scores[sure], rows[sure]
    return Chosen(rows // real.shape[1], rows % real.shape[1], scores)


class TubeIdentities(SegmentList):
    """Which tube is which segment: a (number of a tube, class) pair is one object."""

    def name(self, tubes: Chosen, frames: int, numbers: Sequence[int] | None = None) -> list[Segment]:
        """The segments of the tubes chosen for a horizon of so many frames, in their order.

        `numbers` are those of the tubes, the same in every horizon (`Tubes.numbers`); None: their rows.
        """
        numbers = tubes.queries.tolist() if numbers is None else numbers
        rows = zip(numbers, tubes.classes.tolist(), tubes.scores.tolist(), strict=True)
        return [self.segment((number, index), index, score, frames, number) for number, index, score in rows]


class InstanceTask:
    """The choice of tubes over one horizon after the other: a `Task`.

    Args:
        categories: in the order of the class probabilities.
        size: (height, width) of the output.
        top_k: tubes to keep of a horizon.
        score_threshold: 0..1; tubes that are not likelier are dropped.
        shown: contiguous classes to choose from; None: all.
    """

    def __init__(
        self,
        categories: Sequence[Category],
        size: tuple[int, int],
        top_k: int,
        score_threshold: float,
        shown: Collection[int] | None = None,
    ) -> None:
        coco()  # better now than after the network has run
        self.size, self.top_k, self.score_threshold, self.shown = size, top_k, score_threshold, shown
        self.identities = TubeIdentities(categories)

    @property
    def segments(self) -> list[Segment]:
        return self.identities.segments

    def decide(self, tubes: Tubes) -> InstanceDecision:
        return InstanceDecision(self, tubes)


def _codes(inside: Tensor) -> list[str]:
    """Run-length codes of (n, height, width) bool masks. From a GPU they come as bits, column by column."""
    if not accelerated(inside.device):
        return encode(inside.numpy())
    count, height, width = inside.shape
    columns = F.pad(inside.mT.flatten(1), (0, -height * width % 8)).unflatten(1, (-1, 8))
    places = 2 ** torch.arange(7, -1, -1, device=inside.device)
    (packed,) = fetch((columns * places).sum(2).to(torch.uint8))
    bits = np.unpackbits(packed.numpy(), axis=1)[:, : height * width]
    return encode(bits.reshape(count, width, height).transpose(0, 2, 1))


class InstanceDecision:
    """One horizon: masks of the chosen tubes, frame by frame."""

    def __init__(self, task: InstanceTask, tubes: Tubes) -> None:
        self._task, self._tubes = task, tubes
        self._chosen = choose_tubes(tubes.class_probs, task.top_k, task.score_threshold, task.shown)
        self._numbers = tubes.numbers(self._chosen.queries)
        self._frames = 0
        self._segments: list[Segment] = []

    def frame(self, index: int) -> np.ndarray:
        """(n,) uint8: the run-length codes of all tubes, one a line."""
        self._frames += 1
        codes: list[str] = []
        if len(self._chosen.queries):
            masks = self._tubes.masks(index, self._chosen.queries)
            for first in range(0, len(masks), QUERIES_AT_ONCE):
                codes += _codes(masks.logits(slice(first, first + QUERIES_AT_ONCE)) > 0)
        return np.frombuffer(_BETWEEN.join(codes).encode("ascii"), np.uint8)

    def close(self) -> None:
        self._segments = self._task.identities.name(self._chosen, self._frames, self._numbers)

    def finish(self, frame: Frame, stored: np.ndarray) -> InstanceFrame:
        codes = stored.tobytes().decode("ascii").split(_BETWEEN) if self._segments else []
        seen = [
            (segment, code) for segment, code in zip(self._segments, codes, strict=True) if not is_empty(code)
        ]
        masks = {segment.id: code for segment, code in seen}
        segments = {segment.id: segment for segment, _ in seen}
        return InstanceFrame(frame.index, frame.pts, frame.rgb, masks, segments, frame.name)
