"""What happens between iterations: the log of losses and scores, and validation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from dvis_cli.files import atomic_path

from .curves import draw_curves
from .losses import process_mean
from .module import StageModule
from .validation import HeldOut

OnIteration = Callable[[int, dict[str, float]], None]  # iteration, named figures
LOG_EVERY = 10  # iterations that a row of the log averages


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoint files, written beside the target and renamed: the last is whole at any time."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(Path(path)) as partial:
            torch.save(checkpoint, partial)


class Average(lightning.Callback):
    """Keeps a moving average of what learns, and leaves it in the network at the end."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.kept: dict[str, Tensor] = {}

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, StageModule)
        if not self.kept:
            self.kept = {name: p.detach().clone() for name, p in _learning(module)}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any
    ) -> None:
        assert isinstance(module, StageModule)
        decay = min(self.decay, (1 + trainer.global_step) / (10 + trainer.global_step))
        for name, parameter in _learning(module):
            self.kept[name].lerp_(parameter.detach(), 1 - decay)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, StageModule)
        with torch.no_grad():
            for name, parameter in _learning(module):
                parameter.copy_(self.kept[name])

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"kept": self.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.kept = state_dict["kept"]


def _learning(module: StageModule) -> Iterator[tuple[str, Tensor]]:
    return ((name, p) for name, p in module.trained.named_parameters() if p.requires_grad)


class Record(lightning.Callback):
    """Averages losses over a few iterations for Lightning's loggers and the progress display."""

    def __init__(self, run: Path, on_iteration: OnIteration) -> None:
        self.run, self.on_iteration = run, on_iteration
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.since = time.monotonic()
        self.skipped = Counter[str]()  # reason -> draws that gave no clip

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.since = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        index: int,
    ) -> None:
        assert isinstance(module, StageModule)
        self.skipped.update(line.partition(":")[0] for line in batch.skipped)
        for name, value in module.last_losses.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value
        self.count += 1
        step = trainer.global_step
        if step % LOG_EVERY == 0 or step == module.settings.iterations:
            self.write(trainer, step, self._figures(trainer, module))
        else:
            self.on_iteration(step, {})

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, StageModule)
        if trainer.is_global_zero:
            draw_curves(self.run, f"{module.stage}, {module.network.config.name}")

    def write(self, trainer: lightning.Trainer, step: int, figures: dict[str, float]) -> None:
        """Hand the figures of an iteration on; only the first process logs and displays."""
        for logger in trainer.loggers:
            logger.log_metrics(figures, step)
        self.on_iteration(step, figures)

    def _figures(self, trainer: lightning.Trainer, module: StageModule) -> dict[str, float]:
        """Means since the last row, over all processes; the parts are summed over the layers."""
        means = process_mean(torch.stack(list(self.sums.values())) / self.count).tolist()
        seconds = max(time.monotonic() - self.since, 1e-9)
        figures = {"loss": sum(means)}
        for name, value in zip(self.sums, means, strict=True):
            kind = "_".join(name.split("_")[:2])
            figures[kind] = figures.get(kind, 0.0) + value
        figures["lr"] = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        frames = module.settings.batch * module.settings.clip.frames
        figures["images_per_s"] = self.count * frames / seconds
        self.sums, self.count, self.since = {}, 0, time.monotonic()
        return figures


class Validate(lightning.Callback):
    """Scores held-out videos at intervals, on the first process while the others wait."""

    def __init__(self, held_out: HeldOut, record: Record) -> None:
        self.held_out, self.record = held_out, record

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any
    ) -> None:
        assert isinstance(module, StageModule)
        step, settings = trainer.global_step, module.settings
        if step % settings.validate_every and step != settings.iterations:
            return
        began = time.monotonic()
        if trainer.is_global_zero:
            self.record.write(trainer, step, self.held_out.scores(module.network))
        trainer.strategy.barrier()
        self.record.since += time.monotonic() - began  # no part of the training's speed
