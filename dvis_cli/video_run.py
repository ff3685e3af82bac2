"""One video through the networks and one task: frames in, finished frames out.

    frames -> network (batches) -> (horizon full) task: decide -> frames

What waits for the end of a horizon is in spools, so that memory does not grow with the length of the video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch

from .model import DvisModel, RunSettings
from .multiscale import MultiScaleNetwork
from .scale import ScaleNetwork
from .spool import Spool
from .structures import FinishedFrame, Frame, Geometry, Segment, Tubes, View
from .tasks.instance import InstanceTask
from .tasks.panoptic import PanopticTask
from .tasks.semantic import SemanticTask
from .tasks.task import Decision, Task

# Stage ("network", "fusion", "masks", "files"), frames of the video done in it.
OnProgress = Callable[[str, int], None]


class VideoNetwork(Protocol):
    """The networks on one video, at one scale (`ScaleNetwork`) or several.

    An input is what the source gives beside each frame: a tensor (3, H, W) for one scale, one for each of several.
    """

    def add(self, inputs: list[Any]) -> None:
        """Take in the next frames."""
        ...

    def tubes(self) -> Tubes:
        """End the horizon. What is returned is readable until the next `start_horizon`."""
        ...

    def start_horizon(self) -> None:
        """Forget the decided frames; identities go on."""
        ...

    def close(self) -> None:
        """Give memory and disk space back."""
        ...


def make_task(model: DvisModel, size: tuple[int, int], settings: RunSettings) -> Task:
    """The task that the settings name, for output of `size` (height, width)."""
    if settings.task == "instance":
        return InstanceTask(model.categories, size, settings.top_k, settings.score_threshold)
    if settings.task == "semantic":
        return SemanticTask(model.categories, size)
    return PanopticTask(model.categories, size, settings.score_threshold, settings.overlap_threshold)


def start_run(
    model: DvisModel, geometry: Geometry, settings: RunSettings, on_progress: OnProgress | None = None
) -> VideoRun:
    """A run of one video at one scale; its source gives each frame with its tensor (3, H, W)."""
    network = ScaleNetwork(model, geometry, settings, settings.memory_budget // 2)
    return VideoRun(network, make_task(model, geometry.output, settings), settings, on_progress)


def start_multiscale_run(
    model: DvisModel,
    views: Sequence[View],
    settings: RunSettings,
    on_progress: OnProgress | None = None,
) -> VideoRun:
    """A run of one video in several views; its source gives each frame with a tensor (3, H, W) for each view."""

    def on_fused(frames: int) -> None:
        if on_progress is not None:
            on_progress("fusion", frames)

    network = MultiScaleNetwork(model, views, settings, settings.memory_budget // 2, on_fused)
    return VideoRun(network, make_task(model, views[0].geometry.output, settings), settings, on_progress)


class VideoRun:
    """One video: iterate `frames` once, then read `segments`."""

    def __init__(
        self,
        network: VideoNetwork,
        task: Task,
        settings: RunSettings,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.network, self.task, self.settings = network, task, settings
        self.on_progress = on_progress or (lambda stage, frame: None)

    @property
    def segments(self) -> list[Segment]:
        """All segments found so far; complete once the frames have run out."""
        return self.task.segments

    def frames(self, source: Iterable[tuple[Frame, Any]]) -> Iterator[FinishedFrame]:
        """Segment a video.

        Args:
            source: each frame with the network's input for it; all of one size.

        Yields:
            finished frames in order. Those of a decided horizon come out between the batches of the next one,
            so that whoever writes them works beside the network.
        """
        horizon, budget = self.settings.horizon, self.settings.memory_budget
        waiting: list[Frame] = []
        finished: Iterator[FinishedFrame] = iter(())
        try:
            results = Spool(budget // 4)  # frames and maps; that of the last horizon may be alive, too
            for batch in _batched(source, self.settings.batch, horizon):
                self.network.add([item for _, item in batch])
                self.on_progress("network", batch[-1][0].index + 1)
                for frame, _ in batch:
                    results.put(("rgb", len(waiting)), frame.rgb)
                    waiting.append(Frame(frame.index, frame.pts, _NO_PIXELS, frame.name))
                yield from islice(finished, len(batch))
                if len(waiting) == horizon:
                    yield from finished
                    finished = self._finished(waiting, results, self._decide(waiting, results))
                    waiting, results = [], Spool(budget // 4)
            yield from finished
            if waiting:
                yield from self._finished(waiting, results, self._decide(waiting, results))
        finally:
            self.network.close()

    def _decide(self, waiting: list[Frame], results: Spool) -> Decision:
        """Decide on a horizon; what is to be kept of its frames goes to the spool."""
        with torch.inference_mode():
            decision = self.task.decide(self.network.tubes())
            for place, frame in enumerate(waiting):
                self.on_progress("masks", frame.index + 1)
                results.put(("decided", place), decision.frame(place))
            decision.close()
        self.network.start_horizon()
        return decision

    def _finished(self, waiting: list[Frame], results: Spool, decision: Decision) -> Iterator[FinishedFrame]:
        """The frames of a decided horizon, one at a time."""
        with results:
            for place, frame in enumerate(waiting):
                whole = Frame(frame.index, frame.pts, results.get(("rgb", place)), frame.name)
                yield decision.finish(whole, results.get(("decided", place)))


_NO_PIXELS = np.empty((0, 0, 3), np.uint8)  # of a frame whose pixels wait in the spool


def _batched(
    source: Iterable[tuple[Frame, Any]], size: int, horizon: int
) -> Iterator[list[tuple[Frame, Any]]]:
    """Lists of up to `size` frames; a list never crosses the end of a horizon."""
    batch: list[tuple[Frame, Any]] = []
    for count, item in enumerate(source, start=1):
        batch.append(item)
        if len(batch) == size or count % horizon == 0:
            yield batch
            batch = []
    if batch:
        yield batch
