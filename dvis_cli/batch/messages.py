"""What the scheduler tells workers and hears from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from dvis_cli.errors import DvisError


class Task(NamedTuple):
    """One video to be done."""

    key: str  # the result's folder, relative to the output
    source: str  # path or address
    out: str  # the output: folder or address
    stage: str  # a folder on the output's disk to work in; of an output behind an address, ""
    settings: str  # hash of everything that changes results
    fingerprint: str | None  # of the input, by the file system
    say_every: float = 0.25  # seconds between reports of progress: many workers speak less often


class Outcome(NamedTuple):
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


class Ready(NamedTuple):
    """A worker has its model and waits for work."""

    worker: int
    seconds: float  # that loading took
    model: str = ""
    untrained: bool = False


class Progress(NamedTuple):
    """Frames of a video that are through the network, of `total` where that is known."""

    worker: int
    key: str
    frames: int
    total: int | None


class Warned(NamedTuple):
    """Something was wrong with a video, but the work goes on."""

    worker: int
    key: str
    text: str


class Finished(NamedTuple):
    """A try ended, well or not; the worker waits for work."""

    worker: int
    outcome: Outcome


class Broken(NamedTuple):
    """A worker cannot load its model. A `DvisError` will meet every worker alike, anything else this one."""

    worker: int
    error: DvisError | str


class Died(NamedTuple):
    """A worker is gone."""

    worker: int
    reason: str


Message = Ready | Progress | Warned | Finished | Broken | Died
Say = Callable[[Message], None]
