"""What happens in a batch, as it happens and in the end; and how to stop it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, Literal

# docs/batch.md lists the fields of each.
EventKind = Literal[
    "started",
    "note",
    "worker",
    "video_started",
    "progress",
    "warning",
    "video_done",
    "video_retried",
    "video_failed",
    "finished",
]
Stopped = Literal["interrupted", "terminated", "failures", "full", "workers"]
EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_ELSEWHERE = 0, 1, 3, 4


@dataclass(frozen=True)
class Event:
    """One thing that happened; `data` holds JSON's own types only."""

    kind: EventKind
    data: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        """As the event stream shows it."""
        return {"event": self.kind, **self.data}


OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Failure:
    """A video without a result, and why."""

    key: str
    source: str
    error: str
    earlier: bool = False  # it failed in an earlier run and was not tried again


@dataclass
class BatchReport:
    """How a batch ended."""

    total: int = 0  # videos that the sources mean, of this part
    done: int = 0  # by this run
    skipped: int = 0  # done before, and unchanged
    redone: dict[str, int] = field(default_factory=dict)  # done again, by reason
    failed: list[Failure] = field(default_factory=list)
    left: int = 0  # not begun, or not finished, when the run was stopped
    elsewhere: int = 0  # another run was working on them
    frames: int = 0  # by this run
    warnings: int = 0  # of the videos, each a `warning` event
    seconds: float = 0.0
    stopped: Stopped | None = None
    reason: str | None = None  # why it stopped, or who else is at work, one line
    problems: list[str] = field(default_factory=list)  # folders that could not be searched

    @property
    def exit_code(self) -> int:
        """0: all done. 1: something failed. 3: stopped early. 4: another run does the rest. 130, 143: a signal."""
        if self.stopped is not None:
            return {"interrupted": 130, "terminated": 143}.get(self.stopped, EXIT_STOPPED)
        if self.failed or self.problems:
            return EXIT_FAILED
        return EXIT_ELSEWHERE if self.elsewhere else EXIT_DONE

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "exit_code": self.exit_code}


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

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self.kind = "terminated"
        self.ask(at_once=number == signal.SIGTERM)
