"""`dvis train`: one stage of a model."""

from __future__ import annotations

import importlib.util
import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .console import Progress, Reporter, print_json


class Stage(str, Enum):
    """What can be trained, in order."""

    segmenter = "segmenter"
    tracker = "tracker"
    refiner = "refiner"


class TrainPrecision(str, Enum):
    """Arithmetic of the training."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def train(
    stage: Annotated[Stage, typer.Argument(help="What to train; each stage needs the one before.")],
    data: Annotated[
        list[Path],
        typer.Option("--data", help="Dataset folder, VIPSeg or COCO panoptic layout; repeat to mix."),
    ],
    run: Annotated[Path, typer.Option("-o", "--run", help="Folder for checkpoints, curves and the result.")],
    init: Annotated[
        Path | None,
        typer.Option("--init", help="Weights to begin with: the stage before, or a Mask2Former checkpoint."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Recipe (YAML): model and settings [default: the report's]."),
    ] = None,
    backbone_init: Annotated[
        Path | None, typer.Option("--backbone-init", help="ImageNet weights for a segmenter without --init.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split to train on.")] = "train",
    data_weight: Annotated[
        list[float] | None,
        typer.Option("--data-weight", help="How often to draw from each --data, in their order."),
    ] = None,
    val_data: Annotated[
        Path | None, typer.Option("--val-data", help="Folder to validate on [default: the first --data].")
    ] = None,
    val_split: Annotated[str, typer.Option("--val-split", help="Split to validate on.")] = "val",
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Keep the frozen segmenter's features here; far faster on a CPU."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in this folder.")] = False,
    overfit: Annotated[
        int | None, typer.Option("--overfit", min=1, help="See only the first so many clips: a sanity check.")
    ] = None,
    iterations: Annotated[int | None, typer.Option("--iterations", min=1, help="Iterations.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Clips an iteration, in all.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of all that is drawn at random.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, gpu or mps.")] = "auto",
    devices: Annotated[int, typer.Option("--devices", min=1, help="Processes (GPUs) on each node.")] = 1,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines.")] = 1,
    precision: Annotated[
        TrainPrecision, typer.Option("--precision", help="Arithmetic.")
    ] = TrainPrecision.fp32,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Loader processes of each process [default: 1; GPU: up to 8]."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and messages.")] = False,
) -> None:
    """Train the segmenter, the referring tracker or the temporal refiner (report, sections 2.4 and 3.1)."""
    _check_extra()
    from dvis_cli.errors import warnings_to
    from dvis_cli.run.placement import keep_freed_memory
    from dvis_cli.training.run import Machine
    from dvis_cli.training.train import Job, train

    keep_freed_memory()
    job = Job(
        stage=stage.value,
        data=data,
        split=split,
        weights=data_weight,
        val_data=val_data,
        val_split=val_split,
        recipe=config,
        init=init,
        backbone_init=backbone_init,
        cache=cache,
        overfit=overfit,
    )
    overrides = {"iterations": iterations, "batch": batch, "seed": seed}
    if lr is not None:
        overrides["optimizer"] = {"lr": lr}  # type: ignore[assignment]
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # the others of a machine are started by the first
    reporter = Reporter(quiet or not first)
    warned: list[str] = []

    def warn(text: str) -> None:
        warned.append(text)
        reporter.warn(text)

    with warnings_to(warn), reporter.progress(f"train {stage.value}", None, "iterations") as progress:
        result = train(
            job,
            run,
            Machine(device, devices, nodes, precision.value, workers),
            resume=resume,
            overrides=overrides,
            on_cached=lambda done, total: progress.update(0, f"features of {done} of {total} videos"),
            on_start=lambda total: _start(progress, total),
            on_iteration=lambda iteration, figures: _show(progress, iteration, figures),
        )
    if not first:
        return
    if json_output:
        print_json(
            {
                "stage": stage.value,
                "weights": str(result),
                "curves": str(run / "curves.png"),
                "warnings": warned,
            }
        )
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
