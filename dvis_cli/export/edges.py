"""How much of a pixel belongs to what was chosen: alpha with soft edges."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from dvis_cli.structures import FinishedFrame, PanopticFrame, Segment, SoftEdges

from .seen import union_of

BAND = 90  # edges are soft within the short side divided by this, in pixels
SURE = (0.08, 0.92)  # mask probabilities from which on a pixel is wholly outside, wholly inside
SMOOTH = 0.7  # standard deviation in pixels of the antialiasing where no probabilities are known


def alpha_of(frame: FinishedFrame, chosen: Callable[[Segment], bool]) -> np.ndarray:
    """(height, width) uint8: 255 inside of what was chosen, 0 outside, between them along its edges.

    Where the frame has its mask probabilities the edge follows them; else the map's edge is antialiased. A pixel has
    128 or more exactly when it is chosen in the map with probabilities, and nearly so without.
    """
    union = union_of(frame, chosen).astype(np.uint8)
    if isinstance(frame, PanopticFrame) and frame.soft is not None:
        return _from_probabilities(
            union, frame.soft, [id for id, one in frame.segments.items() if chosen(one)]
        )
    return cv2.GaussianBlur(union * 255, (0, 0), SMOOTH)


def _from_probabilities(union: np.ndarray, soft: SoftEdges, ids: list[int]) -> np.ndarray:
    first, second = np.isin(soft.ids[0], ids), np.isin(soft.ids[1], ids)
    # Where another one is the likeliest, only what its probability leaves.
    rest = np.minimum(soft.shares[1], 255 - soft.shares[0])
    share = np.where(first, soft.shares[0], np.where(second, rest, 0)) / np.float32(255)
    alpha = np.clip((share - SURE[0]) / (SURE[1] - SURE[0]), 0, 1) * 255
    # Further from the edge there is less and less that the probabilities may say against the map.
    reach = max(2, round(min(union.shape) / BAND))
    inwards, outwards = (
        np.clip(cv2.distanceTransform(side, cv2.DIST_L2, 3) / reach - 1, 0, 1) for side in (union, 1 - union)
    )
    alpha = np.where(
        union > 0, np.maximum(alpha, 128 + 127 * inwards), np.minimum(alpha, 127 * (1 - outwards))
    )
    return np.rint(alpha).astype(np.uint8)
