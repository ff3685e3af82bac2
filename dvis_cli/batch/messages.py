"""What the scheduler tells workers and hears from them; how workers are run is an engine's own affair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from dvis_cli.errors import DvisError
from dvis_cli.run.options import SegmentOptions


@dataclass(frozen=True)
class Task:
    """One video to be done."""

    key: str  # the result's folder, relative to the output
    source: str  # path or address
    out: str  # the output: folder or address
    stage: str  # a folder on the output's disk to work in; of an output behind an address, ""
    settings: str  # hash of everything that changes results
    fingerprint: str | None  # of the input, by the file system
    say_every: float = 0.25  # seconds between reports of progress: many workers speak less often


@dataclass(frozen=True)
class Outcome:
    """How a try ended.

    verdict: "done"; "failed": the same would happen again; "retry": it may go better another time; "full": no space
    is left on the disk; "device": the worker's accelerator has failed, and will with every other video.
    """

    key: str
    verdict: Literal["done", "failed", "retry", "full", "device"]
    seconds: float = 0.0
    frames: int | None = None
    segments: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Ready:
    """A worker has its model and waits for work."""

    worker: int
    seconds: float  # that loading took
    model: str = ""
    untrained: bool = False


@dataclass(frozen=True)
class Progress:
    """Frames of a video that are through the network, of `total` where that is known."""

    worker: int
    key: str
    frames: int
    total: int | None


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
class Broken:
    """A worker cannot load its model. A `DvisError` will meet every worker alike, anything else this one."""

    worker: int
    error: DvisError | str


@dataclass(frozen=True)
class Died:
    """A worker is gone."""

    worker: int
    reason: str


Message = Ready | Progress | Warned | Finished | Broken | Died
Say = Callable[[Message], None]


class VideoWorker(Protocol):
    """What sits in a worker: a loaded model, and how to do one video with it."""

    ready: Ready

    def run(self, task: Task, say: Say) -> None:
        """Do one video; the last thing said is `Finished`."""


# Called in the worker with its number and its own options (device, threads, memory); loads the model.
MakeWorker = Callable[[int, SegmentOptions], VideoWorker]


class Engine(Protocol):
    """Workers, numbered from 0, each with one task at a time."""

    workers: int  # how many there will be, once connected

    def connect(self) -> int:
        """Get ready to start workers; how many there will be. Raises `DvisError` when there can be none."""

    def start(self, worker: int) -> None:
        """Start a worker, or another in the place of one that died."""

    def submit(self, worker: int, task: Task) -> None:
        """Give a task to a worker that is ready."""

    def messages(self, timeout: float) -> list[Message]:
        """What workers said; waits up to `timeout` seconds for the first."""

    def kill(self, worker: int) -> None:
        """End a worker; it will be reported as `Died`."""

    def stop(self) -> None:
        """End all workers at once; what they do is dropped."""
