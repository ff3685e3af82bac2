"""Matching with a memory: who is who when objects are missed for some frames, or found by another query.

Equation 1 of the report compares this frame's queries with the last frame's. An object that the segmenter misses in one
frame is lost by that: its row goes on with a query that holds nothing, and nothing is what it is compared with
from then on. Here each row remembers what it held: a running mean of its query and class, which stands still while
the row holds nothing, and the last mask that it had. A frame's queries are compared with these.

Not in the report, and off for published models (`tracker.matching: memory`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dvis_cli.layers.masks import coarse_masks
from dvis_cli.layers.transfer import fetch, send

from .matching import assign

RATE = 0.2  # of a new frame in what a row remembers
HELD = 0.5  # probability of being something from which on a row holds something
FADING = 0.95  # of the certainty, a frame, that a row once held something
OVERLAP = 1.0  # weight of the masks' overlap in the cost; that of the queries' similarity is 1
CLASS = 1.0  # weight of the agreement of classes


@dataclass(frozen=True, slots=True)
class Memory:
    """What the rows of the tracks held, on the CPU; masks on a coarse grid of P cells."""

    queries: Tensor  # (Q, C) running mean of unit vectors
    masks: Tensor  # (Q, P) 0..1
    class_probs: Tensor  # (Q, K+1) running mean
    held: Tensor  # (Q,) 0..1: how sure it is that the row held something lately


def orders_with_memory(
    queries: Tensor, class_logits: Tensor, mask_embeds: Tensor, features: Tensor, memory: Memory | None
) -> tuple[Tensor, Memory]:
    """Put the queries of the next T frames in the order of the tracks.

    Args:
        queries: (T, Q, C) segmenter queries; what the segmenter says of them follows.
        class_logits: (T, Q, K+1).
        mask_embeds: (T, Q, C).
        features: (T, C, h, w).
        memory: what the last call returned; None at the beginning of a video.

    Returns:
        (T, Q) int64 on the queries' device: which query goes on in each row; and the memory after these frames.
    """
    unit = F.normalize(queries.float(), dim=-1).nan_to_num()
    probs = class_logits.float().softmax(-1).nan_to_num()
    masks = coarse_masks(mask_embeds, features).flatten(2).sigmoid().nan_to_num()
    orders = []
    # Frame follows frame, so all of it is done on the host, for one wait.
    for query, mask, likely in zip(*fetch(unit, masks, probs), strict=True):
        order, memory = _continue(Memory(query, mask, likely, likely[:, :-1].sum(1)), memory)
        orders.append(order)
    assert memory is not None, "no frames"
    return send(torch.stack(orders), queries.device), memory


def _continue(now: Memory, before: Memory | None) -> tuple[Tensor, Memory]:
    """The order (Q,) of one frame, and what is remembered after it."""
    if before is None:
        return torch.arange(len(now.held)), now
    cost = 1 - F.normalize(before.queries, dim=-1) @ now.queries.T
    cost -= OVERLAP * _overlap(before.masks, now.masks)
    cost -= CLASS * before.class_probs[:, :-1] @ now.class_probs[:, :-1].T
    order = assign(cost)
    held = now.held[order]
    # A row that held something and finds nothing keeps what it knows.
    learns = ((held >= HELD) | (before.held <= HELD))[:, None]
    rate = RATE * learns
    return order, Memory(
        before.queries.lerp(now.queries[order], rate),
        torch.where(learns, now.masks[order], before.masks),
        before.class_probs.lerp(now.class_probs[order], rate),
        torch.maximum(FADING * before.held, held),
    )


def _overlap(before: Tensor, now: Tensor) -> Tensor:
    """(Q, Q) soft IoU of masks (Q, P); next to nothing overlaps with nothing."""
    both = before @ now.T
    return both / (before.square().sum(1)[:, None] + now.square().sum(1) - both + 1)
