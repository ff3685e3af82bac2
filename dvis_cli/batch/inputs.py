"""Whether an input is still the one that was done: by the file system first, by its bytes when in doubt."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from .folders import entries_of
from .places import is_url
from .sources import Item

_CHUNK = 2**20


def look_at(item: Item) -> Item:
    """The item with its fingerprint and size, as far as the file system tells them."""
    if item.fingerprint is not None or is_url(item.source):
        return item
    try:
        facts = os.stat(item.source)  # noqa: PTH116 - a hundred thousand of them
        if stat.S_ISDIR(facts.st_mode):
            mark, size = _folder_mark(item.source)
        else:
            mark, size = f"{facts.st_size}:{facts.st_mtime_ns}", facts.st_size
    except (OSError, ValueError):
        return item  # work on it will say why
    return Item(item.source, item.key, mark, size)


def content_of(source: str) -> str | None:
    """Hash of a file's bytes; None for what is no readable file."""
    digest = hashlib.blake2b(digest_size=16)
    path = Path(source)
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except (OSError, ValueError):
        return None
    return digest.hexdigest()


def has_changed(item: Item, fingerprint: str | None, content: str | None) -> bool:
    """Whether an input differs from what was recorded.

    A file that was only copied or touched has another time and the same bytes; it has not changed.
    """
    if item.fingerprint is None or item.fingerprint == fingerprint:
        return item.fingerprint != fingerprint
    same_size = (fingerprint or "").partition(":")[0] == item.fingerprint.partition(":")[0]
    return not (
        same_size and content is not None and not is_url(item.source) and content_of(item.source) == content
    )


def _folder_mark(folder: str) -> tuple[str, int]:
    """Of a folder of images: how many files, their bytes, the latest time."""
    count = size = latest = 0
    for entry in entries_of(folder):
        if entry.is_file():
            facts = entry.stat()
            count, size, latest = count + 1, size + facts.st_size, max(latest, facts.st_mtime_ns)
    return f"{count}/{size}:{latest}", size
