"""The output of a batch: a folder, or an address. It holds the lock, the manifest and the results."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from .leftovers import remove_empty_parents, remove_leftovers
from .lock import RemoteLock, RunLock
from .manifest import STEM, Manifest, Row, file_name, rows_of
from .places import (
    TransferError,
    address_of,
    file_system,
    join,
    local_path,
    read_bytes,
    remove_remote,
    scratch_folder,
    transfers,
    write_bytes,
)

Shard = tuple[int, int] | None
_UPLOAD_EVERY = 15.0  # seconds between copies of the manifest


class Output(Protocol):
    """Where results go."""

    name: str  # as tasks name it

    def lock(self, shard: Shard) -> RunLock | RemoteLock:
        """A context manager that keeps other runs away."""

    def manifest(self, shard: Shard) -> AbstractContextManager[Manifest]:
        """A context manager: the manifest of this run, complete on the output when it ends."""

    def other_rows(self, shard: Shard) -> list[Row]:
        """Rows of the manifests of other parts, or of runs in parts."""

    def absorb(self, shard: Shard) -> None:
        """The whole has been done: the manifests of parts, whose rows were taken over, are not needed."""

    def has(self, key: str) -> bool:
        """Whether a finished result is still there."""

    def is_free(self, key: str) -> bool:
        """Whether nothing lies where a result will be; only that and our own results are replaced unasked."""

    def clean(self, key: str) -> None:
        """Remove what a broken try left of a video."""

    def prune(self, key: str) -> None:
        """Remove folders that only a failed video needed."""

    def tick(self) -> None:
        """Called now and then."""


class FolderOutput:
    """A folder of this machine or of a network disk."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, str(folder)

    def lock(self, shard: Shard) -> RunLock:
        return RunLock(self.folder, shard)

    @contextmanager
    def manifest(self, shard: Shard) -> Iterator[Manifest]:
        with Manifest(self.folder / file_name(shard)) as manifest:
            yield manifest

    def other_rows(self, shard: Shard) -> list[Row]:
        return [row for path in self._others(shard) for row in rows_of(path)]

    def absorb(self, shard: Shard) -> None:
        if shard is None:
            for path in self._others(None):
                path.unlink(missing_ok=True)

    def has(self, key: str) -> bool:
        return os.path.isdir(f"{self.name}/{key}")  # noqa: PTH112 - of a hundred thousand

    def is_free(self, key: str) -> bool:
        return not os.path.lexists(self.folder / key)

    def clean(self, key: str) -> None:
        remove_leftovers(self.folder / key)

    def prune(self, key: str) -> None:
        remove_empty_parents(self.folder, key)

    def tick(self) -> None:
        """Nothing to do: every row is on the disk already."""

    def _others(self, shard: Shard) -> list[Path]:
        own = file_name(shard)
        return [path for path in sorted(self.folder.glob(f"{STEM}*.jsonl")) if path.name != own]


class AddressOutput:
    """An address that fsspec knows. The manifest is written on this machine and copied there every few seconds.

    After a crash its last rows may be missing there; those videos are done again, in place.
    """

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")
        self._copied = 0.0
        self._open: tuple[Manifest, str] | None = None

    def lock(self, shard: Shard) -> RemoteLock:
        return RemoteLock(self.name, shard)

    @contextmanager
    def manifest(self, shard: Shard) -> Iterator[Manifest]:
        url = join(self.name, file_name(shard))
        with scratch_folder() as folder:
            path = folder / file_name(shard)
            data = read_bytes(url)
            if data is not None:
                path.write_bytes(data)
            try:
                with Manifest(path) as manifest:
                    self._open = (manifest, url)
                    write_bytes(url, path.read_bytes())  # an output that cannot be written is found out here
                    yield manifest
            finally:
                self._open = None
                if path.exists():
                    write_bytes(url, path.read_bytes())

    def other_rows(self, shard: Shard) -> list[Row]:
        rows: list[Row] = []
        with scratch_folder() as folder:
            for url in self._others(shard):
                data = read_bytes(url)
                (folder / "other").write_bytes(data or b"")
                rows.extend(rows_of(folder / "other"))
        return rows

    def absorb(self, shard: Shard) -> None:
        if shard is None:
            for url in self._others(None):
                remove_remote(url)

    def has(self, key: str) -> bool:
        """Taken on trust: asking a store about each of a million results would take hours and money."""
        return True

    def is_free(self, key: str) -> bool:
        """Left to the worker, which looks at what is there before it replaces anything."""
        return False

    def clean(self, key: str) -> None:
        """What a broken upload left is removed by the next try; only a video without one needs it here."""
        with suppress(TransferError):
            remove_remote(join(self.name, key))

    def prune(self, key: str) -> None:
        """Stores have no empty folders."""

    def tick(self) -> None:
        if self._open is not None and time.monotonic() - self._copied >= _UPLOAD_EVERY:
            manifest, url = self._open
            with suppress(TransferError):
                write_bytes(url, manifest.path.read_bytes())
            self._copied = time.monotonic()

    def _others(self, shard: Shard) -> list[str]:
        fs, path = file_system(self.name)
        with transfers(self.name, "listing"):
            found = fs.glob(f"{path}/{STEM}*.jsonl")
        return [address_of(p, self.name) for p in sorted(found) if not p.endswith("/" + file_name(shard))]


def output_of(out: str | Path) -> Output:
    """The output that a path or an address means."""
    folder = local_path(str(out))
    return FolderOutput(folder) if folder is not None else AddressOutput(str(out))
