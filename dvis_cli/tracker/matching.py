"""Which query of this frame continues which query of the last: Hungarian matching on cosine similarity.

What is compared are queries of the segmenter, which are there for many frames at once; only their order depends on the
frames before. So the similarities of all pairs of neighbouring frames are made together and fetched once.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dvis_cli.layers.transfer import fetch, send


def match_frames(current: Tensor, last: Tensor | None, published: bool = False) -> Tensor:
    """The order of every frame's queries, each matched with the frame before in its order.

    Args:
        current: (B, T, Q, C), the queries of the next T frames.
        last: (B, Q, C), the queries of the frame before in track order; None at the beginning of a video, whose
            first frame keeps its order.
        published: the permutation that published referring trackers were trained with: the assignment is solved with
            current queries as rows and the last frame's as columns, and the column of each row then indexes the
            current queries. That is the inverse of the direct one (MinVIS), in which row r goes on in
            `current[order[r]]`; changing it would break every published checkpoint.

    Returns:
        (B, T, Q) int64 on the queries' device. The device is waited for once.
    """
    before = torch.cat((current[:, :1] if last is None else last[:, None], current[:, :-1]), dim=1)
    costs = _distance(current, before) if published else _distance(before, current)
    orders = np.empty(current.shape[:3], np.int64)
    for video, frames in enumerate(fetch(costs)[0].numpy()):
        order = np.arange(current.shape[2])
        for frame, cost in enumerate(frames):
            if frame or last is not None:
                in_order = cost[:, order] if published else cost[order]
                order = linear_sum_assignment(in_order)[1]
            orders[video, frame] = order
    return send(orders, current.device)


def _distance(rows: Tensor, columns: Tensor) -> Tensor:
    """(..., Q, Q) float32, whatever the autocast: 1 - cosine similarity; NaN, as from broken features, counts as 0.

    Each (..., Q, C).
    """
    with torch.autocast(rows.device.type, enabled=False):
        rows, columns = rows.detach().float(), columns.detach().float()
        rows = rows / (rows.norm(dim=-1, keepdim=True) + 1e-6)
        columns = columns / (columns.norm(dim=-1, keepdim=True) + 1e-6)
        return (1 - rows @ columns.mT).nan_to_num(nan=0.0)


def assign(cost: Tensor) -> Tensor:
    """The cheapest permutation: row r of (Q, Q) costs goes with column indices[r]. (Q,) int64 on the CPU."""
    return torch.from_numpy(linear_sum_assignment(cost.cpu().numpy())[1])
