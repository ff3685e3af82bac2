"""Names that come out of files: they may name something inside a folder, never a way out of it."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dvis_cli.errors import DatasetError

_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}  # not the joiners and narrow spaces of real names
LONGEST_NAME = 255  # bytes, what file systems take


def safe_name(value: Any, what: str) -> str:
    """`value` if it is a plain file or folder name.

    Args:
        value: anything read from a json or zip.
        what: for the message, e.g. `video_id`.

    Raises:
        DatasetError: no text, empty, too long, a path, `.` or `..`, or with control characters.
    """
    if not isinstance(value, str) or not value:
        raise DatasetError(f"{what} must be a name, not {value!r:.80}")
    if (
        value in (".", "..")
        or any(character in "/\\:" or unicodedata.category(character) in _CONTROLS for character in value)
        or len(value.encode("utf-8", "replace")) > LONGEST_NAME
    ):
        raise DatasetError(
            f"{what} {value!r:.80} is not a plain name: it must not hold / \\ : or lead elsewhere"
        )
    return value


@contextmanager
def error_in(where: str) -> Iterator[None]:
    """Put `where` before the `DatasetError`s of the block."""
    try:
        yield
    except DatasetError as error:
        raise DatasetError(f"{where}: {error}") from error


def stem_of(name: str) -> str:
    """`00000042.jpg` -> `00000042`."""
    return name.rsplit(".", 1)[0] if "." in name[1:] else name


def read_json(path: Path) -> Any:
    """Parse a json file.

    Raises:
        DatasetError: missing, unreadable, or not json.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not json: {error}") from error


def list_of(value: Any, what: str) -> list[Any]:
    """`value` if it is a list; else DatasetError."""
    if not isinstance(value, list):
        raise DatasetError(f"{what} must be a list")
    return value


def value_of(entry: Any, key: str) -> Any:
    """`entry[key]`; DatasetError where there is none."""
    if not isinstance(entry, dict) or key not in entry:
        raise DatasetError(f"an entry has no {key}")
    return entry[key]


def whole(value: Any, what: str, lowest: int, highest: int) -> int:
    """`value` if it is a whole number in `lowest`..`highest`; else DatasetError."""
    if type(value) is not int or not lowest <= value <= highest:
        raise DatasetError(f"{what} must be a whole number {lowest}..{highest}, not {value!r:.40}")
    return value
