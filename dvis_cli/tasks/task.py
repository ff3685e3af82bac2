"""What a task is: it decides one horizon after the other, frame by frame, and keeps identities over them.

    tubes of a horizon -> decide -> frame, frame, ... -> close -> finish, finish, ...

What `frame` returns waits (in a spool) until the horizon is closed; `finish` may come while the next horizon
is already in the network, so a decision must not use its tubes after `close`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from dvis_cli.layers.masks import Tubes
from dvis_cli.structures import FinishedFrame, Frame, Segment


class Decision(Protocol):
    """What is decided over one horizon."""

    def frame(self, index: int) -> np.ndarray:
        """Look at a frame of the horizon (0, 1, ...); called once for each, in order.

        Returns:
            what must be kept of it, of any shape and type.
        """
        ...

    def close(self) -> None:
        """All frames have been seen: decide."""
        ...

    def finish(self, frame: Frame, stored: np.ndarray) -> FinishedFrame:
        """The result for one frame, from what `frame` returned for it; only after `close`."""
        ...


class Task(Protocol):
    """One task over a whole video."""

    @property
    def segments(self) -> list[Segment]:
        """All that has been found so far, ids ascending."""
        ...

    def decide(self, tubes: Tubes) -> Decision:
        """Begin with the next horizon."""
        ...
