"""One video, source to files: the whole story on one screen.

video/ decodes and resizes in a thread  ->  video_run.py  ->  writers/ write in threads
"""

from __future__ import annotations

import dataclasses
import os
import queue
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .coco_masks import coco
from .errors import DvisWarning
from .loading import load_model
from .model import DEFAULT_TOP_K, DvisModel, RunSettings
from .run.options import SegmentOptions
from .structures import FinishedFrame, Frame, Segment, VideoInfo
from .video import VideoSource, open_video
from .video.preprocess import preprocess
from .video.views import plan_views, preprocess_views
from .video_run import OnProgress, start_multiscale_run, start_run
from .writers.folder import check_target, safe_name
from .writers.frame_files import frame_files
from .writers.instance_picture import SHOWN_FROM
from .writers.video_folder import VideoFolderWriter

PREFETCH_FRAMES = 4  # decoded frames that wait for the network
CPU_BUDGET = 64 * 2**20  # bytes; more goes to a temporary file, which the system caches in free memory anyhow


class SegmentedVideo:
    """A video being segmented: iterate it once for its frames; `segments` is complete at the end."""

    def __init__(
        self,
        source: VideoSource,
        model: DvisModel,
        settings: RunSettings,
        options: SegmentOptions,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.info: VideoInfo = source.info
        self.model, self.settings = model, settings
        size = model.config.input
        self.short_sides, self.flip = options.short_sides(size.short_side), options.flip
        self.views = plan_views(
            self.info.height, self.info.width, self.short_sides, self.flip, size.long_side, size.divisor
        )
        if len(self.views) < len(self.short_sides) * (1 + self.flip):
            warnings.warn(self._equal_scales(), DvisWarning, stacklevel=3)
        self._source = source
        if len(self.views) == 1:
            self._run = start_run(model, self.views[0].geometry, settings, on_progress)
        else:
            self._run = start_multiscale_run(model, self.views, settings, on_progress)
        self._frames = self._iterate()

    def __iter__(self) -> Iterator[FinishedFrame]:
        return self._frames

    @property
    def segments(self) -> list[Segment]:
        """Every object and stuff region of the video. Runs whatever has not run yet."""
        for _ in self._frames:
            pass
        return self._run.segments

    def close(self) -> None:
        """Stop early and free what waits."""
        self._frames.close()

    def describe(self) -> dict[str, Any]:
        """How this video is segmented, for the segments file."""
        model, settings = self.model, self.settings
        return {
            "dvis_version": __version__,
            "model": {
                "name": model.config.name,
                "weights": Path(model.weights).name if model.weights else None,
                "trained": model.weights is not None,
                "precision": model.precision,
            },
            "mode": settings.mode,
            "task": settings.task,
            **_decision_facts(settings),
            "scales": sorted(self.short_sides),
            "flip": self.flip,
            "input_sizes": sorted({view.geometry.resized for view in self.views}),
            "window": settings.window,
            "horizon": settings.horizon,
        }

    def _equal_scales(self) -> str:
        scales, limit = ",".join(map(str, self.short_sides)), self.model.config.input.long_side
        sizes = ", ".join(
            f"{high} x {wide}" for high, wide in dict.fromkeys(v.geometry.resized for v in self.views)
        )
        return (
            f"{self.info.name}: scales {scales} come to {sizes} pixels only, because long sides end at {limit}; "
            "equal ones run once"
        )

    def _iterate(self) -> Generator[FinishedFrame, None, None]:
        size, views = self.model.config.input, self.views

        def prepare(rgb: np.ndarray) -> Any:
            if len(views) == 1:
                return preprocess(rgb, views[0].geometry, size.mean, size.std)
            return preprocess_views(rgb, views, size.mean, size.std)

        with _Prefetch(self._source, prepare) as frames:
            yield from self._run.frames(frames)


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
        VideoError, UsageError, CheckpointError, ConfigError: each with one line that says what to do.
    """
    options = dataclasses.replace(options or SegmentOptions(), **changes)
    if isinstance(source, (str, Path)):
        source = open_video(source, options.selection, folder_fps=options.folder_fps)
    if not isinstance(model, DvisModel):
        model = load_model(
            options.model if model is None else model,
            config=options.config,
            mode=options.mode,
            device=options.device,
            precision=options.precision,
        )
    return SegmentedVideo(source, model, settings_for(model, options), options, on_progress)


def save_video(
    source: str | Path,
    out: str | Path,
    model: DvisModel | str | Path | None = None,
    options: SegmentOptions | None = None,
    *,
    name: str | None = None,
    on_progress: OnProgress | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Segment a video and write `OUT/<name>/`: PNG maps (or masks.jsonl), segments.json and an overlay video.

    Args:
        source, model, options, on_progress, changes: as for `segment_video`.
        out: folder in which the video's own folder is made.
        name: of that folder; None is the source's, made safe.

    Returns:
        the document in segments.json.

    Raises:
        OutputError: the result exists or cannot be written. Nothing half-written stays.
    """
    options = dataclasses.replace(options or SegmentOptions(), **changes)
    video = segment_video(source, model, options, on_progress=on_progress)
    target = Path(out) / (safe_name(video.info.name) if name is None else name)
    check_target(target, options.overwrite)
    writer = VideoFolderWriter(
        target,
        video.info,
        options.outputs,
        run=video.describe(),
        overwrite=options.overwrite,
        audio_from=Path(source) if video.info.has_audio else None,
        files=frame_files(video.settings.task, video.model.categories),
        shown_from=video.settings.score_threshold or SHOWN_FROM,
    )
    try:
        with writer:
            for frame in video:
                writer.add(frame)
                if on_progress:
                    on_progress("files", frame.index + 1)
            return writer.finish(video.segments)
    finally:
        video.close()


def settings_for(model: DvisModel, options: SegmentOptions) -> RunSettings:
    """The options with what they leave open filled in.

    Raises:
        UsageError: the model lacks a part for the mode, the horizon is shorter than the window, or the task lacks
            its package.
    """
    decision, on_cpu = model.config.decision, model.device.type == "cpu"
    window = options.window or decision.window
    score, overlap = options.score_threshold, options.overlap_threshold
    if options.task == "instance":
        coco()
        score = score or 0.0
    return RunSettings(
        mode=model.check_mode(options.mode),
        task=options.task,
        window=window,
        horizon=options.horizon or max(window, decision.window),
        memory_budget=_default_budget(on_cpu) if options.memory_budget is None else options.memory_budget,
        score_threshold=decision.score_threshold if score is None else score,
        overlap_threshold=decision.overlap_threshold if overlap is None else overlap,
        top_k=options.top_k or DEFAULT_TOP_K,
        batch=1 if on_cpu else 4,
    )


def _decision_facts(settings: RunSettings) -> dict[str, Any]:
    """What the task's decision depends on, for the segments file."""
    if settings.task == "instance":
        return {"thresholds": {"score": settings.score_threshold}, "top_k": settings.top_k}
    if settings.task == "semantic":
        return {"thresholds": {}}
    return {"thresholds": {"score": settings.score_threshold, "overlap": settings.overlap_threshold}}


def _default_budget(on_cpu: bool) -> int:
    """A CPU's network is so slow that a file costs nothing; a GPU may outrun a disk."""
    if on_cpu:
        return CPU_BUDGET
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, ValueError, OSError):
        return 4 * 2**30


class _Prefetch:
    """Decodes and preprocesses in a thread, a few frames ahead of the network."""

    def __init__(self, source: VideoSource, prepare: Callable[[np.ndarray], Any]) -> None:
        """`prepare`: from pixels to the network's input."""
        self._source, self._prepare = source, prepare
        self._queue: queue.Queue[tuple[Frame, Any] | BaseException | None] = queue.Queue(PREFETCH_FRAMES)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="dvis-decode", daemon=True)

    def __enter__(self) -> Iterator[tuple[Frame, Any]]:
        self._thread.start()
        return self._items()

    def __exit__(self, *_unused: object) -> None:
        self._stop.set()
        while self._thread.is_alive():  # a full queue would hold the thread up for ever
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _items(self) -> Iterator[tuple[Frame, Any]]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _work(self) -> None:
        try:
            for frame in self._source:
                if self._stop.is_set():
                    return
                self._queue.put((frame, self._prepare(frame.rgb)))
        except BaseException as error:  # handed to the thread that can deal with it
            self._queue.put(error)
            return
        self._queue.put(None)
