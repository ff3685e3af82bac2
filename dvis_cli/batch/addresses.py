"""Paths and addresses (s3://, gs://, memory://, ...): the latter through fsspec, with errors of one line."""

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


def join(parent: str, name: str) -> str:
    """The address, or relative path, of something below another one; "" is the top."""
    return f"{parent.rstrip('/')}/{name}" if parent else name


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


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder of this process; those that killed processes left on this machine are removed."""
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
    with suppress(OSError):
        for stray in Path(tempfile.gettempdir()).glob(f"dvis-batch-{host}-*"):
            pid = stray.name.split("-")[3]
            if pid.isdecimal() and not process_alive(int(pid)):
                shutil.rmtree(stray, ignore_errors=True)
    prefix = f"dvis-batch-{host}-{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        yield Path(name)


def one_line(error: BaseException) -> str:
    """An exception as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
