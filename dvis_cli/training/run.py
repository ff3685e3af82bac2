"""One stage from data to a weight file, on Lightning's Trainer: one CPU, one GPU, or many.

RUN/run.json                what was asked for; a run is only ever continued with the same settings
RUN/checkpoints/last.ckpt   everything needed to go on after an interruption
RUN/curves.csv, curves.png  losses, learning rate, validation scores (events.* for TensorBoard)
RUN/<stage>.safetensors     the result, with configuration, class list and stage inside
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from dvis_cli.config import to_document
from dvis_cli.errors import TrainingError, UsageError
from dvis_cli.run.loading import save_weights
from dvis_cli.writers.failures import output_errors

from .callbacks import Checkpoints, OnIteration, Record, Validate
from .clips import collate, start_worker
from .module import StageModule
from .settings import TrainSettings
from .validation import HeldOut

SETTINGS_NAME = "run.json"
CHECKPOINT = Path("checkpoints") / "last.ckpt"
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True)
class Machine:
    """What the training runs on."""

    accelerator: str = "auto"  # "auto", "cpu", "gpu", ...: Lightning's names
    devices: int = 1  # processes on each node
    nodes: int = 1
    precision: str = "fp32"  # or "bf16", "fp16": autocast
    workers: int = 1  # loader processes beside each training process


class Share(Sampler[int]):
    """The clips that one process sees: of every iteration its slice of the global batch."""

    def __init__(
        self, settings: TrainSettings, rank: int, world: int, begin: Callable[[], int], only: int | None
    ) -> None:
        self.settings, self.rank, self.world, self.begin, self.only = settings, rank, world, begin, only
        self.each = settings.batch // world

    def __iter__(self) -> Iterator[int]:
        for iteration in range(self.begin(), self.settings.iterations):
            first = iteration * self.settings.batch + self.rank * self.each
            for index in range(first, first + self.each):
                yield index % self.only if self.only else index

    def __len__(self) -> int:
        return (self.settings.iterations - self.begin()) * self.each


def train_stage(
    module: StageModule,
    dataset: torch.utils.data.Dataset[Any],
    run: Path,
    machine: Machine,
    *,
    asked: dict[str, Any],
    resume: bool = False,
    overfit: int | None = None,
    held_out: HeldOut | None = None,
    on_iteration: OnIteration = lambda iteration, facts: None,
) -> Path:
    """Train and leave the result in `run`.

    Args:
        module: the network, its stage and settings.
        dataset: clip `i` under index `i`, for any `i`.
        run: folder to fill.
        asked: the rest of what makes this run what it is (data, initial weights); kept with the settings.
        resume: go on from the last checkpoint.
        overfit: see only the first so many clips, again and again.
        held_out: videos to score at intervals.
        on_iteration: called on the first process after each iteration.

    Returns:
        the weight file.

    Raises:
        UsageError: the run exists, cannot be resumed, or the batch cannot be shared by the processes.
        TrainingError: the loss is no number.
    """
    import lightning
    from lightning.pytorch.loggers import TensorBoardLogger

    settings, world = module.settings, machine.devices * machine.nodes
    if settings.batch % world:
        raise UsageError(f"batch={settings.batch} cannot be shared by {world} processes: make it a multiple")
    checkpoint = _prepare(run, module, asked, resume)
    if os.environ.get("LOCAL_RANK", "0") != "0":
        on_iteration = _silent
    record = Record(run, on_iteration)
    callbacks: list[lightning.Callback] = [Checkpoints(run / CHECKPOINT), record]
    if held_out is not None and settings.validate_every:
        callbacks.insert(0, Validate(held_out, record))
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)  # hints and advertisements
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*(num_workers|does not have many workers|TreeSpec).*")
        trainer = lightning.Trainer(
            accelerator=machine.accelerator,
            devices=machine.devices,
            num_nodes=machine.nodes,
            strategy="ddp" if world > 1 else "auto",
            precision=PRECISIONS[machine.precision],  # type: ignore[arg-type]
            max_steps=settings.iterations,
            gradient_clip_val=settings.optimizer.clip_norm,
            logger=TensorBoardLogger(str(run), name="", version=""),
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        share = Share(settings, trainer.global_rank, world, lambda: trainer.global_step, overfit)
        loader = DataLoader(
            dataset,
            batch_size=settings.batch // world,
            sampler=share,
            num_workers=machine.workers,
            collate_fn=collate,
            worker_init_fn=start_worker,
            persistent_workers=False,
        )
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    result = run / f"{module.stage}.safetensors"
    if trainer.is_global_zero:
        save_weights(
            module.network,
            result,
            {"dvis_stage": module.stage, "dvis_training": json.dumps(_asked(module, asked))},
        )
    return result


def _prepare(run: Path, module: StageModule, asked: dict[str, Any], resume: bool) -> Path | None:
    """Write down what was asked for, or compare it with the run that is continued; the checkpoint to load."""
    wanted = json.loads(json.dumps(_asked(module, asked)))
    path, checkpoint = run / SETTINGS_NAME, run / CHECKPOINT
    if resume:
        if not checkpoint.is_file():
            if path.is_file():
                return None  # stopped before its first checkpoint: begin again
            raise UsageError(f"{run} holds no run to resume; leave --resume out to begin one")
        earlier = _read_json(path)
        different = [key for key in wanted if earlier.get(key) != wanted[key]]
        if different:
            key = different[0]
            raise UsageError(
                f"{run} was begun with {key} {json.dumps(earlier.get(key))[:200]}, now it is "
                f"{json.dumps(wanted[key])[:200]}; resume with the same settings or choose another folder"
            )
        return checkpoint
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    if first and (checkpoint.exists() or any(run.glob("*.safetensors"))):
        raise UsageError(f"{run} holds a run already: go on with --resume, or choose another folder")
    if first:
        with output_errors(run):
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise TrainingError(f"{path} cannot be read; the run cannot be resumed") from None
    return document if isinstance(document, dict) else {}


def _asked(module: StageModule, asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "stage": module.stage,
        "settings": dataclasses.asdict(module.settings),
        "model": to_document(module.network.config),
        **asked,
    }


def _silent(iteration: int, facts: dict[str, float]) -> None:
    """Only the first process speaks."""
