"""How a stage is trained, as data. The defaults are the report's (section 3.1); a YAML may change any of them.

A recipe is one YAML for a whole model:

    model:      what the network is (`ModelConfig`), when it does not come from the checkpoint given to --init
    common:     settings of every stage
    segmenter:  ...
    tracker:    ...
    refiner:    ...
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from dvis_cli.config import ModelConfig, build_config, load_yaml, merged, model_config
from dvis_cli.errors import ConfigError

from .clip_settings import ClipSettings
from .losses import PointSettings
from .matcher import Convention, CostWeights
from .options import StageName

STAGES: tuple[StageName, ...] = ("segmenter", "tracker", "refiner")
SECTIONS = ("model", "common", *STAGES)
PUBLISHED_SIDES = tuple(range(480, 801, 32))  # pixels
PUBLISHED_CLIPS: dict[StageName, ClipSettings] = {
    "segmenter": ClipSettings(frames=1, short_sides=PUBLISHED_SIDES),
    "tracker": ClipSettings(frames=5, short_sides=PUBLISHED_SIDES),
    "refiner": ClipSettings(frames=21, short_sides=PUBLISHED_SIDES, crop=(608, 608), reverse=True),
}


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its schedule."""

    lr: float = 1e-4
    weight_decay: float = 0.05  # 0 for norms, embeddings and relative position biases
    backbone_lr: float = 0.1  # times lr; 0: the backbone is left as it is
    # Beginnings of the names of what else is left as it is, e.g. backbone.trunks.0.
    frozen: tuple[str, ...] = ()
    clip_norm: float = 0.01  # largest norm of the whole gradient
    warmup: int = 10  # iterations in which the rate rises from near zero
    steps: tuple[float, ...] = (0.7,)  # shares of the iterations after which the rate falls
    factor: float = 0.1  # by which it falls

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "backbone_lr", "clip_norm", "warmup", "factor"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name}={value} must be a number, 0 or more")


@dataclass(frozen=True)
class TrainSettings:
    """One stage."""

    clip: ClipSettings
    iterations: int = 20_000
    batch: int = 8  # clips of an iteration, over all processes
    seed: int = 0
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    points: PointSettings = field(default_factory=PointSettings)
    cost: CostWeights = field(default_factory=CostWeights)
    no_object: float = 0.1  # weight of no-object in the class loss
    empty_dice: bool = True  # frames without the object count in its dice loss, as published
    guided: float = 0.5  # share of the iterations that match by the output of the frozen part before
    convention: Convention = "report"  # of the tracker's matching: "official" lets objects share a query
    appearance: float = 0.0  # share of its largest area that matches an object to a track; 0: any pixel
    patience: int | None = None  # frames a track may miss its object before another takes over; None: all
    dense: float = 0.0  # weight of a class loss of every pixel on the mask features; its head is not kept
    apart: float = 0.0  # weight of a loss that tells a picture's segments apart; its head is not kept, either
    ema: float = 0.0  # decay an iteration of the average of the weights that is kept; 0: the last ones are
    checkpoint_every: int = 500  # iterations
    validate_every: int = 5000  # iterations; 0 never
    validate_videos: int = 20  # of the validation split at most

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.points.count < 1:
            raise ConfigError(f"points.count={self.points.count} must be at least 1")
        for name in ("guided", "appearance", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)} must lie in 0..1")
        if self.patience is not None and (self.patience < 0 or self.guided):
            raise ConfigError(
                f"patience={self.patience}, guided={self.guided}: patience must be 0 or more, and goes with guided: 0, "
                "because a track is handed over by what its own masks cover"
            )
        if self.validate_every < 0 or self.validate_videos < 1:
            raise ConfigError(
                f"validate_every={self.validate_every}, validate_videos={self.validate_videos}: must be positive"
            )


@dataclass(frozen=True)
class Recipe:
    """A YAML: the model, if it has that section, and the settings of a stage."""

    model: ModelConfig | None
    settings: TrainSettings


def recipe_path(named: Path) -> Path:
    """The file of a recipe: a path, or the name of one that is shipped.

    Raises:
        ConfigError: neither; the shipped ones are listed.
    """
    shipped = {path.stem: path for path in Path(str(files("dvis_cli.training") / "recipes")).glob("*.yaml")}
    if not named.exists() and str(named) in shipped:
        return shipped[str(named)]
    if not named.is_file():
        raise ConfigError(f"recipe {named} does not exist; shipped recipes: {', '.join(sorted(shipped))}")
    return named


def read_recipe(path: Path | None, stage: StageName, **overrides: Any) -> Recipe:
    """The settings of a stage: the report's, changed by a YAML, changed by `overrides` that are not None.

    Raises:
        ConfigError: the file, or a key or value in it.
    """
    path = recipe_path(path) if path is not None else None
    document: Mapping[str, Any] = load_yaml(path) if path is not None else {}
    where = f"recipe {path}" if path is not None else "settings"
    unknown = [str(key) for key in document if key not in SECTIONS]
    if unknown:
        raise ConfigError(f"{where}: unknown section {', '.join(unknown)}; known: {', '.join(SECTIONS)}")
    values = merged({"clip": dataclasses.asdict(PUBLISHED_CLIPS[stage])}, document.get("common") or {}, where)
    values = merged(values, document.get(stage) or {}, where)
    values = merged(values, {key: value for key, value in overrides.items() if value is not None}, where)
    settings = build_config(TrainSettings, values, f"{where}.{stage}")
    model = document.get("model")
    return Recipe(model_config({"name": path.stem, **model}, where) if model and path else None, settings)
