"""The output of a batch: a folder, or an address. What lies in it is all that a later run knows.

KEY/batch.json     in each result: what it was made from; a result appears whole, with it
failures.jsonl     videos without a result, and why
index.html         with --report: a picture, the counts and a link for each result
.dvis/             while runs are at work: claims on videos, and results that are being made

Folders and addresses (s3://, gs://, memory://, ...) are reached through fsspec, with errors of one line.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from dvis_cli.errors import DvisError, OutputError, UsageError
from dvis_cli.files import output_errors, remove
from dvis_cli.writers.folder import check_target

RECORD, FAILURES, INDEX, STATE = "batch.json", "failures.jsonl", "index.html", ".dvis"
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_CHUNK = 500  # small files that are fetched side by side
_SYNCS = 16  # files that are on their way to the disk at once


class TransferError(DvisError):
    """An address could not be reached, or a transfer broke off; another try may succeed."""


def is_url(text: str) -> bool:
    """Whether a source or output is an address rather than a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def local_path(text: str) -> Path | None:
    """The path that a plain name or a file:// address means; None for other addresses."""
    if text.startswith("file://"):
        return Path(text.removeprefix("file://") or "/")
    return None if is_url(text) else Path(text)


def join(parent: str, name: str) -> str:
    """The address, or relative path, of something below another one; "" is the top."""
    return f"{parent.rstrip('/')}/{name}" if parent and name else parent or name


