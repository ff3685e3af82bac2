"""One stage from data to a weight file, on Lightning's Trainer: one CPU, one GPU, or many.

RUN/run.json                    data, settings, initial weights; a run is only ever continued with the same ones
RUN/checkpoints/last.ckpt       everything needed to go on after an interruption
RUN/log/version_<n>/metrics.csv losses, learning rate, validation scores (RUN/events.* for TensorBoard)
RUN/curves.png                  the same as a picture, at the end
RUN/<stage>.safetensors         the result, with configuration, class list and stage inside
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

from dvis_cli.config import ModelConfig, build_config, to_document
from dvis_cli.errors import ConfigError, DvisWarning, OutputError, TrainingError, UsageError
from dvis_cli.files import atomic_text, usable_cores
from dvis_cli.run.loading import save_weights

from .callbacks import AtomicCheckpoints, Average, OnIteration, Record, Validate
from .clips import collate, start_worker
from .curves import LOG
from .module import StageModule
from .options import Machine
from .settings import TrainSettings
from .validation import HeldOut

SETTINGS_NAME = "run.json"
CHECKPOINT = Path("checkpoints") / "last.ckpt"
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
MOST_WORKERS = 8  # loader processes for a GPU that nobody chose a number for


class Share(Sampler[int]):
    """The clips that one process sees: of every iteration its slice of the global batch."""

    def __init__(
        self, settings: TrainSettings, rank: int, world: int, begin: Callable[[], int], only: int | None
    ) -> None:
        self.settings, self.rank, self.begin, self.only = settings, rank, begin, only
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
    dataset: Dataset[Any],
    run: Path,
    machine: Machine,
    *,
    origin: dict[str, Any],
    resume: bool = False,
    overfit: int | None = None,
    held_out: HeldOut | None = None,
    on_iteration: OnIteration = lambda iteration, figures: None,
) -> Path:
    """Train and leave the result in `run`.

    Args:
        module: the network, its stage and settings.
        dataset: clip `i` under index `i`, for any `i`.
        run: folder to fill.
        origin: data and initial weights; kept with the settings.
        resume: go on from the last checkpoint.
        overfit: see only the first so many clips, again and again.
        held_out: videos to score at intervals.
        on_iteration: called on the first process after each iteration.

    Returns:
        the weight file.

    Raises:
        UsageError: the run exists, cannot be resumed, or the batch cannot be shared by the processes.
        TrainingError: the loss is not finite.
    """
    settings = module.settings
    if settings.batch % machine.processes:
        raise UsageError(
            f"batch={settings.batch} cannot be shared by {machine.processes} processes: make it a multiple"
        )
    facts = {
        "stage": module.stage,
        "settings": dataclasses.asdict(settings),
        "model": to_document(module.network.config),
        **origin,
    }
    checkpoint = _prepare(run, json.loads(json.dumps(facts)), resume)
    record = Record(run, on_iteration if _is_first() else lambda iteration, figures: None)
    with warnings.catch_warnings():
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)  # hints and advertisements
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*(num_workers|many workers|worker processes|TreeSpec).*")
        trainer = _trainer(run, machine, settings, record, held_out)
        share = Share(settings, trainer.global_rank, machine.processes, lambda: trainer.global_step, overfit)
        loader = clip_loader(dataset, share, machine, trainer.strategy.root_device.type)
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    if record.skipped:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in record.skipped.most_common())
        warnings.warn(f"draws that gave no clip were replaced: {reasons}", DvisWarning, stacklevel=2)
    result = run / f"{module.stage}.safetensors"
    if trainer.is_global_zero:
        metadata = {"dvis_stage": module.stage, "dvis_training": json.dumps(facts)}
        save_weights(module.network, result, metadata)
    return result


def clip_loader(dataset: Dataset[Any], share: Share, machine: Machine, device: str) -> DataLoader[Any]:
    """The loader of one process: for a GPU pinned memory and several workers, so that it never waits for clips."""
    workers = machine.workers
    if workers is None:
        cores = usable_cores() // machine.devices
        workers = max(2, min(MOST_WORKERS, cores - 1)) if device == "cuda" else 1
    return DataLoader(
        dataset,
        batch_size=share.each,
        sampler=share,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=start_worker,
        pin_memory=device == "cuda",
    )


def _trainer(
    run: Path, machine: Machine, settings: TrainSettings, record: Record, held_out: HeldOut | None
) -> Any:
    import lightning
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    checkpoints = ModelCheckpoint(
        dirpath=run / CHECKPOINT.parent,
        filename=CHECKPOINT.stem,
        every_n_train_steps=settings.checkpoint_every,
        enable_version_counter=False,
    )
    validation = [Validate(held_out, record)] if held_out is not None else []
    average = [Average(settings.ema)] if settings.ema else []
    try:
        return lightning.Trainer(
            accelerator=machine.accelerator,
            devices=machine.devices,
            num_nodes=machine.nodes,
            strategy="ddp" if machine.processes > 1 else "auto",
            precision=PRECISIONS[machine.precision],  # type: ignore[arg-type]
            max_steps=settings.iterations,
            gradient_clip_val=settings.optimizer.clip_norm,
            logger=[
                CSVLogger(str(run), name=LOG, flush_logs_every_n_steps=1),
                TensorBoardLogger(str(run), name="", version=""),
            ],
            callbacks=[*validation, record, *average, checkpoints],
            plugins=[AtomicCheckpoints()],
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except MisconfigurationException as error:
        raise UsageError(f"--device {machine.accelerator}, --devices {machine.devices}: {error}") from None


def _is_first() -> bool:
    """Whether this is the first process of its machine; it starts the others."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _prepare(run: Path, facts: dict[str, Any], resume: bool) -> Path | None:
    """Write `run.json`, or compare with the one of the run that is continued; the checkpoint to load."""
    path, checkpoint = run / SETTINGS_NAME, run / CHECKPOINT
    if not resume:
        if _is_first():
            if checkpoint.exists() or any(run.glob("*.safetensors")):
                raise UsageError(f"{run} holds a run already: go on with --resume, or choose another folder")
            try:
                run.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"cannot make {run}: {error.strerror or error}") from error
            atomic_text(path, json.dumps(facts, indent=2) + "\n")
        return None
    if not path.is_file():
        raise UsageError(f"{run} holds no run to resume; leave --resume out to begin one")
    try:
        earlier = _completed(json.loads(path.read_text(encoding="utf-8")))
        different = next(_differences(earlier, facts), None)
    except (OSError, ValueError, AttributeError):
        raise TrainingError(f"{path} cannot be read; the run cannot be resumed") from None
    if different is not None:
        key, before, now = different
        raise UsageError(
            f"{run} was begun with {key} {json.dumps(before)[:200]}, now it is {json.dumps(now)[:200]}; resume with "
            "the same settings or choose another folder"
        )
    return checkpoint if checkpoint.is_file() else None  # stopped before its first checkpoint: begin again


def _differences(earlier: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Key (`settings.iterations`) and both values of what is not the same."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        for name in {**earlier, **now} if key else now:
            yield from _differences(earlier.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif earlier != now:
        yield key, earlier, now


def _completed(facts: dict[str, Any]) -> dict[str, Any]:
    """What `run.json` holds, with what it lacks, being of an earlier version, at its default."""
    completed = dict(facts)
    for key, kind in (("settings", TrainSettings), ("model", ModelConfig)):
        with suppress(ConfigError, TypeError):  # compared as it is, then
            completed[key] = to_document(build_config(kind, facts.get(key), key))
    return completed
