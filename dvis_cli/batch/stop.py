"""Being asked to stop: once to finish what is under way, twice to drop it."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from .report import Stopped


class Stop:
    """How urgently the run should end. As a context manager it listens to signals, in the main thread.

    Ctrl-C (SIGINT) once finishes the videos under way, twice stops at once. SIGTERM, with which schedulers and
    containers announce a kill, stops at once.
    """

    def __init__(self) -> None:
        self.level = 0  # 0: go on; 1: begin nothing new; 2: stop at once
        self.kind: Stopped = "interrupted"
        self._before: dict[int, Any] = {}

    def ask(self, at_once: bool = False) -> None:
        """Ask the run to end; the second time, at once."""
        self.level = 2 if at_once else min(self.level + 1, 2)

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self.kind = "terminated"
        self.ask(at_once=number == signal.SIGTERM)
