"""The models dvis knows by name, and where their weights lie on this machine.

Models with a configuration are YAMLs in `checkpoints/models/`; bundled ones are `.safetensors` files that come with the
package and say themselves what they are; those of `published.py` can be pulled. In the weights folder
(`home.weights_folder`) lie `NAME.safetensors`, `NAME.pth` or `NAME.pkl` that somebody put there, and a folder `NAME` of
each that was pulled or added.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from dvis_cli.checkpoints.metadata import config_inside, read_metadata
from dvis_cli.config import ModelConfig, load_yaml, model_config
from dvis_cli.errors import UsageError

from .home import weights_folder
from .installed import installed, installed_names
from .label_sets import Facts
from .published import NAME, Published, all_published

SUFFIXES = (".safetensors", ".pth", ".pt", ".pkl", ".bin")
DEFAULT_MODEL = "dvis-lite"  # bundled


@dataclass(frozen=True)
class KnownModel:
    """A registered model."""

    name: str
    configured: ModelConfig | None  # None: its tensors tell
    weights: Path | None  # the file or folder on this machine, None when there is none
    published: Published | None = None  # where it can be pulled from, and what is known of it

    @property
    def config(self) -> ModelConfig:
        """Its configuration. Raises `UsageError` where only its tensors tell."""
        if self.configured is None:
            raise UsageError(f"model {self.name!r} has no configuration apart from its weights")
        return self.configured

    @property
    def mode(self) -> str:
        return self.configured.mode if self.configured else ""

    @property
    def description(self) -> str:
        """One line on what it is."""
        if self.configured is not None and self.configured.description:
            return self.configured.description
        entry = self.published
        return f"{entry.architecture or 'added'}, {entry.data or entry.classes or '?'}" if entry else ""

    @property
    def facts(self) -> Facts:
        """What is known of it apart from its tensors."""
        return self.published.facts() if self.published else Facts()

    @property
    def untrained(self) -> bool:
        """Whether the model has no trained weights anywhere: noise, made at load from a fixed seed."""
        return self.name.startswith("tiny") and self.name in _configs()

    @property
    def bundled(self) -> bool:
        """Whether its weights come with the package."""
        return self.name in _bundled()

    @property
    def ready(self) -> bool:
        """Whether it can be used at once."""
        return self.untrained or self.weights is not None


def own(name: str) -> bool:
    """Whether the name means a model of the package, bundled or noise, whatever is installed under it."""
    return KnownModel(name, None, None).untrained or name in _bundled()


def default_model() -> str:
    """The name or file that is used when none is given: `$DVIS_MODEL`, or the bundled model."""
    return os.environ.get("DVIS_MODEL") or DEFAULT_MODEL


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
    """All models that are ready or have a configuration: bundled ones, then by their names, `tiny` last."""
    models = [known_model(name) for name in sorted({*_configs(), *installed_names()})]
    return sorted(models, key=lambda model: (not model.bundled, model.untrained))


def known_model(name: str) -> KnownModel:
    """Look a model up by name. Raises `UsageError` with the nearest known names."""
    config, bundled = _configs().get(name), _bundled().get(name)
    if bundled is not None:
        return KnownModel(name, config, bundled)
    there = installed(name) if NAME.fullmatch(name) else None
    entry = there.entry if there else all_published().get(name)
    if config is None and entry is None:
        raise UsageError(_unknown(name))
    if there is not None:
        return KnownModel(name, config, there.path, entry)
    candidates = [weights_folder() / f"{name}{suffix}" for suffix in SUFFIXES]
    return KnownModel(name, config, next((path for path in candidates if path.is_file()), None), entry)


def _unknown(name: str) -> str:
    known = sorted({*_configs(), *installed_names(), *all_published()})
    near = difflib.get_close_matches(name, known, 3, 0.5)
    hint = f"the nearest: {', '.join(near)}; " if near else ""
    return (
        f"model {name[:200]!r} not found: neither a file nor a known model; {hint}known models: "
        f"{', '.join(sorted(_configs()))}, and the {len(all_published())} of 'dvis weights list'"
    )


def looks_like_file(model: str) -> bool:
    """Whether a `--model` value names a file, or a folder of transformers, rather than a registered model."""
    path = Path(model)
    there = path.is_file() or (path / "config.json").is_file()
    return model.endswith(SUFFIXES) or "/" in model or os.sep in model or there


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
