"""Videos and results behind addresses (s3://, gs://, memory://, ...), through fsspec.

Networks work on local files, so an input is fetched to a temporary folder and a result is uploaded from one. An object
store knows no rename: a result's record goes up last, and a result that has it is whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dvis_cli.errors import DvisError, UsageError
from dvis_cli.files import process_alive


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


def join(url: str, key: str) -> str:
    """The address of something below another one."""
    return f"{url.rstrip('/')}/{key}"


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

    try:
        return url_to_fs(url)
    except (ImportError, ValueError) as error:
        hint = "kinds of address are those of fsspec; pip install 'dvis[cloud]' brings s3:// and gs://"
        raise UsageError(f"{url}: {one_line(error)}; {hint}") from None
    except Exception as error:
        raise TransferError(f"{url} cannot be reached: {one_line(error)}") from error


def address_of(path: str, like: str) -> str:
    """The address of a path that a file system named, in the form of an address the user gave."""
    return path if is_url(path) else f"{like.partition('://')[0]}://{path}"


def remote_mark(info: dict[str, Any]) -> str:
    """What a store tells of a file that changes when the file does: its size, and a hash or time."""
    names = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
    return f"{info.get('size')}:{next((str(info[name]) for name in names if info.get(name)), '')}"


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


def fetch(url: str, folder: Path) -> Path:
    """Download a video into a folder, under its own name."""
    fs, path = file_system(url)
    target = folder / base_name(path)
    with transfers(url, "download"):
        fs.get_file(path, str(target))
    return target


def publish(folder: Path, url: str, last_name: str) -> None:
    """Upload a result. What lies there of an earlier one goes first; the file that shows it to be whole comes last.

    All others go in one call, which file systems of stores carry out side by side: the 1500 maps of a minute one
    after the other would take longer than making them.
    """
    fs, path = file_system(url)
    files = {
        file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()
    }
    last = files.pop(last_name)
    with transfers(url, "upload"):
        if fs.exists(join(path, last_name)):
            fs.rm_file(join(path, last_name))
        if fs.exists(path):
            fs.rm(path, recursive=True)
        for parent in sorted({name.rpartition("/")[0] for name in files} | {""}):
            fs.makedirs(join(path, parent) if parent else path, exist_ok=True)
        if files:
            fs.put([str(file) for file in files.values()], [join(path, name) for name in files])
        fs.put_file(str(last), join(path, last_name))


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder of this process; those that killed processes left on this machine are removed."""
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
    with suppress(OSError):
        for stray in Path(tempfile.gettempdir()).glob(f"dvis-batch-{host}-*"):
            pid = stray.name.split("-")[3]
            if pid.isdecimal() and not process_alive(int(pid)):
                shutil.rmtree(stray, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f"dvis-batch-{host}-{os.getpid()}-", ignore_cleanup_errors=True
    ) as name:
        yield Path(name)


def one_line(error: BaseException) -> str:
    """An exception as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
