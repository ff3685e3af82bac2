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
    except json.JSONDecodeError:
        raise CheckpointError(f"weights {path}: the configuration inside is not valid JSON") from None
    return model_config(document, f"configuration inside {path}")