def base_name(url: str) -> str:
    """The last part of an address."""
    return url.rstrip("/").rpartition("/")[2]


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it.

    Raises:
        UsageError: unknown kind of address, or its package is not installed.
        TransferError: it cannot be reached.
    """
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    if "::" in url:
        raise UsageError(f"{url}: an address in an address (::) cannot be read; fetch or unpack it first")
    try:
        return url_to_fs(url)
    except (ImportError, ValueError) as error:
        hint = "kinds of address are those of fsspec; pip install 'dvis[cloud]' brings s3:// and gs://"
        raise UsageError(f"{url}: {one_line(error)}; {hint}") from None
    except Exception as error:
        raise TransferError(f"{url} cannot be reached: {one_line(error)}") from error


@contextmanager
def transfers(url: str, what: str) -> Iterator[None]:
    """Turn whatever a store's client raises into one line."""
    try:
        yield
    except DvisError:
        raise
    except FileNotFoundError as error:
        raise DvisError(f"{url}: there is no such file") from error
    except Exception as error:
        raise TransferError(f"{url}: {what} failed: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """An exception as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


class Output:
    """A folder, of this machine or a network disk, or an address that fsspec knows. Names are relative to it."""

    def __init__(self, out: str | Path) -> None:
        self._folder = local_path(str(out))
        self.name = str(out).rstrip("/") if self._folder is None else str(self._folder)
        if self._folder is None:
            self._fs, self._root = file_system(self.name)
        else:  # a path is never read as an address
            self._fs, self._root = file_system("file:///")[0], os.path.abspath(self._folder)  # noqa: PTH100

    def read(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """The contents of small files, in order; None for what is not there."""
        rest = iter(names)
        while chunk := [join(self._root, name) for name in islice(rest, _CHUNK)]:
            whole: list[None] = [None] * len(chunk)
            with transfers(self.name, "reading"):
                if self._folder is None:
                    found = self._fs.cat_ranges(chunk, whole, whole, on_error="return")
                else:
                    found = map(_contents, chunk)
            for path, data in zip(chunk, found, strict=True):
                if isinstance(data, bytes):
                    yield data
                elif isinstance(data, (FileNotFoundError, NotADirectoryError)):
                    yield None
                else:
                    kind = TransferError if self._folder is None else OutputError
                    raise kind(f"{path} cannot be read: {one_line(data)}") from data

    def read_document(self, name: str) -> dict[str, Any]:
        """A small file's JSON object; {} where there is none."""
        return parse(next(self.read([name])))

    def write(self, name: str, data: bytes, stage: str) -> None:
        """Write a small file, whole; in a folder it is made at `stage` and renamed."""
        with self._writes(name) as path:
            if stage:
                Path(stage).parent.mkdir(exist_ok=True)
                Path(stage).write_bytes(data)
                os.replace(stage, path)  # noqa: PTH105
            else:
                self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._fs.pipe_file(path, data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless there is one of that name; whether there was none.

        In a folder one of many gets it. A store is asked, and then told: two that ask within one moment both get it.
        """
        with self._writes(name) as path:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            if self._folder is None:
                return not self._fs.exists(path) and self._fs.pipe_file(path, data) is None
            try:
                with open(path, "xb", buffering=0) as file:  # noqa: PTH123
                    file.write(data)
            except FileExistsError:
                return False
            except FileNotFoundError:  # another run has just ended, and removed the folder
                return self.create(name, data)
            except OSError:
                Path(path).unlink(missing_ok=True)
                raise
        return True

    def touch(self, name: str, data: bytes) -> None:
        """Show that whoever wrote this small file, `data`, lives."""
        with self._writes(name) as path:
            if self._folder is None:
                self._fs.pipe_file(path, data)
            else:
                os.utime(path)

    def age(self, name: str) -> float:
        """Seconds since a small file was last touched, by the clock that stamps the files there."""
        clock = join(self._root, f"{STATE}/clock")
        with suppress(DvisError), transfers(self.name, "reading"):
            self._fs.pipe_file(clock, b"-")
            self._fs.invalidate_cache()
            touched = self._fs.modified(join(self._root, name))
            return float((self._fs.modified(clock) - touched).total_seconds())
        return 0.0

    def remove(self, name: str) -> None:
        """Remove a small file, or a folder that work was done in."""
        with suppress(OSError, DvisError):
            if self._folder is not None:
                remove(self._folder / name)
            else:
                self._remove(join(self._root, name))

    def state(self) -> list[str]:
        """Names of what is in `STATE`."""
        path = join(self._root, STATE)
        with transfers(self.name, "listing"), suppress(FileNotFoundError, NotADirectoryError):
            self._fs.invalidate_cache()
            return os.listdir(path) if self._folder else list(map(base_name, self._fs.ls(path, detail=False)))  # noqa: PTH208
        return []

    def stage(self, name: str) -> str:
        """Where in `STATE` a result is to be made, so that one rename puts it in its place; "": anywhere."""
        return "" if self._folder is None else str(self._folder / STATE / name)

    def close(self) -> None:
        """Remove `STATE` when nobody needs it."""
        self.remove(f"{STATE}/clock")
        with suppress(DvisError), transfers(self.name, "removal"):  # not empty: another run is at work
            self._fs.rmdir(join(self._root, STATE))

    def check_writable(self) -> None:
        """Refuse an output that takes no results, before a model is loaded for them. Raises `OutputError`."""
        if self._folder is not None and not (self._folder / STATE).exists():
            check_target(self._folder / STATE, overwrite=False)

    def check(self, key: str, overwrite: bool) -> None:
        """Refuse to replace what is no result of a batch, without --overwrite. Raises `OutputError`."""
        if self._folder is not None:
            target = self._folder / key
            if os.path.lexists(target):
                check_target(target, overwrite or (target / RECORD).is_file())
            return
        with transfers(self.name, "reading"):
            there = not overwrite and self._fs.exists(join(self._root, key))
        if there and not self.read_document(join(key, RECORD)):
            raise OutputError(f"{join(self.name, key)} already exists; add --overwrite to replace it")

    def put(self, made: Path, key: str, overwrite: bool) -> None:
        """Move a result to where it belongs, whole or not at all; it is on the disk before it appears there."""
        if self._folder is None:
            self._upload(made, key)
            return
        target = self._folder / key
        with output_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            make_durable(made)
            self.check(key, overwrite)
            if target.exists():
                target.rename(made.with_name("earlier"))
            made.rename(target)
            _sync(str(target.parent))

    def _upload(self, made: Path, key: str) -> None:
        """A store knows no rename: the record goes first of what was there, and comes last of what is new.

        All others go in one call, which file systems of stores carry out side by side: the 1500 maps of a minute one
        after the other would take longer than making them.
        """
        path = join(self._root, key)
        files = {one.relative_to(made).as_posix(): str(one) for one in made.rglob("*") if one.is_file()}
        last = files.pop(RECORD)
        with transfers(join(self.name, key), "upload"):
            if self._fs.exists(join(path, RECORD)):
                self._fs.rm_file(join(path, RECORD))
            self._remove(path)
            for parent in sorted({name.rpartition("/")[0] for name in files} | {""}):
                self._fs.makedirs(join(path, parent), exist_ok=True)
            if files:
                self._fs.put(list(files.values()), [join(path, name) for name in files])
            self._fs.put_file(last, join(path, RECORD))

    def _remove(self, path: str) -> None:
        with transfers(self.name, "removal"):
            if self._fs.exists(path):
                self._fs.rm(glob.escape(path), recursive=True)  # which takes patterns

    @contextmanager
    def _writes(self, name: str) -> Iterator[str]:
        """The full path of a name to be written, with errors of one line."""
        errors = transfers(join(self.name, name), "writing")
        with errors if self._folder is None else output_errors(self._folder / name):
            yield join(self._root, name)


def _contents(path: str) -> bytes | OSError:
    """Of a local file: a run may begin with a million of them."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read()
    except OSError as error:
        return error


def make_durable(folder: Path) -> None:
    """Have all files of a folder on the disk.

    Side by side: a file system that is asked for many at once writes them in one go. One after the other, the maps of
    a minute took 8 seconds instead of a third of one.
    """
    paths = [str(folder), *(str(path) for path in folder.rglob("*"))]
    with ThreadPoolExecutor(_SYNCS) as together:
        list(together.map(_sync, paths))


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in DISK_FULL | {errno.EIO}:  # others: a file system that cannot
            raise
    finally:
        os.close(descriptor)


def parse(data: bytes | None) -> dict[str, Any]:
    """A small file's JSON object; {} for anything else."""
    with suppress(ValueError, RecursionError):
        document = json.loads(data or b"")
        return document if isinstance(document, dict) else {}
    return {}
