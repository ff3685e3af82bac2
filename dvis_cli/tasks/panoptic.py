"""From queries to a panoptic video (spec, section 5), one frame at a time.

Three decisions are made per query for all frames together: is it an object at all, is it hidden by others,
which id does it get. So one pass over the frames is enough that keeps a winner map per frame and three
counts per query; the ids are then a look-up table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dvis_cli.structures import Category, Geometry, Segment

QUERIES_AT_ONCE = 8  # masks held at the output size at any moment
MAX_KEPT = 2**16 - 1  # what a winner map can number


@dataclass(frozen=True)
class KeptQueries:
    """The queries that stand for something, strongest class each."""

    queries: Tensor  # (N,) int64: rows of the tracks
    classes: Tensor  # (N,) int64: contiguous class
    scores: Tensor  # (N,) float32 in 0..1


@dataclass
class WinnerCounts:
    """Pixels of each kept query, summed over frames. All (N,) int64."""

    won: np.ndarray  # its score times probability is the largest
    own: np.ndarray  # its probability is at least 0.5, whoever wins
    assigned: np.ndarray  # both


def keep_queries(class_probs: Tensor, threshold: float) -> KeptQueries:
    """Select the queries whose strongest class is real and likelier than `threshold`.

    Args:
        class_probs: (Q, K+1) float32, probabilities with "no object" last.
    """
    scores, classes = class_probs.max(dim=1)
    keep = (classes != class_probs.shape[1] - 1) & (scores > threshold)
    kept = keep.nonzero().squeeze(1)
    return KeptQueries(kept, classes[kept], scores[kept])


def offline_class_probs(refined: Tensor, online: Tensor) -> Tensor:
    """Merge what the refiner and the tracker think of each query: the elementwise maximum over real classes.

    Args:
        refined: (Q, K+1) probabilities of the refiner.
        online: (Q, K+1) softmax of the tracker's time-averaged logits.

    Returns:
        (Q, K+1); how likely a query is no object is the refiner's word alone.
    """
    return torch.cat((torch.maximum(refined, online)[:, :-1], refined[:, -1:]), dim=1)


class WinnerMaps:
    """Makes the winner map of one frame after the other and counts pixels on the way."""

    def __init__(self, kept: KeptQueries, geometry: Geometry) -> None:
        count = len(kept.queries)
        if count > MAX_KEPT:
            raise ValueError(f"{count} queries kept, a winner map numbers at most {MAX_KEPT}")
        self.scores = kept.scores
        self.geometry = geometry
        self.counts = WinnerCounts(*(np.zeros(count, np.int64) for _ in range(3)))
        self.dtype = np.uint8 if count < 256 else np.uint16

    def frame(self, mask_embeds: Tensor, mask_features: Tensor) -> np.ndarray:
        """Who wins each pixel of one frame.

        Args:
            mask_embeds: (N, C) of the kept queries in this frame.
            mask_features: (C, h, w).

        Returns:
            (height, width) at output size: 0 where nobody's mask is, else n + 1 for kept query n.
        """
        best: Tensor | None = None
        winner = sure = best
        for first in range(0, len(mask_embeds), QUERIES_AT_ONCE):
            part = slice(first, first + QUERIES_AT_ONCE)
            logits = torch.einsum("nc,chw->nhw", mask_embeds[part].float(), mask_features.float())
            masks = mask_probabilities(logits, self.geometry)
            inside = masks >= 0.5
            self.counts.own[part] = self.counts.own[part] + inside.sum(dim=(1, 2)).cpu().numpy()
            value, index = (masks * self.scores[part, None, None]).max(dim=0)
            mine = inside.gather(0, index[None])[0]
            index = index + first
            if best is None or winner is None or sure is None:
                best, winner, sure = value, index, mine
            else:
                better = value > best
                best = torch.where(better, value, best)
                winner = torch.where(better, index, winner)
                sure = torch.where(better, mine, sure)
        if winner is None or sure is None:
            return np.zeros(self.geometry.output, self.dtype)
        count = len(mask_embeds)
        self.counts.won += torch.bincount(winner.flatten(), minlength=count).cpu().numpy()
        self.counts.assigned += torch.bincount(winner[sure], minlength=count).cpu().numpy()
        return ((winner + 1) * sure).cpu().numpy().astype(self.dtype)


def mask_probabilities(logits: Tensor, geometry: Geometry) -> Tensor:
    """Mask logits at stride 4 to probabilities at the output size.

    Args:
        logits: (N, h, w).

    Returns:
        (N, height, width) in 0..1: up to the padded size, crop, sigmoid, to the output size.
    """
    masks = F.interpolate(logits[None], geometry.padded, mode="bilinear", align_corners=False)
    height, width = geometry.resized
    masks = masks[:, :, :height, :width].sigmoid()
    if geometry.output != geometry.resized:
        masks = F.interpolate(masks, geometry.output, mode="bilinear", align_corners=False)
    return masks[0]


@dataclass
class Identities:
    """Who is who over a whole video: a (query, class) pair is one object, a stuff class is one segment.

    A long video is decided in several horizons; an object that was there before keeps its id.
    """

    categories: Sequence[Category]
    segments: list[Segment] = field(default_factory=list)
    _by_key: dict[tuple[int, int], Segment] = field(default_factory=dict)
    _weights: dict[int, int] = field(default_factory=dict)  # segment id -> pixels that its score stands for

    def table(self, kept: KeptQueries, counts: WinnerCounts, overlap_threshold: float) -> np.ndarray:
        """Decide which kept queries are visible enough and number them.

        Returns:
            (N + 1,) int32: winner map value to segment id; 0 stays void.
        """
        ids = np.zeros(len(kept.queries) + 1, np.int32)
        rows = zip(kept.queries.tolist(), kept.classes.tolist(), kept.scores.tolist(), strict=True)
        for n, (query, index, score) in enumerate(rows):
            if counts.assigned[n] == 0 or counts.won[n] / counts.own[n] < overlap_threshold:
                continue
            ids[n + 1] = self._segment(query, index, score, int(counts.assigned[n])).id
        return ids

    def _segment(self, query: int, index: int, score: float, pixels: int) -> Segment:
        category = self.categories[index]
        key = (query, index) if category.isthing else (-1, index)
        segment = self._by_key.get(key)
        if segment is None:
            segment = Segment(len(self.segments) + 1, category, score)
            self.segments.append(segment)
            self._by_key[key] = segment
            self._weights[segment.id] = pixels
            return segment
        seen = self._weights[segment.id]
        segment.score = (segment.score * seen + score * pixels) / (seen + pixels)
        self._weights[segment.id] = seen + pixels
        return segment
