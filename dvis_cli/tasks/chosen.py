"""What tasks choose of a horizon's tubes, and the segments that these are over a whole video."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from dvis_cli.structures import Category, Segment


@dataclass(frozen=True)
class Chosen:
    """Tubes, each with a class."""

    queries: Tensor  # (N,) int64: rows of `Tubes`; of instances a row may be there several times
    classes: Tensor  # (N,) int64: contiguous class
    scores: Tensor  # (N,) float32 in 0..1


@dataclass
class SegmentList:
    """The segments of a video. What has the same key in a later horizon is the same segment and keeps its id."""

    categories: Sequence[Category]
    segments: list[Segment] = field(default_factory=list)
    # With what its score stands for.
    _by_key: dict[Hashable, tuple[Segment, int]] = field(default_factory=dict)

    def segment(
        self, key: Hashable, index: int, score: float, weight: int, query: int | None = None
    ) -> Segment:
        """The segment of a key, made when it is new; its score is the mean, weighted by pixels or frames.

        Args:
            index: contiguous class.
            query: for `Segment.query`.
        """
        segment, seen = self._by_key.get(key, (None, 0))
        if segment is None:
            segment = Segment(len(self.segments) + 1, self.categories[index], score, query)
            self.segments.append(segment)
        else:
            segment.score = (segment.score * seen + score * weight) / (seen + weight)
        self._by_key[key] = segment, seen + weight
        return segment
