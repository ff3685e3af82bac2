"""Which query of this frame continues which query of the last: Hungarian matching on cosine similarity."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def match_direct(reference: Tensor, current: Tensor) -> Tensor:
    """The permutation that continues the reference: row r goes on in `current[indices[r]]` (MinVIS).

    Args:
        reference, current: (Q, C), the last frame's and this frame's queries.

    Returns:
        (Q,) int64 on the CPU.
    """
    return assign(_distance(reference, current))


def match_published(reference: Tensor, current: Tensor) -> Tensor:
    """The permutation that published referring trackers were trained with.

    The assignment is solved with current queries as rows and reference queries as columns, and the column of
    each row is then used to index the current queries. That is the inverse of `match_direct`; the two agree
    where the permutation is its own inverse. Changing it would break every published checkpoint (spec, 3.1).

    Shapes as in `match_direct`.
    """
    return assign(_distance(current, reference))


def _distance(rows: Tensor, columns: Tensor) -> Tensor:
    """(Q, Q) float32, whatever the autocast: 1 - cosine similarity; NaN, as from broken features, counts as 0."""
    with torch.autocast(rows.device.type, enabled=False):
        rows, columns = rows.detach().float(), columns.detach().float()
        rows = rows / (rows.norm(dim=1, keepdim=True) + 1e-6)
        columns = columns / (columns.norm(dim=1, keepdim=True) + 1e-6)
        return (1 - rows @ columns.T).nan_to_num(nan=0.0)


def assign(cost: Tensor) -> Tensor:
    """The cheapest permutation: row r of (Q, Q) costs goes with column indices[r]. (Q,) int64 on the CPU."""
    return torch.from_numpy(linear_sum_assignment(cost.cpu().numpy())[1])
