"""The output of a batch: a folder, or an address. What lies in it is all that a later run knows.

KEY/batch.json     in each result: what it was made from; a result appears whole, with it
failures.jsonl     videos without a result, and why
index.html         with --report: a picture, the counts and a link for each result
.dvis/             while runs are at work: claims on videos, and results that are being made
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dvis_cli.errors import OutputError
from dvis_cli.files import output_errors, remove

from .addresses import TransferError, base_name, file_system, join, local_path, transfers

RECORD, FAILURES, INDEX, STATE = "batch.json", "failures.jsonl", "index.html", ".dvis"
_CHUNK = 500  # small files that are fetched side by side


class Output:
    """A folder of this machine or of a network disk. Names of small files are relative to it."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder, self._state = folder, folder / STATE
        self._clock = self._state / "clock"

    def read(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """The contents of small files, in order; None for what is not there."""
        for name in names:
            try:
                with open(f"{self.name}/{name}", "rb") as file:  # noqa: PTH123 - a million of them
                    yield file.read()
            except (FileNotFoundError, NotADirectoryError):
                yield None
            except OSError as error:
                raise OutputError(f"cannot read {self._folder / name}: {error.strerror}") from error

    def write(self, name: str, data: bytes, stage: str) -> None:
        """Write a small file, whole; it is made at `stage`."""
        with output_errors(self._folder / name):
            Path(stage).write_bytes(data)
            os.replace(stage, self._folder / name)  # noqa: PTH105

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless there is one of that name; whether there was none."""
        path = self._folder / name
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                return False
            try:
                os.write(descriptor, data)
            except OSError:
                path.unlink()
                raise
            finally:
                os.close(descriptor)
        return True

    def touch(self, name: str, data: bytes) -> None:
        """Show that whoever wrote this small file, `data`, lives."""
        with suppress(OSError):
            os.utime(self._folder / name)

    def age(self, name: str) -> float:
        """Seconds since a small file was last touched."""
        with suppress(OSError):
            self._clock.touch()  # the clock that stamps this folder's files may be a server's
            return self._clock.stat().st_mtime - (self._folder / name).stat().st_mtime
        return 0.0

    def remove(self, name: str) -> None:
        """Remove a small file, or a folder that work was done in."""
        with suppress(OSError):
            remove(self._folder / name)

    def state(self) -> list[str]:
        """Names of what is in `STATE`."""
        with suppress(FileNotFoundError):
            return os.listdir(self._state)  # noqa: PTH208
        return []

    def stage(self, name: str) -> str:
        """Where in `STATE` a result is to be made, so that one rename puts it in its place; "": anywhere."""
        return str(self._state / name)

    def close(self) -> None:
        """Remove `STATE` when nobody needs it."""
        with suppress(OSError):  # not empty: another run is at work
            self._clock.unlink(missing_ok=True)
            self._state.rmdir()


class AddressOutput(Output):
    """An address that fsspec knows.

    A store cannot refuse the second of two claims that come within the same moment; the result is then made twice.
    """

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")
        self._fs, self._root = file_system(url)

    def exists(self) -> bool:
        """Whether there is anything at this address."""
        with transfers(self.name, "reading"):
            return bool(self._fs.exists(self._root))

    def read(self, names: Iterable[str]) -> Iterator[bytes | None]:
        chunk: list[str] = []
        for name in names:
            chunk.append(name)
            if len(chunk) == _CHUNK:
                yield from self._read(chunk)
                chunk = []
        if chunk:
            yield from self._read(chunk)

    def _read(self, names: list[str]) -> Iterator[bytes | None]:
        paths = [join(self._root, name) for name in names]
        with transfers(self.name, "reading"):
            found = self._fs.cat(paths, on_error="return")
        for path in paths:
            data = found.get(path)
            if isinstance(data, Exception) and not isinstance(data, (FileNotFoundError, NotADirectoryError)):
                raise TransferError(f"{self.name}: reading failed: {data}") from data
            yield data if isinstance(data, bytes) else None

    def write(self, name: str, data: bytes, stage: str) -> None:
        path = join(self._root, name)
        with transfers(join(self.name, name), "writing"):
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, data)

    def create(self, name: str, data: bytes) -> bool:
        with transfers(self.name, "reading"):
            if self._fs.exists(join(self._root, name)):
                return False
        self.touch(name, data)
        return True

    def touch(self, name: str, data: bytes) -> None:
        self.write(name, json.dumps({**json.loads(data), "time": time.time()}).encode(), "")

    def age(self, name: str) -> float:
        document = parse(next(self.read([name])))
        return time.time() - float(document.get("time", 0)) if document else 0.0

    def remove(self, name: str) -> None:
        path = join(self._root, name)
        with suppress(TransferError), transfers(self.name, "removal"):
            if self._fs.exists(path):
                self._fs.rm(path, recursive=True)

    def state(self) -> list[str]:
        self._fs.invalidate_cache()
        path = join(self._root, STATE)
        with transfers(self.name, "listing"):
            return (
                [base_name(one) for one in self._fs.ls(path, detail=False)] if self._fs.exists(path) else []
            )

    def stage(self, name: str) -> str:
        return ""

    def close(self) -> None:
        if not self.state():
            self.remove(STATE)


def output_of(out: str | Path) -> Output:
    """The output that a path or an address means."""
    folder = local_path(str(out))
    return Output(folder) if folder is not None else AddressOutput(str(out))


def parse(data: bytes | None) -> dict[str, Any]:
    """A small file's JSON object; {} for anything else."""
    with suppress(ValueError):
        document = json.loads(data or b"")
        return document if isinstance(document, dict) else {}
    return {}
