"""Is a track there in a frame? Judged with the frames around in view, so it is the offline mode's to say.

A track that holds nothing in a frame has a mask all the same: that of whatever query was put in its row. Not in the
report, and off for published models (`refiner.presence`).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

CERTAIN = 6.0  # logarithm of the odds from which on a frame counts no more


def odds_of_something(class_logits: Tensor) -> Tensor:
    """(..., K+1) logits to (...) float32: the logarithm of how much likelier a query is something than nothing."""
    logits = class_logits.float()
    return logits[..., :-1].logsumexp(dim=-1) - logits[..., -1]


def judge_presence(odds: Tensor, frames: int) -> Tensor:
    """Whether a track is there, by the mean of the odds over the frames around.

    A single frame's word is too weak: an object is missed here and there, and what is found in its place for one
    frame is not there.

    Args:
        odds: (T, Q) of `odds_of_something`, T frames of a window in order.
        frames: how many frames are averaged; odd. Fewer at the ends of the window.

    Returns:
        (T, Q) bool.
    """
    certain = odds.clamp(-CERTAIN, CERTAIN).T[:, None]  # no frame counts without limit
    mean = F.avg_pool1d(certain, frames, stride=1, padding=frames // 2, count_include_pad=False)
    return mean[:, 0].T > 0
