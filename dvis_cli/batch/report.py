"""What happens in a batch, as it happens and in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

EventKind = Literal[
    "started",  # engine, workers, total, todo, skipped, failed_before, redo: {reason: videos}
    "note",  # text
    "worker",  # worker, text: ready after seconds, or died
    "video_started",  # key, source, worker, try
    "progress",  # videos, total, failed, frames, frames_per_second, seconds_left, current: [{key, frames, total}]
    "warning",  # key, text
    "video_done",  # key, source, frames, segments, seconds
    "video_retried",  # key, source, error, try
    "video_failed",  # key, source, error
    "finished",  # the report
]
Stopped = Literal["interrupted", "terminated", "failures", "full"]
EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 3, 130, 143


@dataclass(frozen=True)
class Event:
    """One thing that happened; `data` holds JSON's own types only. docs/batch.md lists the fields."""

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
    frames: int = 0  # by this run
    seconds: float = 0.0
    stopped: Stopped | None = None
    reason: str | None = None  # why it stopped, one line
    problems: list[str] = field(default_factory=list)  # folders that could not be searched

    @property
    def exit_code(self) -> int:
        """0: all done. 1: something failed. 3: stopped early. 130, 143: stopped by a signal."""
        if self.stopped is not None:
            codes = {"interrupted": EXIT_INTERRUPTED, "terminated": EXIT_TERMINATED}
            return codes.get(self.stopped, EXIT_STOPPED)
        return EXIT_FAILED if self.failed or self.problems else EXIT_DONE

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "exit_code": self.exit_code}
