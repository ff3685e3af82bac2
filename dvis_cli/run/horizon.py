"""A full horizon: its frames are decided on, beside the network of the next one, and come out finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, wait
from itertools import islice

import torch

from dvis_cli.layers.masks import Tubes
from dvis_cli.structures import FinishedFrame
from dvis_cli.tasks.task import Decision

from .spool import WaitingFrames


class FullHorizon:
    """What was found in a horizon and the frames that wait for its decision.

    Args:
        decision: of this horizon; the one before it is closed.
        tubes: what is decided from. Closed when nothing is read from it any more.
        waiting: the frames.
        beside: where the decision is made; None: here and now.
        on_frame: called with the number of frames of the video that are decided, by the thread that made this.
    """

    def __init__(
        self,
        decision: Decision,
        tubes: Tubes,
        waiting: WaitingFrames,
        beside: Executor | None,
        on_frame: Callable[[int], None],
    ) -> None:
        self._decision, self._tubes, self._waiting = decision, tubes, waiting
        self._beside, self._on_frame = beside, on_frame
        self._stopped = False
        self._finished = (decision.finish(*pair) for pair in waiting.take())
        if beside is not None:
            self._decided = beside.submit(self._decide)
        else:
            self._decided = Future()
            self._decide()
            self._decided.set_result(None)

    def take(self, most: int | None = None) -> Iterator[FinishedFrame]:
        """The next finished frames, `most` at the most: none while the decision is made. None: all, waiting for it."""
        if most is None or self._decided.done():
            self._decided.result()
            for frame in islice(self._finished, most):
                if self._beside is not None:
                    self._on_frame(frame.index + 1)
                yield frame

    def stop(self) -> None:
        """Decide no further and give memory and disk space back; nothing can be taken any more."""
        self._stopped = True
        if not self._decided.cancel():
            wait([self._decided])
        self._tubes.close()
        self._waiting.close()

    @torch.inference_mode()
    def _decide(self) -> None:
        try:
            for index, frame in enumerate(self._waiting.frames):
                if self._stopped:
                    return
                if self._beside is None:
                    self._on_frame(frame.index + 1)
                self._waiting.decide(index, self._decision.frame(index))
            self._decision.close()
        finally:
            self._tubes.close()
