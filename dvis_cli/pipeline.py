"""One video, source to files: the whole story on one screen.

video/ decodes and resizes in a thread  ->  video_run.py  ->  writers/ write in threads
"""

from __future__ import annotations

import dataclasses
import os
import queue
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .coco_masks import coco
from .config import DecisionConfig, Mode, TaskName
from .errors import DvisWarning
from .loading import load_model
from .model import DEFAULT_TOP_K, DvisModel, RunSettings
from .structures import FinishedFrame, Frame, Segment, VideoInfo
from .video import Selection, VideoSource, open_video
from .video.preprocess import preprocess
from .video.views import Scales, choose_scales, plan_views, preprocess_views
from .video_run import OnProgress, start_multiscale_run, start_run
from .writers.folder import check_target, safe_name
from .writers.frame_files import frame_files
from .writers.instance_picture import SHOWN_FROM
from .writers.video_folder import Outputs, VideoFolderWriter

PREFETCH_FRAMES = 4  # decoded frames that wait for the network
CPU_BUDGET = 64 * 2**20  # bytes; more goes to a temporary file, which the system caches in free memory anyhow


class SegmentedVideo:
    """A video being segmented: iterate it once for its frames; `segments` is complete at the end."""

    def __init__(
        self,
        source: VideoSource,
        model: DvisModel,
        settings: RunSettings,
        scales: Scales,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.info: VideoInfo = source.info
        self.model, self.settings, self.scales = model, settings, scales
        size = model.config.input
        self.views = plan_views(self.info.height, self.info.width, scales, size.long_side, size.divisor)
        if len(self.views) < len(scales.short_sides) * (1 + scales.flip):
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
            "scales": sorted(self.scales.short_sides),
            "flip": self.scales.flip,
            "input_sizes": sorted({view.geometry.resized for view in self.views}),
            "window": settings.window,
            "horizon": settings.horizon,
        }

    def _equal_scales(self) -> str:
        scales, limit = ",".join(map(str, self.scales.short_sides)), self.model.config.input.long_side
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
    *,
    mode: Mode | None = None,
    task: TaskName = "panoptic",
    short_side: int | None = None,
    scales: Sequence[int] | None = None,
    tta: bool = False,
    flip: bool = False,
    selection: Selection | None = None,
    folder_fps: float = 25.0,
    window: int | None = None,
    horizon: int | None = None,
    memory_budget: int | None = None,
    score_threshold: float | None = None,
    overlap_threshold: float | None = None,
    top_k: int | None = None,
    on_progress: OnProgress | None = None,
) -> SegmentedVideo:
    """Segment a video file or a folder of images, lazily.

    Args:
        source: the file or folder, or one that is open already.
        model: of `load_model`, or what that function takes.
        mode: "minvis", "online" or "offline"; None is the most that the model can do.
        task: "panoptic", "instance" or "semantic".
        short_side: pixels of the frame's short side in the network; None is the model's own.
        scales: short sides of several scales whose results are fused, in any order; instead of `short_side`.
        tta: the report's pair of scales: the short side and 10/9 of it.
        flip: see every scale mirrored, too.
        selection: part of the video; None is all of it.
        folder_fps: frame rate of an image folder.
        window: frames that the refiner sees at once; None is the model's own, 300 as a rule.
        horizon: frames whose classes and masks are decided together; None is the larger of `window` and the model's
            own.
        memory_budget: bytes of waiting mask features in RAM; None is 64 MiB on a CPU, else a quarter of the
            machine's memory.
        score_threshold, overlap_threshold: 0..1; None is the model's own, and for instances a score of 0.
        top_k: tubes that instance segmentation keeps of a horizon; None is 20.
        on_progress: called with a stage name and a count of frames.

    Returns:
        frames to iterate, each a `PanopticFrame` or, for instances, an `InstanceFrame`, and the segments.

    Raises:
        VideoError, UsageError, CheckpointError, ConfigError: each with one line that says what to do.
    """
    if isinstance(source, (str, Path)):
        source = open_video(source, selection, folder_fps=folder_fps)
    if not isinstance(model, DvisModel):
        model = load_model(model, mode=mode)
    on_cpu = model.device.type == "cpu"
    settings = dataclasses.replace(
        check_settings(
            window, horizon, score_threshold, overlap_threshold, task, top_k, model.config.decision
        ),
        mode=model.check_mode(mode),
        memory_budget=memory_budget if memory_budget is not None else _default_budget(on_cpu),
        batch=1 if on_cpu else 4,
    )
    chosen = choose_scales(model.config.input.short_side, short_side, scales, tta, flip)
    return SegmentedVideo(source, model, settings, chosen, on_progress)


def save_video(
    source: str | Path,
    out: str | Path,
    model: DvisModel | str | Path | None = None,
    *,
    name: str | None = None,
    outputs: Outputs | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Segment a video and write `OUT/<name>/`: PNG maps (or masks.jsonl), segments.json and an overlay video.

    Args:
        source, model, options: as for `segment_video`.
        out: folder in which the video's own folder is made.
        name: of that folder; None is the source's, made safe.
        outputs: which files to write; None is all.
        overwrite: replace an earlier result; refused otherwise.

    Returns:
        the document in segments.json.

    Raises:
        OutputError: the result exists or cannot be written. Nothing half-written stays.
    """
    video = segment_video(source, model, on_progress=on_progress, **options)
    target = Path(out) / (safe_name(video.info.name) if name is None else name)
    check_target(target, overwrite)
    writer = VideoFolderWriter(
        target,
        video.info,
        outputs or Outputs(),
        run=video.describe(),
        overwrite=overwrite,
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


def check_settings(
    window: int | None = None,
    horizon: int | None = None,
    score_threshold: float | None = None,
    overlap_threshold: float | None = None,
    task: TaskName = "panoptic",
    top_k: int | None = None,
    decision: DecisionConfig | None = None,
) -> RunSettings:
    """Fill in what was not said.

    Raises:
        UsageError: a value out of range, or a task that lacks its package.
    """
    decision = decision or DecisionConfig()
    window = decision.window if window is None else window
    if task == "instance":
        coco()
        score_threshold = score_threshold or 0.0
    return RunSettings(
        mode="minvis",
        task=task,
        window=window,
        horizon=horizon if horizon is not None else max(window, decision.window),
        score_threshold=decision.score_threshold if score_threshold is None else score_threshold,
        overlap_threshold=decision.overlap_threshold if overlap_threshold is None else overlap_threshold,
        top_k=DEFAULT_TOP_K if top_k is None else top_k,
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
