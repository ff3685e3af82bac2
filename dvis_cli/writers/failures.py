"""What the operating system and FFmpeg say when a file cannot be written, as one clear `OutputError`."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvis_cli.errors import OutputError

# OSError covers what Python's own files raise and, by inheritance, FFmpeg's errno-based errors.
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into an `OutputError` that names `path` and what to do."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {_explain(error)}") from error


def _explain(error: OSError) -> str:
    if error.errno in _FULL:
        return (
            f"{'disk quota used up' if error.errno == errno.EDQUOT else 'no space left on the disk'}; "
            "free some space or choose another output folder, nothing of this video was kept"
        )
    if error.errno in _FORBIDDEN:
        return "no permission; choose an output folder that you may write to"
    if error.errno == errno.ENAMETOOLONG:
        return "the name is too long for this file system; choose a shorter output folder"
    return error.strerror or str(error)
