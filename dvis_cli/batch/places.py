"""Videos and results behind addresses (s3://, gs://, memory://, ...), through fsspec.

Networks work on local files, so an input is fetched to a temporary folder and a result is uploaded from one. An
object store knows no rename: `segments.json` goes up last, and a result folder that has it is whole.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dvis_cli.errors import DvisError, UsageError

from .process import host_mark, is_alive

LAST_FILE = "segments.json"
_PREFIX = "dvis-batch"


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
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]
    except ImportError:
        raise UsageError(f"{url}: addresses need fsspec: pip install 'dvis[cloud]'") from None
    try:
        return url_to_fs(url)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{url}: {reason}; pip install 'dvis[cloud]' brings the common ones") from None
    except ValueError as error:
        raise UsageError(
            f"{url}: {error}; kinds of address are those of fsspec, such as s3:// and gs://"
        ) from None
    except Exception as error:
        raise TransferError(f"{url} cannot be reached: {one_line(error)}") from error


def address_of(path: str, like: str) -> str:
    """The address of a path that a file system named, in the form of an address the user gave."""
    return path if is_url(path) else f"{like.partition('://')[0]}://{path}"


def remote_mark(info: dict[str, Any]) -> str:
    """What a store says of a file that changes when the file does."""
    names = (
        "ETag",
        "etag",
        "md5Hash",
        "content_md5",
        "checksum",
        "mtime",
        "LastModified",
        "last_modified",
        "created",
    )
    known = next((str(info[name]) for name in names if info.get(name)), "")
    return f"{info.get('size')}:{known}"


@contextmanager
def transfers(url: str, what: str) -> Iterator[None]:
    """Turn whatever a store's client raises into one line; a full local disk stays an `OSError`."""
    try:
        yield
    except (DvisError, KeyboardInterrupt):
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


def publish(folder: Path, url: str) -> None:
    """Upload a result. What lies there of an earlier one goes first; the file that says "whole" comes last.

    All others go in one call, which file systems of stores carry out side by side: the 1500 maps of a minute one
    after the other would take longer than making them.
    """
    fs, path = file_system(url)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    last = folder / LAST_FILE
    others = [p for p in files if p != last]
    with transfers(url, "upload"):
        _remove(fs, path)
        for parent in sorted({folder, *(p.parent for p in files)}):
            fs.makedirs(_below(path, parent, folder), exist_ok=True)
        if others:
            fs.put([str(p) for p in others], [_below(path, p, folder) for p in others])
        if last in files:
            fs.put_file(str(last), _below(path, last, folder))


def _below(path: str, file: Path, folder: Path) -> str:
    """Where a file of a local folder is below a path of a file system."""
    inner = file.relative_to(folder).as_posix()
    return path if inner == "." else join(path, inner)


def remove_remote(url: str) -> None:
    """Remove a result, or the part of it that a broken run uploaded."""
    fs, path = file_system(url)
    with transfers(url, "removal"):
        _remove(fs, path)


def _remove(fs: Any, path: str) -> None:
    last = join(path, LAST_FILE)
    if fs.exists(last):
        fs.rm_file(last)  # first, so that a folder that has it is always whole
    if fs.exists(path):
        fs.rm(path, recursive=True)


def read_bytes(url: str) -> bytes | None:
    """A small file, None when it is not there."""
    fs, path = file_system(url)
    with transfers(url, "reading"):
        return bytes(fs.cat_file(path)) if fs.exists(path) else None


def write_bytes(url: str, data: bytes) -> None:
    """A small file, whole."""
    fs, path = file_system(url)
    with transfers(url, "writing"):
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(path, data)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder of this process; those that killed processes left on this machine are removed."""
    pattern = re.compile(rf"{_PREFIX}-{host_mark()}-(\d+)-\w+")
    with suppress(OSError):
        for stray in Path(tempfile.gettempdir()).iterdir():
            match = pattern.fullmatch(stray.name)
            if match and int(match[1]) != os.getpid() and not is_alive(int(match[1])):
                shutil.rmtree(stray, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}-{host_mark()}-{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def one_line(error: BaseException) -> str:
    """An exception as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
