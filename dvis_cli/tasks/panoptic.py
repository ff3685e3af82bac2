"""From queries to a panoptic video (VPS), one frame at a time.

Three decisions are made per query for all frames together: is it an object at all, is it hidden by others,
which id does it get. So one pass over the frames is enough that keeps a winner map per frame and three
counts per query; the ids are then a look-up table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from dvis_cli.layers.cells import Cells
from dvis_cli.layers.masks import FrameMasks, Tubes
from dvis_cli.layers.transfer import accelerated, fetch, send
from dvis_cli.structures import Category, Frame, PanopticFrame, Segment, SoftEdges

from .chosen import Chosen, SegmentList

QUERIES_AT_ONCE = 8  # masks held at the output size at any moment
DENSE_BYTES = 2**28  # of masks at the output size, on a GPU
MAX_KEPT = 2**16 - 1  # what a winner map can number
SURE = 0.5  # probability from which on a pixel is in a mask
GONE = 24  # frames after which what comes back in a row is another object
ROUNDING = 1e-6  # a bound of probabilities is not relied upon closer than this


@dataclass
class WinnerCounts:
    """Pixels of each kept query, summed over frames. All (N,) int64."""

    won: np.ndarray  # its score times probability is the largest
    own: np.ndarray  # its probability is at least 0.5, whoever wins
    assigned: np.ndarray  # both


def keep_queries(class_probs: Tensor, threshold: float) -> Chosen:
    """Select the queries whose strongest class is real and likelier than `threshold`.

    Args:
        class_probs: (Q, K+1) float32, probabilities with "no object" last.
    """
    scores, classes = class_probs.max(dim=1)
    keep = (classes != class_probs.shape[1] - 1) & (scores > threshold)
    kept = keep.nonzero().squeeze(1)
    return Chosen(kept, classes[kept], scores[kept])


class WinnerMaps:
    """Makes the winner map of one frame after the other and counts pixels on the way."""

    def __init__(self, kept: Chosen) -> None:
        count = len(kept.queries)
        if count > MAX_KEPT:
            raise ValueError(f"{count} queries kept, a winner map numbers at most {MAX_KEPT}")
        self.scores = kept.scores  # (N,) on the CPU, from the first frame on where the masks are
        self.counts = WinnerCounts(*(np.zeros(count, np.int64) for _ in range(3)))
        self.dtype = np.uint8 if count < 256 else np.uint16

    def frame(self, frame_masks: FrameMasks) -> np.ndarray:
        """Who wins each pixel of one frame.

        Args:
            frame_masks: of the kept queries in this frame; at least one.

        Returns:
            (height, width) at output size: 0 where nobody's mask is, else n + 1 for kept query n.
        """
        self._begin(frame_masks)
        if accelerated(frame_masks.device):
            return self._dense(frame_masks)
        cells = frame_masks.cells()
        return self._counted(*(self._by_pixels(frame_masks) if cells is None else self._by_cells(cells)))

    def soft_frame(self, frame_masks: FrameMasks) -> np.ndarray:
        """The same, and the two queries of each pixel with the largest score times probability. All masks are made.

        Returns:
            (5, height, width): what `frame` gives; first and second query + 1, 0 where there is none; their mask
            probabilities, 0..255.
        """
        self._begin(frame_masks)
        best, next_best, own = rank(frame_masks, self.scores)
        winner = best[1].int() - 1
        sure = best[0] >= SURE * self.scores[winner]
        who, shares = torch.stack((best[1], next_best[1])), torch.stack((best[2], next_best[2]))
        pairs = torch.cat((who, (shares * 255).round())).int()
        cells = None if accelerated(frame_masks.device) else frame_masks.cells()
        if cells is not None:  # to the last bit what it is without soft edges
            winner, sure = self._by_cells(cells)
        winner, sure, pairs, own = fetch(winner, sure, pairs, own)
        if cells is None:
            self.counts.own += own.numpy()
        winners = self._counted(winner, sure)
        return np.concatenate((winners[None], pairs.numpy().astype(winners.dtype)))

    def _begin(self, frame_masks: FrameMasks) -> None:
        if not len(frame_masks):
            raise ValueError("a winner map needs at least one query")
        if self.scores.device != frame_masks.device:
            self.scores = send(self.scores, frame_masks.device)

    def _counted(self, winner: Tensor, sure: Tensor) -> np.ndarray:
        """Count who wins, (height, width) int32, and where it is in the winner's mask; the map of both."""
        count = len(self.scores)
        both = torch.bincount((winner + count * sure).flatten(), minlength=2 * count).view(2, count)
        self.counts.won += both.sum(0).cpu().numpy()
        self.counts.assigned += both[1].cpu().numpy()
        return ((winner + 1) * sure).cpu().numpy().astype(self.dtype)

    def _dense(self, frame_masks: FrameMasks) -> np.ndarray:
        """All masks at once, or as many as fit, and counts by comparison: few kernels, and one wait."""
        scores, best, winner, own = self.scores, None, None, []
        step = max(1, DENSE_BYTES // (4 * prod(frame_masks.size)))
        parts = [slice(first, first + step) for first in range(0, len(frame_masks), step)]
        for part in parts:
            masks = frame_masks.probabilities(part)
            own.append((masks >= SURE).flatten(1).sum(1))
            value, index = (masks * scores[part, None, None]).max(dim=0)
            if best is None or winner is None:
                best, winner = value, index
                continue
            winner = torch.where(value > best, index + part.start, winner)
            best = torch.maximum(best, value)
        assert best is not None and winner is not None
        sure = best >= SURE * scores[winner]
        numbers = torch.arange(len(frame_masks), device=winner.device)[:, None, None]
        won, assigned = [], []
        for part in parts:
            mine = winner == numbers[part]
            won.append(mine.flatten(1).sum(1))
            assigned.append((mine & sure).flatten(1).sum(1))
        counts = torch.stack([torch.cat(counted) for counted in (won, own, assigned)])
        drawn = ((winner + 1) * sure).to(torch.uint8 if self.dtype == np.uint8 else torch.int32)
        drawn, counts = fetch(drawn, counts)
        self.counts.won += counts[0].numpy()
        self.counts.own += counts[1].numpy()
        self.counts.assigned += counts[2].numpy()
        return drawn.numpy().astype(self.dtype)  # a copy: it waits, and pinned memory should not

    def _by_pixels(self, frame_masks: FrameMasks) -> tuple[Tensor, Tensor]:
        """Who wins each pixel, (height, width) int32, and whether it is in the winner's mask. All masks are made."""
        best = winner = None
        own = []
        for first in range(0, len(frame_masks), QUERIES_AT_ONCE):
            # One mask after the other: `max` over many at once is slower on a CPU than all of this.
            for n, mask in enumerate(frame_masks.probabilities(slice(first, first + QUERIES_AT_ONCE)), first):
                own.append((mask >= SURE).count_nonzero())
                value = mask * self.scores[n]
                if best is None or winner is None:
                    best, winner = value, torch.zeros_like(value, dtype=torch.int32)
                    continue
                winner.masked_fill_(value > best, n)
                torch.maximum(best, value, out=best)
        assert best is not None and winner is not None
        self.counts.own += torch.stack(own).cpu().numpy()
        return winner, best >= SURE * self.scores[winner]  # the winner's own probability is at least 0.5

    def _by_cells(self, cells: Cells) -> tuple[Tensor, Tensor]:
        """The same from bounds where they decide: masks are made along borders and where several compete."""
        scores = self.scores[:, None, None]
        rivals = cells.high * scores >= (cells.low * scores).amax(0) - ROUNDING  # (N, n, m): may win here
        full = cells.low >= SURE + ROUNDING
        border = ~full & (cells.high >= SURE - ROUNDING)
        made = ((rivals & (rivals.sum(0) > 1)) | border) & (cells.pixels > 0)
        own = ((full & ~made) * cells.pixels).flatten(1).sum(1)
        # Where nothing is made there is one rival, or no pixel.
        first = rivals.to(torch.uint8).argmax(0)
        decided = first * 2 + full.gather(0, first[None])[0]  # 2 x winner + whether it is sure
        code = decided.int().flatten()[:, None].repeat(1, cells.block[0] * cells.block[1])
        best = torch.zeros(code.shape, device=code.device)
        for n, score in enumerate(self.scores):
            chosen = made[n].flatten().nonzero()[:, 0]
            mask = cells.blocks(n, chosen)
            inside = mask >= SURE
            own[n] += inside.count_nonzero()
            value = mask * (score * rivals[n].flatten()[chosen])[:, None]
            before = best.index_select(0, chosen)
            better = value > before
            best.index_copy_(0, chosen, torch.maximum(value, before))
            mine = code.index_select(0, chosen).masked_fill_(better, 2 * n)
            code.index_copy_(0, chosen, mine.masked_fill_(better & inside, 2 * n + 1))
        self.counts.own += own.cpu().numpy()
        code = cells.picture(code)
        return code >> 1, (code & 1).bool()


def rank(frame_masks: FrameMasks, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two queries of each pixel with the largest score times probability, and the pixels of each query's mask.

    Returns:
        twice (3, height, width) float32: score times probability, query + 1 (0: none), probability; (N,) int64.
    """
    best = next_best = None
    own = []
    for start in range(0, len(frame_masks), QUERIES_AT_ONCE):
        for n, mask in enumerate(frame_masks.probabilities(slice(start, start + QUERIES_AT_ONCE)), start):
            # Value, who, probability.
            new = torch.stack((mask * scores[n], torch.full_like(mask, n + 1), mask))
            own.append((mask >= SURE).count_nonzero())
            if best is None or next_best is None:
                best, next_best = new, torch.zeros_like(new)
                continue
            lower = torch.where(new[0] > best[0], best, new)
            best = torch.where(new[0] > best[0], new, best)
            next_best = torch.where(lower[0] > next_best[0], lower, next_best)
    assert best is not None and next_best is not None
    return best, next_best, torch.stack(own)


class Identities(SegmentList):
    """Which tube is which segment: a (number of a tube, class) pair is one object, a stuff class is one segment.

    A row that held nothing for a while is free for another object, which is not the one that left.
    """

    def __init__(self, categories: Sequence[Category]) -> None:
        super().__init__(categories)
        self._frame = 0  # of the video, where the next horizon begins
        self._left: dict[tuple[int, int], int] = {}  # frame after the last horizon with the object
        self._lives: Counter[tuple[int, int]] = Counter()

    def table(
        self,
        kept: Chosen,
        counts: WinnerCounts,
        overlap_threshold: float,
        numbers: Sequence[int] | None = None,
        shown: Collection[int] | None = None,
        frames: int = 1,
    ) -> np.ndarray:
        """Decide which kept tubes are visible enough and number them.

        Args:
            numbers: of the kept tubes, the same in every horizon (`Tubes.numbers`); None: their rows.
            shown: contiguous classes that get segments, the rest is void; None: all.
            frames: of this horizon.

        Returns:
            (N + 1,) int32: winner map value to segment id; 0 stays void.
        """
        ids = np.zeros(len(kept.queries) + 1, np.int32)
        numbers = kept.queries.tolist() if numbers is None else numbers
        rows = zip(numbers, kept.classes.tolist(), kept.scores.tolist(), strict=True)
        for n, (number, index, score) in enumerate(rows):
            if counts.assigned[n] == 0 or counts.won[n] / counts.own[n] < overlap_threshold:
                continue
            if shown is not None and index not in shown:
                continue
            key = (number if self.categories[index].isthing else -1, index)
            if self._frame - self._left.get(key, self._frame) >= GONE and key[0] >= 0:
                self._lives[key] += 1
            self._left[key] = self._frame + frames
            life = (*key, self._lives[key])
            ids[n + 1] = self.segment(life, index, score, int(counts.assigned[n])).id
        self._frame += frames
        return ids


class PanopticTask:
    """The panoptic decision over one horizon after the other: a `Task`.

    Args:
        categories: in the order of the class probabilities.
        size: (height, width) of the output.
        score_threshold, overlap_threshold: 0..1.
        shown: contiguous classes that get segments; None: all. They win no pixel that they would not win among all.
        soft: whether frames come with their `SoftEdges`, for which all masks are made.
    """

    def __init__(
        self,
        categories: Sequence[Category],
        size: tuple[int, int],
        score_threshold: float,
        overlap_threshold: float,
        shown: Collection[int] | None = None,
        soft: bool = False,
    ) -> None:
        self.size, self.shown, self.soft = size, shown, soft
        self.score_threshold, self.overlap_threshold = score_threshold, overlap_threshold
        self.identities = Identities(categories)

    @property
    def segments(self) -> list[Segment]:
        return self.identities.segments

    def decide(self, tubes: Tubes) -> PanopticDecision:
        return PanopticDecision(self, tubes)


class PanopticDecision:
    """One horizon: winner maps and counts first, then the table that turns them into ids."""

    def __init__(self, task: PanopticTask, tubes: Tubes) -> None:
        self._task, self._tubes = task, tubes
        kept = keep_queries(tubes.class_probs, task.score_threshold)
        self._kept = replace(kept, scores=kept.scores * tubes.weights[kept.queries])
        self._numbers = tubes.numbers(kept.queries)
        self._maps = WinnerMaps(self._kept)
        self._frames = 0
        self._table = np.zeros(1, np.int32)
        self._by_id: dict[int, Segment] = {}

    def frame(self, index: int) -> np.ndarray:
        """(height, width): the winner map; with soft edges (5, height, width), see `WinnerMaps`."""
        self._frames += 1
        if len(self._kept.queries) == 0:
            return np.zeros(self._task.size, self._maps.dtype)
        masks = self._tubes.masks(index, self._kept.queries)
        return self._maps.soft_frame(masks) if self._task.soft else self._maps.frame(masks)

    def close(self) -> None:
        identities = self._task.identities
        self._table = identities.table(
            self._kept,
            self._maps.counts,
            self._task.overlap_threshold,
            self._numbers,
            self._task.shown,
            self._frames,
        )
        self._by_id = {segment.id: segment for segment in identities.segments}

    def finish(self, frame: Frame, stored: np.ndarray) -> PanopticFrame:
        soft = None
        if stored.ndim == 3:
            soft, stored = SoftEdges(self._table[stored[1:3]], stored[3:].astype(np.uint8)), stored[0]
        ids = self._table[stored]
        # A third of the time of `np.unique`.
        seen = np.bincount(stored.ravel(), minlength=len(self._table)) > 0
        present = {int(n): self._by_id[int(n)] for n in np.unique(self._table[seen]) if n}
        return PanopticFrame(frame.index, frame.pts, frame.rgb, ids, present, frame.name, soft)
