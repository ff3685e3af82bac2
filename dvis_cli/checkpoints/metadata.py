"""What a `.safetensors` file of ours says of itself, apart from its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dvis_cli.config import ModelConfig, model_config
from dvis_cli.errors import CheckpointError

CONFIG_KEY = "dvis_config"  # the configuration, as JSON
_LARGEST = 20_000  # channels, queries, pixels
_MOST_LAYERS, _COUNTS = 256, ("layers", "blocks", "depths", "depth")
CATEGORIES_KEY = "dvis_categories"  # the class list, as JSON, in the order of the logits


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata strings of a `.safetensors` file; no tensor is read. Raises `CheckpointError`."""
    try:
        with safe_open(path, framework="numpy") as file:  # torch would take a second to import
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read weights {path}: {error}") from None


def config_inside(metadata: Mapping[str, str], path: Path) -> ModelConfig | None:
    """The configuration in a file's metadata, None where there is none. Raises `CheckpointError`, `ConfigError`."""
    if CONFIG_KEY not in metadata:
        return None
    try:
        document: Any = json.loads(metadata[CONFIG_KEY])
        sane = _sane(document)
    except (ValueError, RecursionError):
        raise CheckpointError(f"weights {path}: the configuration inside is not valid JSON") from None
    if not sane:
        raise CheckpointError(f"weights {path}: the configuration inside is of no model that could be built")
    return model_config(document, f"configuration inside {path}")


def _sane(document: Any, most: int = _LARGEST) -> bool:
    """Whether all numbers are such that a network of them is built in no time and no memory."""
    if isinstance(document, dict):
        return all(_sane(v, _MOST_LAYERS if k in _COUNTS else most) for k, v in document.items())
    if isinstance(document, list):
        return len(document) <= most and all(_sane(item, most) for item in document)
    return not isinstance(document, (int, float)) or document <= most
