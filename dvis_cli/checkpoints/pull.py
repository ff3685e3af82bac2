"""Fetch what the registry knows: first a plan (which files, how large), then the files."""

from __future__ import annotations

import dataclasses
import shutil
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dvis_cli.errors import CheckpointError, OutputError, UsageError

from . import hub
from .download import (
    Digest,
    OnBytes,
    RemoteFile,
    check_address,
    digest_of,
    fetch,
    mismatch,
    refuse_offline,
    remote_size,
)
from .hf_folder import INDEX_FILES, weight_files
from .installed import Installed, finish, installed, locked, pin, pinned, staging_folder
from .published import Published, check_name
from .registry import own

_SHOWN = 12


@dataclass(frozen=True)
class Plan:
    """What will be fetched."""

    entry: Published
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int | None:
        """Bytes in all, None when a server does not say."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def plan(entry: Published, pattern: str | None = None) -> Plan:
    """Look up which files an entry is made of, and how large they are. Nothing is fetched yet.

    Args:
        pattern: take the file of the repository that matches this instead of the entry's own patterns.

    Raises:
        UsageError: the entry cannot be used, no network is allowed, or not exactly one file matches.
        CheckpointError: it is not there, or cannot be reached.
    """
    if entry.unsupported:
        raise UsageError(f"{entry.name}: {entry.unsupported}")
    refuse_offline(f"pulling {entry.name}")
    if entry.url is not None:
        return Plan(entry, (_plain_file(entry, entry.url),))
    assert entry.hub is not None
    found = hub.repository(entry.hub)
    patterns = (pattern,) if pattern else entry.file
    if not patterns:
        return Plan(entry, tuple(found.remote(file) for file in hub.folder_files(found)))
    matches = hub.matching(found, patterns)
    if len(matches) != 1:
        raise UsageError(_which(entry, found, patterns, matches))
    file = dataclasses.replace(found.remote(matches[0]), md5=entry.md5)
    if entry.sha256 and file.sha256 and not file.sha256.startswith(entry.sha256):
        raise CheckpointError(
            f"{file.address}: the hub has SHA-256 {file.sha256}, the registry {entry.sha256}"
        )
    return Plan(entry, (dataclasses.replace(file, sha256=file.sha256 or entry.sha256),))


def _plain_file(entry: Published, address: str) -> RemoteFile:
    name = urllib.parse.unquote(check_address(address).path).rsplit("/", 1)[-1]
    check_name(name)
    file = RemoteFile(name, address, None, entry.sha256, entry.md5)
    return dataclasses.replace(file, size=remote_size(file))


def _which(
    entry: Published, found: hub.Repository, patterns: tuple[str, ...], matches: list[hub.HubFile]
) -> str:
    """Why no file can be chosen, and what there is."""
    listed = matches or hub.matching(found, ())
    names = ", ".join(file.path for file in listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
    what = f"{len(matches)} files of {entry.hub} match {' and '.join(patterns)}"
    return f"{entry.name}: {what}; choose one with --file PATTERN from: {names or 'no weight files there'}"


def pull(planned: Plan, on_bytes: OnBytes, on_wait: Callable[[], None]) -> Installed:
    """Fetch what was planned. An installed model is left as it is.

    Args:
        on_bytes: called now and then with the bytes so far and in all.
        on_wait: called once if another process pulls the same model.

    Raises:
        CheckpointError: not the file that was expected, or no connection.
        OutputError: the disk is full or cannot be written.
    """
    entry = planned.entry
    with locked(entry.name, on_wait):
        there = installed(entry.name)
        if there is not None:
            return there
        staging = staging_folder(entry.name)
        digests: dict[str, Digest] = {}
        for file in planned.files:
            done = sum(digest.size for digest in digests.values())
            on_part = partial(_on_part, on_bytes, done, planned.size)
            digests[file.name] = _fetched(file, staging, on_part)
        made = finish(entry, staging, digests)
    for file in planned.files:
        pin(file.address, digests[file.name])
    return made


def _fetched(file: RemoteFile, staging: Path, on_bytes: OnBytes) -> Digest:
    """One file, from an earlier attempt or fetched now; what was pinned for its address must come again."""
    first = pinned(file.address)
    if first is not None and file.sha256 is None:
        file = dataclasses.replace(file, sha256=first.sha256)
    target = staging / file.name
    if target.is_file():
        digest = digest_of(target)
        if file.sha256 is not None and mismatch(file, digest) is None:
            return digest
        target.unlink()
    try:
        return fetch(file, target, on_bytes)
    except CheckpointError as error:
        if first is not None and "SHA-256" in str(error):
            raise CheckpointError(
                f"{error}: the file at this address is another than at first use. If its authors changed it, take its "
                f"line out of {staging.parent / 'pins.json'}"
            ) from None
        raise


def _on_part(on_bytes: OnBytes, done: int, total: int | None, part: int, size: int | None) -> None:
    on_bytes(done + part, size if total is None else total)


def add(source: Path, entry: Published) -> Installed:
    """Copy a weight file, or a folder of transformers, into the cache under a name.

    Raises:
        UsageError: the name is taken.
        OutputError: it cannot be copied.
    """
    if own(entry.name):
        raise UsageError(f"{entry.name!r} is a model that comes with dvis: choose another name")
    files = [source]
    if source.is_dir():
        names = ("config.json", "preprocessor_config.json")
        files = [*(source / name for name in names if (source / name).is_file()), *weight_files(source)]
        files += [source / name for name in INDEX_FILES if (source / name).is_file()]
    with locked(entry.name):
        if installed(entry.name) is not None:
            raise UsageError(f"{entry.name!r} is installed; 'dvis weights remove {entry.name}' makes room")
        staging = staging_folder(entry.name)
        try:
            for file in files:
                shutil.copyfile(file, staging / file.name)
            digests = {file.name: digest_of(staging / file.name) for file in files}
        except OSError as error:
            raise OutputError(f"cannot copy {source} to {staging}: {error.strerror or error}") from None
        return finish(entry, staging, digests)
