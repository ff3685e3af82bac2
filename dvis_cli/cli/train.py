"""`dvis train`: one stage of a model."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Annotated

import typer

from dvis_cli.training.options import Changes, Job, Machine

from .console import Progress, Reporter, print_json
from .options import Json, Quiet, with_options


@with_options
def train(
    *,
    job: Job,
    run: Annotated[
        Path,
        typer.Option("-o", "--run", metavar="DIR", help="Folder for checkpoints, curves and the result."),
    ],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in this folder.")] = False,
    changes: Changes,
    machine: Machine,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the segmenter, the referring tracker or the temporal refiner (report, sections 2.4 and 3.1)."""
    _check_extra()
    from dvis_cli.errors import warnings_to
    from dvis_cli.run.placement import keep_freed_memory
    from dvis_cli.training.train import train

    keep_freed_memory()
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # the others of a machine are started by the first
    reporter = Reporter(quiet or not first)
    warned: list[str] = []

    def warn(text: str) -> None:
        warned.append(text)
        reporter.warn(text)

    with warnings_to(warn), reporter.progress(f"train {job.stage}", None, "iterations") as progress:
        result = train(
            job,
            run,
            machine,
            resume=resume,
            overrides=changes.settings(),
            on_cached=lambda done, total: progress.update(0, f"features of {done} of {total} videos"),
            on_start=lambda total: _start(progress, total),
            on_iteration=lambda iteration, figures: _show(progress, iteration, figures),
        )
    if not first:
        return
    if json_output:
        files = {"weights": str(result), "curves": str(run / "curves.png")}
        print_json({"stage": job.stage, **files, "warnings": warned})
    else:
        typer.echo(str(result))


def _start(progress: Progress, total: int) -> None:
    progress.total = total
    progress.begin_at(0)


def _show(progress: Progress, iteration: int, figures: dict[str, float]) -> None:
    """`loss 21.40 (class 3.1, mask 4.0, dice 14.3), lr 1e-04, 9.8 images/s`."""
    if progress.done == 0 and iteration > 1:
        progress.begin_at(iteration - 1)
    text = progress.stage_name
    if "loss" in figures:
        text = (
            f"loss {figures['loss']:.2f} (class {figures['loss_ce']:.2f}, mask {figures['loss_mask']:.2f}, "
            f"dice {figures['loss_dice']:.2f}), lr {figures['lr']:.0e}, {figures['images_per_s']:.1f} images/s"
        )
    elif "vpq" in figures:
        text = f"VPQ {figures['vpq']:.1f}"
    progress.update(iteration, text)


def _check_extra() -> None:
    from dvis_cli.errors import UsageError

    missing = [
        name for name in ("lightning", "tensorboard", "matplotlib") if not importlib.util.find_spec(name)
    ]
    if missing:
        raise UsageError(f"training needs {', '.join(missing)}: pip install 'dvis[train]'")
