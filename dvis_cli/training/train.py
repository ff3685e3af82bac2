"""`dvis train` as a function: data, network and settings put together, and off it goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvis_cli.datasets.vipseg import splits_of
from dvis_cli.errors import UsageError
from dvis_cli.run.model import DvisModel

from .cache import CachedClips, FeatureCache
from .callbacks import OnIteration
from .clip_sources import ClipSource, Mixture, open_source
from .clips import ClipDataset, ClipSettings
from .initialise import start_network
from .module import StageModule
from .run import Machine, train_stage
from .settings import read_recipe
from .stages import StageName
from .validation import HeldOut


@dataclass(frozen=True)
class Job:
    """What a stage is trained from."""

    stage: StageName
    data: Sequence[Path]  # folders in VIPSeg's or COCO's panoptic layout; the first gives the class list
    split: str = "train"
    weights: Sequence[float] | None = None  # how often a clip comes from each folder; None: all alike
    val_data: Path | None = None  # None: the first of `data`
    val_split: str = "val"
    recipe: Path | None = None
    init: Path | None = None
    backbone_init: Path | None = None
    cache: Path | None = None  # folder for the frozen segmenter's features
    overfit: int | None = None  # see only the first so many clips


def train(
    job: Job,
    run: Path,
    machine: Machine,
    *,
    resume: bool = False,
    overrides: dict[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
    on_cached: Callable[[int, int], None] = lambda done, total: None,
    on_start: Callable[[int], None] = lambda iterations: None,
    on_iteration: OnIteration = lambda iteration, figures: None,
) -> Path:
    """Train one stage and return the weight file.

    Args:
        job: what to train, on what, from what.
        run: folder for everything that comes out.
        machine: processes, precision.
        resume: go on with the run in that folder.
        overrides: settings that win over the recipe's.
        say: called with lines about data and weights that a person should read.
        on_cached: called with how many videos' features are in the cache, of how many.
        on_start: called with the number of iterations when all is ready.
        on_iteration: called after each iteration with the figures that are new.

    Raises:
        UsageError, ConfigError, DatasetError, CheckpointError, TrainingError: one line that says what to do.
    """
    recipe = read_recipe(job.recipe, job.stage, **(overrides or {}))
    settings = recipe.settings
    sources = [open_source(folder, job.split) for folder in job.data]
    categories = sources[0].categories
    network = start_network(
        job.stage,
        categories,
        init=job.init,
        model=recipe.model,
        backbone_init=job.backbone_init,
        heads_from_before=settings.heads_from_before,
        seed=settings.seed,
        say=say,
    )
    mixture = Mixture(tuple(sources), tuple(job.weights or [1.0] * len(sources)))
    length = settings.iterations * settings.batch
    options = (mixture, categories, settings.clip, network.config.input, settings.seed, length)
    caches = _caches(job, network, sources, settings.clip)
    dataset = CachedClips(caches, *options) if caches else ClipDataset(*options)
    total = sum(len(report.usable) for report in dataset.reports)
    done = 0
    for cache, report in zip(caches, dataset.reports, strict=False):
        for _ in cache.fill(report.usable):
            done += 1
            on_cached(done, total)
    for report in dataset.reports:
        for line in report.lines():
            say(line)
    held_out = _held_out(job, settings.validate_videos) if settings.validate_every else None
    if settings.validate_every and held_out is None:
        say(f"no split '{job.val_split}' to validate on: scores are left out of the curves")
    on_start(settings.iterations)
    asked = {
        "data": [str(folder.resolve()) for folder in job.data],
        "split": job.split,
        "init": str(job.init.resolve()) if job.init else None,
        "backbone_init": job.backbone_init.name if job.backbone_init else None,
    }
    return train_stage(
        StageModule(network, job.stage, settings),
        dataset,
        run,
        machine,
        asked=asked,
        resume=resume,
        overfit=job.overfit,
        held_out=held_out,
        on_iteration=on_iteration,
    )


def _caches(
    job: Job, network: DvisModel, sources: Sequence[ClipSource], settings: ClipSettings
) -> list[FeatureCache]:
    """One for each source, or none at all where none are wanted."""
    if job.cache is None:
        return []
    if job.stage == "segmenter":
        raise UsageError(
            "--cache keeps what a frozen segmenter says; the segmenter itself learns from pictures"
        )
    network.eval()
    return [FeatureCache(job.cache, network, source, settings) for source in sources]


def _held_out(job: Job, videos: int) -> HeldOut | None:
    folder = job.val_data or job.data[0]
    if job.val_split not in splits_of(folder):
        if job.val_data is not None:
            raise UsageError(f"{folder} has no split '{job.val_split}' to validate on")
        return None
    return HeldOut(folder, job.val_split, videos)
