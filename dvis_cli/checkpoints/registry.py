"""The models dvis knows by name, and where their weights lie on this machine.

Published models are YAMLs in `checkpoints/models/`. Their weights are `NAME.safetensors`, `NAME.pth` or `NAME.pkl` in
the weights folder: `$DVIS_WEIGHTS`, or `~/.cache/dvis/weights`. Bundled models are `.safetensors` files that come with
the package and say themselves what they are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from dvis_cli.checkpoints.metadata import config_inside, read_metadata
from dvis_cli.config import ModelConfig, load_yaml, model_config
from dvis_cli.errors import UsageError

SUFFIXES = (".safetensors", ".pth", ".pt", ".pkl")
DEFAULT_MODEL = "dvis-lite"  # bundled


@dataclass(frozen=True)
class KnownModel:
    """A registered model."""

    name: str
    config: ModelConfig
    weights: Path | None  # the file on this machine, None when there is none

    @property
    def untrained(self) -> bool:
        """Whether the model has no trained weights anywhere: noise, made at load from a fixed seed."""
        return self.name.startswith("tiny")

    @property
    def bundled(self) -> bool:
        """Whether its weights come with the package."""
        return self.name in _bundled()

    @property
    def ready(self) -> bool:
        """Whether it can be used at once."""
        return self.untrained or self.weights is not None


def default_model() -> str:
    """The name or file that is used when none is given: `$DVIS_MODEL`, or the bundled model."""
    return os.environ.get("DVIS_MODEL") or DEFAULT_MODEL


def weights_folder() -> Path:
    """Where weights are looked for by name."""
    named = os.environ.get("DVIS_WEIGHTS")
    if named:
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "dvis" / "weights"


def bundled_folder() -> Path:
    """Weights and a video that come with the package: in a wheel inside it, in a checkout beside it."""
    inside = Path(str(files("dvis_cli"))) / "bundled"
    return inside if inside.is_dir() else inside.parent.parent / "weights"


def demo_video() -> Path:
    """A short street scene that comes with the package. Raises `UsageError` where it was left out."""
    path = bundled_folder() / "street.mp4"
    if not path.is_file():
        raise UsageError(f"the demo video {path} is missing: install dvis anew, or name a video")
    return path


def known_models() -> list[KnownModel]:
    """All registered models: bundled ones, then in the order of their names, `tiny` last."""
    models = [known_model(name) for name in sorted(_configs())]
    return sorted(models, key=lambda model: (not model.bundled, model.untrained))


def known_model(name: str) -> KnownModel:
    """Look a model up by name. Raises `UsageError` listing the known names."""
    config = _configs().get(name)
    if config is None:
        raise UsageError(
            f"model {name!r} not found: neither a file nor a known model; known models: "
            f"{', '.join(sorted(_configs()))}"
        )
    bundled = _bundled().get(name)
    if bundled is not None:
        return KnownModel(name, config, bundled)
    candidates = [weights_folder() / f"{name}{suffix}" for suffix in SUFFIXES]
    return KnownModel(name, config, next((path for path in candidates if path.is_file()), None))


def looks_like_file(model: str) -> bool:
    """Whether a `--model` value names a file rather than a registered model."""
    return model.endswith(SUFFIXES) or "/" in model or os.sep in model or Path(model).is_file()


@lru_cache(maxsize=1)
def _configs() -> dict[str, ModelConfig]:
    folder = Path(str(files("dvis_cli") / "checkpoints" / "models"))
    configs = {}
    for path in folder.glob("*.yaml"):
        configs[path.stem] = model_config({"name": path.stem, **load_yaml(path)}, f"config {path}")
    for name, path in _bundled().items():
        config = config_inside(read_metadata(path), path)
        if config is not None:
            configs[name] = config
    return configs


@lru_cache(maxsize=1)
def _bundled() -> dict[str, Path]:
    return {path.stem: path for path in bundled_folder().glob("*.safetensors")}
