"""What a stage is trained from and on: the options of `dvis train` are made from these fields (`cli/options.py`)."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal

from dvis_cli.run.options import option

StageName = Literal["segmenter", "tracker", "refiner"]


@dataclass(frozen=True)
class Job:
    """What is trained, and from what."""

    stage: StageName = option(
        MISSING, "segmenter, tracker or refiner; each needs the one before.", metavar="STAGE", argument=True
    )
    data: tuple[Path, ...] = option(
        MISSING,
        "Dataset folder, VIPSeg or COCO panoptic layout; repeat to mix. The first gives the class list.",
        metavar="DIR",
    )
    init: Path | None = option(
        None, "Weights to begin with: the stage before, or a Mask2Former checkpoint.", metavar="FILE"
    )
    recipe: Path | None = option(
        None,
        "Recipe: model and settings. Default: the report's.",
        metavar="YAML",
        flags=("--config",),
    )
    backbone_init: Path | None = option(
        None, "ImageNet weights for a segmenter without --init.", metavar="FILE"
    )
    split: str = option("train", "Split to train on.")
    weights: tuple[float, ...] | None = option(
        None,
        "How often to draw from each --data, in their order. Default: all alike.",
        metavar="X",
        flags=("--data-weight",),
    )
    val_data: Path | None = option(None, "Folder to validate on. Default: the first --data.", metavar="DIR")
    val_split: str = option("val", "Split to validate on.")
    cache: Path | None = option(
        None, "Keep the frozen segmenter's features here; far faster on a CPU.", metavar="DIR"
    )
    overfit: int | None = option(None, "See only the first so many clips: a sanity check.", min=1)


@dataclass(frozen=True)
class Changes:
    """Settings that win over the recipe's."""

    iterations: int | None = option(None, "Iterations.", min=1)
    batch: int | None = option(None, "Clips an iteration, in all.", min=1)
    lr: float | None = option(None, "Learning rate.")
    seed: int | None = option(None, "Of all that is drawn at random.", min=0)

    def settings(self) -> dict[str, Any]:
        """As a recipe has them; None is the recipe's own."""
        found: dict[str, Any] = {"iterations": self.iterations, "batch": self.batch, "seed": self.seed}
        return found if self.lr is None else {**found, "optimizer": {"lr": self.lr}}


@dataclass(frozen=True)
class Machine:
    """What the training runs on."""

    accelerator: str = option("auto", "auto, cpu, gpu or mps.", flags=("--device",))
    devices: int = option(1, "Processes (GPUs) on each node.", min=1)
    nodes: int = option(1, "Machines.", min=1)
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "Arithmetic.")
    workers: int | None = option(None, "Loader processes of each process. Default: 1; GPU: up to 8.", min=0)

    @property
    def processes(self) -> int:
        return self.devices * self.nodes
