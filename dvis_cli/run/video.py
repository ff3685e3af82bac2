"""One video, from source to files: the whole story on one screen.

frames -> network, a batch at a time -> (horizon full) task -> finished frames -> writers
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from dvis_cli.export.coco import coco_document, masks_of
from dvis_cli.layers.transfer import accelerated
from dvis_cli.structures import FinishedFrame, Frame, Segment, VideoInfo, View
from dvis_cli.threads import ahead
from dvis_cli.video import VideoSource, open_video
from dvis_cli.video.views import preprocess_views

from .horizon import FullHorizon
from .loading import load_for
from .model import DvisModel
from .options import SegmentOptions
from .scales import Scales
from .settings import RunSettings, describe, settings_for, task_for, views_for
from .spool import WaitingFrames

PREFETCH_FRAMES = 4  # decoded and preprocessed frames that wait for the network

# Stage ("compile", "network", "fusion", "masks", "files"), frames of the video done in it.
OnProgress: TypeAlias = Callable[[str, int], None]
Inputs: TypeAlias = Sequence[Tensor]  # the network's, of one frame: (3, H, W) for each view


class SegmentedVideo:
    """A video being segmented: iterate it once for its frames; `segments` is complete at the end.

    Args:
        source: each frame with the network's inputs for it, (3, H, W) for each view.
        facts: how it is segmented, for the segments file.
    """

    def __init__(
        self,
        info: VideoInfo,
        source: Iterable[tuple[Frame, Inputs]],
        model: DvisModel,
        views: Sequence[View],
        settings: RunSettings,
        on_progress: OnProgress | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.info, self.model, self.settings, self.facts = info, model, settings, facts or {}
        self._progress = on_progress or (lambda stage, frames: None)
        self.network = Scales(model, views, settings, partial(self._progress, "fusion"))
        if model.compiled:
            model.compiled.on_compile = partial(self._progress, "compile", 0)
        self.task = task_for(model, settings, views[0].geometry.output)
        self._finished = self._run(iter(source))

    def __iter__(self) -> Iterator[FinishedFrame]:
        return self._finished

    @property
    def segments(self) -> list[Segment]:
        """Every object and stuff region of the video. Runs whatever has not run yet."""
        for _ in self._finished:
            pass
        return self.task.segments

    def to_coco(self, stuff: bool = False) -> dict[str, Any]:
        """COCO's `images`, `annotations` (run lengths, `track_id`) and `categories`. Runs the video.

        Args:
            stuff: whether stuff is annotated, too.
        """
        return coco_document(self, self.info, stuff)

    def masks(self, ids: Sequence[int]) -> Iterator[np.ndarray]:
        """(len(ids), height, width) bool of every frame: where each of these segments is. Runs the video."""
        return masks_of(self, ids)

    def close(self) -> None:
        """Stop early and free what waits."""
        self._finished.close()

    def _run(self, source: Iterator[tuple[Frame, Inputs]]) -> Generator[FinishedFrame, None, None]:
        """Frames of a decided horizon come out between the batches of the next one, to be written meanwhile."""
        horizon, budget = self.settings.horizon, self.settings.memory_budget // 4
        waiting, full, pool = WaitingFrames(budget), None, self._pool()
        try:
            while batch := list(islice(source, min(self.settings.batch, horizon - len(waiting)))):
                self.network.add([inputs for _, inputs in batch])
                self._progress("network", batch[-1][0].index + 1)
                for frame, _ in batch:
                    waiting.add(frame)
                if full:  # it began late: twice as many come out as go in
                    yield from full.take(2 * len(batch))
                if len(waiting) == horizon:
                    yield from full.take() if full else ()
                    full, waiting = self._end_horizon(waiting, pool), WaitingFrames(budget)
                    if horizon == 1:  # somebody is waiting for this very frame
                        yield from full.take()
                        full = None
            yield from full.take() if full else ()
            if len(waiting):
                full = self._end_horizon(waiting, None)
                yield from full.take()
        finally:
            waiting.close()
            if full:
                full.stop()
            if pool:
                pool.shutdown()
            self.network.close()
            if isinstance(source, Generator):
                source.close()

    def _pool(self) -> Executor | None:
        """Where horizons are decided on: beside the network on a CPU; on a GPU both would wait for the same."""
        return None if accelerated(self.model.device) else ThreadPoolExecutor(1, "dvis-decide")

    @torch.inference_mode()
    def _end_horizon(self, waiting: WaitingFrames, pool: Executor | None) -> FullHorizon:
        """Have a horizon decided on, and begin with the next."""
        tubes = self.network.tubes()
        tell = partial(self._progress, "masks")
        full = FullHorizon(self.task.decide(tubes), tubes, waiting, pool, tell)
        self.network.start_horizon()
        return full


def segment_video(
    source: str | Path | VideoSource,
    model: DvisModel | str | Path | None = None,
    options: SegmentOptions | None = None,
    *,
    on_progress: OnProgress | None = None,
    **changes: Any,
) -> SegmentedVideo:
    """Segment a video file or a folder of images, lazily.

    Args:
        source: the file or folder, or one that is open already.
        model: of `load_model`, or what that function takes; None is the options'.
        options: how; None is all defaults.
        on_progress: called with a stage name and a count of frames.
        changes: fields of the options that differ from `options`: `mode="online"`, `short_side=480`, ...

    Returns:
        frames to iterate, each a `PanopticFrame` or, for instances, an `InstanceFrame`, and the segments.

    Raises:
        VideoError, UsageError, CheckpointError, ConfigError: each with one line that names the remedy.
    """
    options = replace(options or SegmentOptions(), **changes)
    if isinstance(source, (str, Path)):
        source = open_video(source, options.selection, folder_fps=options.folder_fps)
    if not isinstance(model, DvisModel):
        model = load_for(options if model is None else replace(options, model=str(model)))
    settings, views = settings_for(model, options), views_for(model, options, source.info)
    norm = model.config.input.mean, model.config.input.std
    inputs = ((frame, preprocess_views(frame.rgb, views, *norm, model.device)) for frame in source)
    settings = replace(settings, class_memory=source.class_memory)
    prefetched = ahead(inputs, PREFETCH_FRAMES, "decode") if source.prefetch else inputs
    facts = describe(model, settings, options, views)
    return SegmentedVideo(source.info, prefetched, model, views, settings, on_progress, facts)
