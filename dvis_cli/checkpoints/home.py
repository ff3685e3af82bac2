"""Where dvis keeps what it fetched, and where a user's own registry is looked for."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_home() -> Path:
    """`$DVIS_HOME`, or `dvis` in the platform's cache folder."""
    named = os.environ.get("DVIS_HOME")
    if named:
        return Path(named).expanduser()
    if sys.platform == "darwin" and "XDG_CACHE_HOME" not in os.environ:
        return Path.home() / "Library" / "Caches" / "dvis"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dvis"


def weights_folder() -> Path:
    """Where weights are looked for by name: `$DVIS_WEIGHTS`, or `weights` in the cache."""
    named = os.environ.get("DVIS_WEIGHTS")
    return Path(named).expanduser() if named else cache_home() / "weights"


def registry_files() -> list[Path]:
    """A user's own registries: those of `$DVIS_REGISTRY`, or `dvis/registry.yaml` in the platform's config folder."""
    named = os.environ.get("DVIS_REGISTRY")
    if named:
        return [Path(part).expanduser() for part in named.split(os.pathsep) if part]
    if sys.platform == "darwin" and "XDG_CONFIG_HOME" not in os.environ:
        folder = Path.home() / "Library" / "Application Support"
    else:
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    path = folder / "dvis" / "registry.yaml"
    return [path] if path.is_file() else []
