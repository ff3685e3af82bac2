"""The stage as a Lightning module: batch in, loss out; the optimizer and its schedule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from dvis_cli.errors import TrainingError
from dvis_cli.run.model import DvisModel

from .dense import ApartHead, DenseHead
from .losses import Criterion, Losses
from .matcher import Matcher, MatchingRule
from .options import StageName
from .points import Draw, uniform_draw
from .settings import OptimizerSettings, TrainSettings
from .stages import RefinerStage, SegmenterStage, Stage, TrackerStage, VideoMTStage
from .targets import ClipBatch, FrozenFeatures

STAGE_CLASSES: dict[StageName, type[Stage]] = {
    "segmenter": SegmenterStage,
    "tracker": TrackerStage,
    "refiner": RefinerStage,
}
# Parameters that are not decayed.
EMBEDDINGS = (
    "query_feat",
    "query_embed",
    "level_embed",
    "bias_table",
    "queries",
    "pos_embed",
    "cls_token",
    "reg_token",
)
NORMS = (nn.LayerNorm, nn.GroupNorm)
FROZEN_AT_ONCE = 8  # frames


class StageModule(lightning.LightningModule):
    """Trains one part of a network; the parts before it are frozen and in eval mode."""

    def __init__(self, network: DvisModel, stage: StageName, settings: TrainSettings) -> None:
        super().__init__()
        self.network, self.stage, self.settings = network, stage, settings
        matcher = Matcher(settings.cost, settings.points.count)
        criterion = Criterion(settings.cost, settings.points, settings.no_object, settings.empty_dice)
        kind = STAGE_CLASSES[stage]
        if stage == "segmenter" and network.config.family == "videomt":
            kind = VideoMTStage
        self.compared = kind(network, matcher, criterion)
        network.requires_grad_(False)
        self.trained.requires_grad_(True)
        if stage == "segmenter" and not settings.optimizer.backbone_lr:
            network.segmenter.backbone.requires_grad_(False)
        for name, parameter in self.trained.named_parameters():
            if name.startswith(settings.optimizer.frozen):
                parameter.requires_grad_(False)
        kinds = {"dense": DenseHead, "apart": ApartHead} if stage == "segmenter" else {}
        weights = {name: getattr(settings, name) for name in kinds}
        self.helpers = nn.ModuleDict(
            {n: kinds[n](network, weight) for n, weight in weights.items() if weight}
        )
        self.compared.helpers = dict(self.helpers.items())

    @property
    def trained(self) -> nn.Module:
        """The part that learns."""
        part: nn.Module = getattr(self.network, self.stage)
        return part

    @property
    def learning(self) -> nn.ModuleDict:
        """All that the optimizer changes: the part, and heads that only help it learn."""
        return nn.ModuleDict({"part": self.trained, "helpers": self.helpers})

    def on_fit_start(self) -> None:
        self.network.eval()
        self.trained.train()

    def transfer_batch_to_device(self, batch: ClipBatch, device: torch.device, index: int) -> ClipBatch:
        return batch.to(device, non_blocking=True)

    def training_step(self, batch: ClipBatch, batch_index: int) -> Tensor:
        """One iteration; keeps the parts of the loss as `last_losses`."""
        # Whatever draws at random inside the network does so by the iteration, not by what ran before.
        torch.manual_seed(self.settings.seed * 1_000_003 + self.global_step)
        seeds = [(self.settings.seed << 32) + index for index in batch.indices]
        losses = self.losses(batch, [uniform_draw(seed, self.device) for seed in seeds])
        parts = torch.stack(list(losses.values()))
        if not torch.isfinite(parts.detach()).all():
            name, value = next(
                (name, value)
                for name, value in zip(losses, parts.tolist(), strict=True)
                if not abs(value) < float("inf")
            )
            raise TrainingError(
                f"iteration {self.global_step}: {name} is {value}, on {', '.join(batch.names[:4])}; "
                "lower the learning rate, or continue from an earlier checkpoint with --resume"
            )
        self.last_losses = {name: value.detach() for name, value in losses.items()}
        return parts.sum()

    def losses(self, batch: ClipBatch, draws: Sequence[Draw]) -> Losses:
        """Named losses of a batch, whichever stage this is."""
        settings = self.settings
        if self.stage == "segmenter":
            assert batch.frames is not None
            return self.compared.losses(batch.frames, batch.targets, draws, MatchingRule())
        rule = MatchingRule(
            guided=self.global_step < settings.guided * settings.iterations,
            convention=settings.convention,
            appearance=settings.appearance,
            patience=settings.patience,
        )
        return self.compared.losses(self._frozen(batch), batch.targets, draws, rule)

    def configure_optimizers(self) -> Any:
        settings = self.settings.optimizer
        optimizer = torch.optim.AdamW(list(parameter_groups(self.learning, settings)), lr=settings.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_at(step, self.settings.iterations, settings)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _frozen(self, batch: ClipBatch) -> FrozenFeatures:
        """From the cache if there is one, else from the frozen segmenter, a few frames at a time."""
        if batch.cached is not None:
            return batch.cached
        assert batch.frames is not None
        outputs = []
        with torch.no_grad():
            for clip in batch.frames:
                memory = None
                for part in clip.split(FROZEN_AT_ONCE):
                    outputs.append(self.network.segmenter(part, memory))
                    memory = outputs[-1].memory
        queries = torch.cat([output.queries for output in outputs]).float()
        features = torch.cat([output.mask_features for output in outputs]).float()
        shape = batch.frames.shape[:2]
        return FrozenFeatures(queries.unflatten(0, shape), features.unflatten(0, shape))


def parameter_groups(part: nn.Module, settings: OptimizerSettings) -> Iterator[dict[str, Any]]:
    """Parameters by learning rate and weight decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for prefix, module in part.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            rate = settings.lr * (settings.backbone_lr if "backbone" in prefix.split(".")[:2] else 1.0)
            free = isinstance(module, NORMS) or name in EMBEDDINGS
            groups.setdefault((rate, 0.0 if free else settings.weight_decay), []).append(parameter)
    for (rate, decay), parameters in groups.items():
        yield {"params": parameters, "lr": rate, "weight_decay": decay}


def rate_at(step: int, iterations: int, settings: OptimizerSettings) -> float:
    """What the learning rate is multiplied by at an iteration."""
    warm = min(1.0, (step + 1) / (settings.warmup + 1))
    return warm * settings.factor ** sum(step >= share * iterations for share in settings.steps)
