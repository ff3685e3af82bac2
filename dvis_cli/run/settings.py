"""What the options come to for one model on one machine, and as a result records them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvis_cli import __version__
from dvis_cli.coco_masks import coco
from dvis_cli.config import DecisionConfig, Mode, TaskName
from dvis_cli.errors import DvisWarning, UsageError
from dvis_cli.structures import VideoInfo, View
from dvis_cli.tasks.instance import InstanceTask
from dvis_cli.tasks.panoptic import PanopticTask
from dvis_cli.tasks.selection import select_classes
from dvis_cli.tasks.semantic import SemanticTask
from dvis_cli.tasks.task import Task
from dvis_cli.video.views import plan_views
from dvis_cli.writers.video_encoder import DETERMINISTIC, Encoding

from .model import DvisModel
from .options import SegmentOptions
from .placement import batch_size, device_budget, memory_budget, video_encoding

DEFAULT_TOP_K = 20  # tubes of instance segmentation; what the official code keeps


@dataclass(frozen=True)
class RunSettings:
    """How one video is run: `SegmentOptions`, which checks its values, with nothing left open."""

    mode: Mode
    task: TaskName = "panoptic"
    window: int = DecisionConfig.window  # frames the refiner sees at once
    horizon: int = DecisionConfig.window  # frames decided together; at least the window
    memory_budget: int = 64 * 2**20  # bytes of waiting data kept in RAM; more goes to a temporary file
    device_budget: int = 0  # bytes of mask features that stay on a GPU
    score_threshold: float = 0.8
    overlap_threshold: float = 0.8
    top_k: int = DEFAULT_TOP_K  # instance: tubes kept of a horizon
    classes: frozenset[int] | None = None  # contiguous classes that are shown, None: all
    soft: bool = False  # panoptic: frames come with their soft edges
    class_memory: float = 0.0  # 0..1: how much the classes of a horizon count in the next one
    batch: int = 1  # frames the segmenter sees at once
    encoding: Encoding = DETERMINISTIC  # of the videos that are written

    def __post_init__(self) -> None:
        if self.horizon < self.window:
            raise UsageError(f"horizon={self.horizon} must not be shorter than window={self.window}")


def settings_for(model: DvisModel, options: SegmentOptions) -> RunSettings:
    """The options with what they leave open filled in.

    Raises:
        UsageError: the model lacks a part for the mode, the horizon is shorter than the window, or the task lacks
            its package.
    """
    decision, budget = model.config.decision, options.memory_budget
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
        memory_budget=memory_budget(model.device) if budget is None else budget,
        device_budget=device_budget(model.device),
        score_threshold=decision.score_threshold if score is None else score,
        overlap_threshold=decision.overlap_threshold if overlap is None else overlap,
        top_k=options.top_k or DEFAULT_TOP_K,
        classes=select_classes(model.categories, options.classes) if options.classes else None,
        soft=options.soft,
        batch=options.batch or batch_size(model.device),
        encoding=video_encoding(model.device, options.deterministic),
    )


def views_for(model: DvisModel, options: SegmentOptions, info: VideoInfo) -> list[View]:
    """The ways in which a video's frames go through the network: scales, mirrored or not."""
    size = model.config.input
    sides = options.short_sides(size.short_side)
    views = plan_views(info.height, info.width, sides, options.flip, size.long_side, size.divisor)
    if len(views) < len(sides) * (1 + options.flip):
        sizes = dict.fromkeys("{} x {}".format(*view.geometry.resized) for view in views)
        warnings.warn(
            f"{info.name}: scales {','.join(map(str, sides))} come to {', '.join(sizes)} pixels only, because long "
            f"sides end at {size.long_side}; equal ones run once",
            DvisWarning,
            stacklevel=3,
        )
    return views


def task_for(model: DvisModel, settings: RunSettings, size: tuple[int, int]) -> Task:
    """The task that the settings name, for output of `size` (height, width)."""
    if settings.task == "instance":
        return InstanceTask(
            model.categories, size, settings.top_k, settings.score_threshold, settings.classes
        )
    if settings.task == "semantic":
        return SemanticTask(model.categories, size, settings.classes)
    thresholds = (settings.score_threshold, settings.overlap_threshold)
    return PanopticTask(model.categories, size, *thresholds, settings.classes, settings.soft)


def describe(
    model: DvisModel, settings: RunSettings, options: SegmentOptions, views: Sequence[View]
) -> dict[str, Any]:
    """How a video was segmented, for the top level of segments.json."""
    thresholds = {"score": settings.score_threshold, "overlap": settings.overlap_threshold}
    used = {"panoptic": ("score", "overlap"), "instance": ("score",), "semantic": ()}[settings.task]
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
        "thresholds": {name: thresholds[name] for name in used},
        **({"top_k": settings.top_k} if settings.task == "instance" else {}),
        **({"classes": list(options.classes)} if options.classes else {}),
        "scales": sorted(options.short_sides(model.config.input.short_side)),
        "flip": options.flip,
        "input_sizes": sorted({view.geometry.resized for view in views}),
        "window": settings.window,
        "horizon": settings.horizon,
    }
