"""`dvis train` as a function: data, network and settings put together."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dvis_cli.datasets.vipseg import splits_of
from dvis_cli.errors import DvisWarning, UsageError

from .cache import CachedClips, FeatureCache
from .callbacks import OnIteration
from .clip_sources import Mixture, open_source
from .clips import ClipDataset
from .initialise import start_network
from .module import StageModule
from .options import Job, Machine
from .run import train_stage
from .settings import read_recipe
from .validation import HeldOut


def train(
    job: Job,
    run: Path,
    machine: Machine,
    *,
    resume: bool = False,
    overrides: dict[str, Any] | None = None,
    on_cached: Callable[[int, int], None] = lambda done, total: None,
    on_start: Callable[[int], None] = lambda iterations: None,
    on_iteration: OnIteration = lambda iteration, figures: None,
) -> Path:
    """Train one stage and return the weight file. What is left out on the way is a `DvisWarning` each.

    Args:
        job: what to train, on what, from what.
        run: folder for everything that comes out.
        machine: processes, precision.
        resume: go on with the run in that folder.
        overrides: settings that win over the recipe's.
        on_cached: called with how many videos' features are in the cache, of how many.
        on_start: called with the number of iterations when all is ready.
        on_iteration: called after each iteration with the figures that are new.

    Raises:
        UsageError, ConfigError, DatasetError, CheckpointError, TrainingError: one line that says what to do.
    """
    recipe = read_recipe(job.recipe, job.stage, **(overrides or {}))
    settings = recipe.settings
    if job.cache is not None and job.stage == "segmenter":
        raise UsageError(
            "--cache keeps a frozen segmenter's features; the segmenter itself learns from pictures"
        )
    sources = [open_source(folder, job.split) for folder in job.data]
    categories = sources[0].categories
    network = start_network(
        job.stage,
        categories,
        init=job.init,
        model=recipe.model,
        backbone_init=job.backbone_init,
        seed=settings.seed,
    )
    mixture = Mixture(tuple(sources), tuple(job.weights or [1.0] * len(sources)))
    length = settings.iterations * settings.batch
    options = (mixture, categories, settings.clip, network.config.input, settings.seed, length)
    if job.cache is None:
        dataset = ClipDataset(*options)
    else:
        caches = [FeatureCache(job.cache, network.eval(), source, settings.clip) for source in sources]
        dataset = CachedClips(caches, *options)
        dataset.fill(on_cached)
    for line in (line for report in dataset.reports for line in report.lines()):
        warnings.warn(line, DvisWarning, stacklevel=2)
    held_out = _held_out(job, settings.validate_videos) if settings.validate_every else None
    on_start(settings.iterations)
    return train_stage(
        StageModule(network, job.stage, settings),
        dataset,
        run,
        machine,
        origin={
            "data": [str(folder.resolve()) for folder in job.data],
            "split": job.split,
            "init": str(job.init.resolve()) if job.init else None,
            "backbone_init": job.backbone_init.name if job.backbone_init else None,
        },
        resume=resume,
        overfit=job.overfit,
        held_out=held_out,
        on_iteration=on_iteration,
    )


def _held_out(job: Job, videos: int) -> HeldOut | None:
    folder = job.val_data or job.data[0]
    if job.val_split in splits_of(folder):
        return HeldOut(folder, job.val_split, videos)
    if job.val_data is not None:
        raise UsageError(f"{folder} has no split '{job.val_split}' to validate on")
    warnings.warn(
        f"{folder} has no split '{job.val_split}' to validate on: scores are left out of the log",
        DvisWarning,
        stacklevel=3,
    )
    return None
