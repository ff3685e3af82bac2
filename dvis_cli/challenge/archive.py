"""Submissions as files: read from a folder or zip, and written as a zip or folder.

Nothing is unpacked to disk, and nothing is read that is larger than it can honestly be. The bytes of a zip depend on
its content alone: fixed times and modes.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from dvis_cli.datasets.names import safe_name
from dvis_cli.errors import DatasetError, OutputError
from dvis_cli.files import atomic_path, output_errors
from dvis_cli.writers.folder import AtomicFolder

MOST_MEMBERS = 1_000_000
LARGEST_PNG = 2**30  # bytes
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can name
_REGULAR_FILE, _UNIX = 0o100644 << 16, 3


class Archive:
    """A folder's files by name, `/` between folders. `complaints` are (member, what is wrong with it)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.complaints: list[tuple[str, str]] = []

    def names(self, folder: str) -> set[str]:
        """The files in a folder."""
        path = self.path / folder
        return {entry.name for entry in path.iterdir()} if path.is_dir() else set()

    def folders(self, parent: str = "") -> set[str]:
        """The names of the folders in `parent` that hold files; hidden ones are left out."""
        path = self.path / parent
        entries = path.iterdir() if path.is_dir() else ()
        return {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}

    def read(self, name: str, limit: int = LARGEST_PNG, head: int | None = None) -> bytes:
        """A file's bytes, or its first `head` ones.

        Raises:
            DatasetError: missing, damaged, or larger than `limit` bytes.
        """
        try:
            with self.path.joinpath(*name.split("/")).open("rb") as file:
                data = file.read(limit + 1 if head is None else head)
        except FileNotFoundError:
            raise DatasetError(f"{name} is missing") from None
        except OSError as error:
            raise DatasetError(f"{name} cannot be read: {error.strerror}") from error
        if len(data) > limit:
            raise DatasetError(f"{name} is larger than the {limit} bytes it may have")
        return data

    def read_json(self, name: str, limit: int) -> Any:
        """A json file of at most `limit` bytes. Raises `DatasetError`: as `read`, or it is not json."""
        try:
            return json.loads(self.read(name, limit))
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{name} is not json: {error}") from error

    def unexpected(self, known: Iterable[str]) -> list[str]:
        """Members of a zip that are not in `known`."""
        return []


class ZipArchive(Archive):
    """A zip's."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DatasetError(f"{path} is not a readable zip: {error}") from error
        infos = self.archive.infolist()
        if len(infos) > MOST_MEMBERS:
            raise DatasetError(f"{path} holds {len(infos)} files; a submission has at most {MOST_MEMBERS}")
        self.members: dict[str, zipfile.ZipInfo] = {}
        self._index: dict[str, set[str]] = {}  # folder -> its files
        for info in infos:
            if not info.is_dir():
                self._add(info)

    def _add(self, info: zipfile.ZipInfo) -> None:
        # `orig_filename`: the name as stored; zipfile cuts `filename` at a NUL and turns \ into / on Windows.
        try:
            parts = [safe_name(part, "member") for part in info.orig_filename.split("/")]
        except DatasetError:
            self.complaints.append((repr(info.orig_filename), "unsafe name: it leads out of the folder"))
            return
        if info.filename in self.members:
            self.complaints.append((info.filename, "is in the zip twice"))
        elif info.flag_bits & 1:
            self.complaints.append((info.filename, "is encrypted"))
        else:
            self.members[info.filename] = info
            self._index.setdefault("/".join(parts[:-1]), set()).add(parts[-1])

    def names(self, folder: str) -> set[str]:
        return self._index.get(folder, set())

    def folders(self, parent: str = "") -> set[str]:
        paths = [folder.rpartition("/") for folder in self._index]
        return {name for above, _, name in paths if above == parent and name and not name.startswith(".")}

    def read(self, name: str, limit: int = LARGEST_PNG, head: int | None = None) -> bytes:
        if name not in self.members:
            elsewhere = [other for other in self.members if other.endswith(f"/{name}")]
            hint = f" at the top of the zip (it is at {elsewhere[0]})" if elsewhere else ""
            raise DatasetError(f"{name} is missing{hint}")
        info = self.members[name]
        if head is None and info.file_size > limit:
            raise DatasetError(f"{name} unpacks to {info.file_size} bytes and may have {limit} at most")
        try:
            with self.archive.open(info) as file:
                return file.read() if head is None else file.read(head)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, ValueError) as error:
            raise DatasetError(f"{name} is damaged: {error}") from error

    def unexpected(self, known: Iterable[str]) -> list[str]:
        return sorted(self.members.keys() - set(known))


@lru_cache(maxsize=2)
def _opened(path: Path, size: int, changed: int) -> ZipArchive:
    return ZipArchive(path)


def open_archive(path: Path, expected: str = "a submission") -> Archive:
    """A folder or zip to read from. A zip stays open for the next call.

    Args:
        expected: what should be there, for the message.

    Raises:
        DatasetError: there is nothing, or not a zip.
    """
    if path.is_dir():
        return Archive(path)
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; expected {expected}")
    status = path.stat()
    return _opened(path.resolve(), status.st_size, status.st_mtime_ns)


def refuse_existing(target: Path, overwrite: bool) -> None:
    """Raise OutputError where a file must not be replaced."""
    if target.is_dir() or (target.exists() and not overwrite):
        raise OutputError(f"{target} already exists; add --overwrite to replace it, or choose another name")


class ZipWriter:
    """A zip that is being written; see `zip_writer`."""

    def __init__(self, target: Path, archive: zipfile.ZipFile) -> None:
        self.target, self._zip = target, archive
        self._names: set[str] = set()

    def write(self, name: str, data: bytes) -> None:
        """Add a file as it is; a name that was added before is a ValueError."""
        if name in self._names:
            raise ValueError(f"{name} was added twice")
        self._names.add(name)
        with output_errors(self.target):
            self._zip.writestr(_entry(name), data)

    def write_text(self, name: str, pieces: Iterable[str]) -> None:
        """Add a text, compressed, piece by piece."""
        info = _entry(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        with output_errors(self.target), self._zip.open(info, "w", force_zip64=True) as file:
            for piece in pieces:
                file.write(piece.encode())


class FolderWriter(AtomicFolder):
    """A folder of folders that appears whole or not at all; an existing one is an OutputError."""

    def __enter__(self) -> FolderWriter:
        if self.target.exists():
            raise OutputError(f"{self.target} already exists; remove it or choose another name")
        super().__enter__()
        return self

    def write(self, name: str, data: bytes) -> None:
        """Add a file as it is."""
        path = self.path.joinpath(*name.split("/"))
        with output_errors(path):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)


@contextmanager
def zip_writer(target: Path, overwrite: bool = False) -> Iterator[ZipWriter]:
    """A zip that appears whole or not at all.

    Raises:
        OutputError: `target` exists and is not to be overwritten, or cannot be written.
    """
    refuse_existing(target, overwrite)
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as partial, zipfile.ZipFile(partial, "w", allowZip64=True) as archive:
        yield ZipWriter(target, archive)


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr, info.create_system = _REGULAR_FILE, _UNIX
    return info
