"""What is drawn of a frame: its map, or overlapping masks as one."""

from __future__ import annotations

import numpy as np

from dvis_cli.coco_masks import decode
from dvis_cli.structures import FinishedFrame, InstanceFrame, Segment

SHOWN_FROM = 0.5  # tubes less certain than this are in the files, but not in the picture
_HIDDEN = 0.3  # a mask of which less than this share is on top is not drawn: it repeats what is


def shown_map(frame: FinishedFrame, shown_from: float = SHOWN_FROM) -> tuple[np.ndarray, dict[int, Segment]]:
    """A frame's map; of instances the likeliest things, each pixel with the likeliest one that covers it.

    Their stuff is left out: a tube of it covers what is behind the things. So are tubes that lie nearly all under
    likelier ones, the same object once more as a rule.

    Args:
        shown_from: of instances, 0..1: the least score.

    Returns:
        (height, width) int32 ids, 0 where nothing is shown, and the segments that are shown.
    """
    if not isinstance(frame, InstanceFrame):
        return frame.ids, frame.segments
    height, width = frame.rgb.shape[:2]
    ids = np.zeros((height, width), np.int32)
    shown: dict[int, Segment] = {}
    things = [segment for segment in frame.segments.values() if segment.category.isthing]
    for segment in sorted(things, key=lambda segment: (-segment.score, segment.id)):
        if segment.score < shown_from:
            break
        mask = decode([frame.masks[segment.id]], (height, width))[0]
        free = mask & (ids == 0)
        if free.sum() >= _HIDDEN * mask.sum():
            ids[free] = segment.id
            shown[segment.id] = segment
    return ids, shown
