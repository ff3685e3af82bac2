"""What the scheduler says to workers and hears from them; how the workers are run is an engine's own affair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from dvis_cli.errors import DvisError

from .options import VideoSettings


@dataclass(frozen=True)
class Task:
    """One video to be done."""

    key: str
    source: str  # path or address
    out: str  # the output: folder or address; the result is `out`/`key`
    replace: bool  # whether a result that is there already is ours to replace
    say_every: float = 0.25  # seconds between reports of progress: many workers speak less often


@dataclass(frozen=True)
class Outcome:
    """How a try ended.

    verdict: "done"; "failed": the same would happen again; "retry": it may go better another time; "stop":
    nothing else will go better either, such as on a full disk.
    """

    key: str
    verdict: Literal["done", "failed", "retry", "stop"]
    seconds: float = 0.0
    frames: int | None = None
    segments: int | None = None
    error: str | None = None
    content: str | None = None  # hash of the input's bytes


@dataclass(frozen=True)
class Ready:
    """A worker has its model and waits for work."""

    worker: int
    seconds: float  # that loading took
    model: str = ""
    untrained: bool = False


@dataclass(frozen=True)
class Progress:
    """Frames of a video that are through the network."""

    worker: int
    key: str
    frames: int
    total: int | None  # None: nobody knows


@dataclass(frozen=True)
class Warned:
    """Something was wrong with a video, but the work goes on."""

    worker: int
    key: str
    text: str


@dataclass(frozen=True)
class Finished:
    """A try ended, well or not; the worker waits for work."""

    worker: int
    outcome: Outcome


@dataclass(frozen=True)
class Died:
    """A worker is gone. The engine starts another under the same number, which will say that it is ready."""

    worker: int
    reason: str


@dataclass(frozen=True)
class Broken:
    """A worker cannot load the model: no other will."""

    worker: int
    error: DvisError


Message = Ready | Progress | Warned | Finished | Died | Broken


class VideoWorker(Protocol):
    """What sits in a worker: something that is loaded, and does one task after the other."""

    ready: Ready

    def run(self, task: Task, say: Callable[[Message], None]) -> None:
        """Do one video; the last thing said is `Finished`."""


# Called in the worker with its number, the settings, its threads and its device; loads the model.
MakeWorker = Callable[[int, VideoSettings, "int | None", "str | None"], VideoWorker]


class Engine(Protocol):
    """Workers, numbered from 0. Each takes one task at a time."""

    workers: int

    def start(self, most: int | None = None) -> None:
        """Start the workers, no more than `most`. Raises `DvisError` when that cannot be."""

    def submit(self, worker: int, task: Task) -> None:
        """Give a task to a worker that is ready."""

    def messages(self, timeout: float) -> list[Message]:
        """What workers said; waits up to `timeout` seconds for the first."""

    def kill(self, worker: int) -> None:
        """End a worker that hangs; it will be reported as `Died`."""

    def stop(self) -> None:
        """End all workers at once; what they do is dropped, and removed."""
