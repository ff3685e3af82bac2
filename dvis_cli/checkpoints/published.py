"""The registry of weights that can be pulled: what they are, where they lie, under which licence.

Entries come from `published.yaml` and from a user's own files of the same form (`home.registry_files`), whose
entries win over those of the same name.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from dvis_cli.config import TaskName, build_config, load_yaml
from dvis_cli.errors import ConfigError, UsageError

from .home import registry_files
from .label_sets import LABEL_SETS, Facts, facts_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Published:
    """One entry of a registry."""

    name: str
    licence: str
    task: TaskName = "panoptic"
    data: str = ""  # the data set it was trained on
    classes: str | None = None  # one of `label_sets.LABEL_SETS`
    architecture: str = ""
    hub: str | None = None  # "owner/repository" of the Hugging Face hub
    url: str | None = None  # or a plain https address
    file: tuple[str, ...] = ()  # patterns that a path in the repository must match, all of them
    size_mb: float | None = None  # about, as published
    score: str | None = None
    source: str | None = None  # the page that size, score and licence come from
    md5: str | None = None  # what the checksum begins with
    sha256: str | None = None
    short_side: int | None = None  # pixels, where not usual for the data set
    long_side: int | None = None
    unsupported: str | None = None  # why it is listed but cannot be used

    @property
    def address(self) -> str:
        """Where it lies, for people."""
        if self.hub is None:
            return self.url or "added from a file"
        return " ".join([f"https://huggingface.co/{self.hub}", *self.file])

    def facts(self) -> Facts:
        """What the entry tells of the model apart from its tensors."""
        if self.classes is None:
            return Facts(name=self.name)
        sizes = {"short_side": self.short_side, "long_side": self.long_side}
        return facts_of(self.classes, semantic=self.task == "semantic", name=self.name, **sizes)

    def document(self) -> dict[str, Any]:
        """As plain data, without empty fields."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value not in (None, ())}


def check_name(name: str) -> str:
    """A model's name, which is also a folder's. Raises `UsageError`."""
    if not NAME.fullmatch(name) or ".." in name:
        raise UsageError(
            f"name {name[:120]!r}: choose 1 to 100 letters, digits and any of '._+-', beginning with a letter or digit"
        )
    return name


def published(name: str) -> Published:
    """An entry by name. Raises `UsageError` with the nearest known names."""
    known = all_published()
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.4)
        hint = f"; the nearest: {', '.join(near)}" if near else ""
        raise UsageError(f"{name!r} is not in the registry{hint}; 'dvis weights list' shows all {len(known)}")
    return known[name]


def all_published() -> dict[str, Published]:
    """All entries by name, the user's over the package's. Raises `ConfigError`."""
    entries = dict(_packaged())
    for path in registry_files():
        entries.update(read_registry(path))
    return entries


@lru_cache(maxsize=1)
def _packaged() -> dict[str, Published]:
    return read_registry(Path(str(files("dvis_cli"))) / "checkpoints" / "published.yaml")


def read_registry(path: Path) -> dict[str, Published]:
    """Entries of one file by name. Raises `ConfigError` with the entry that is wrong."""
    document = load_yaml(path)
    unknown = set(document) - {"models", "templates"}
    listed = document.get("models")
    if unknown or not isinstance(listed, list):
        raise ConfigError(f"registry {path} must hold a list 'models', and at most 'templates' beside it")
    entries: dict[str, Published] = {}
    for number, one in enumerate(listed):
        entry = entry_from(one, f"registry {path}, entry {number + 1}")
        if entry.hub is None and entry.url is None:
            raise ConfigError(f"registry {path}: {entry.name!r} needs hub or url")
        if entry.name in entries:
            raise ConfigError(f"registry {path}: {entry.name!r} stands twice")
        entries[entry.name] = entry
    return entries


def entry_from(document: Any, where: str) -> Published:
    """One entry from plain data. Raises `ConfigError` beginning with `where`."""
    if not isinstance(document, dict) or not {"name", "licence"} <= set(document):
        raise ConfigError(f"{where}: expected a mapping with name and licence")
    if isinstance(document.get("file"), str):
        document = {**document, "file": [document["file"]]}
    entry = build_config(Published, document, where)
    try:
        check_name(entry.name)
    except UsageError as error:
        raise ConfigError(f"{where}: {error}") from None
    if entry.classes is not None and entry.classes not in LABEL_SETS:
        raise ConfigError(f"{where}: classes={entry.classes!r}, choose one of {', '.join(LABEL_SETS)}")
    if entry.hub is not None and entry.url is not None:
        raise ConfigError(f"{where}: hub and url are both there, expected one")
    if entry.hub is not None and (not _HUB.fullmatch(entry.hub) or ".." in entry.hub):
        raise ConfigError(f"{where}: hub={entry.hub!r}, expected OWNER/REPOSITORY")
    for key, length in (("md5", 32), ("sha256", 64)):
        digest = getattr(entry, key)
        if digest is not None and not re.fullmatch(rf"[0-9a-f]{{6,{length}}}", digest):
            raise ConfigError(f"{where}: {key}={digest!r}, expected 6 to {length} hexadecimal digits")
    for key in ("short_side", "long_side"):
        value = getattr(entry, key)
        if value is not None and not 32 <= value <= 8192:
            raise ConfigError(f"{where}: {key}={value} must lie in 32..8192 pixels")
    return entry
