"""What the user named -> videos, each with a place in the output.

A folder is searched, a pattern is matched, a list is read; the folder structure is mirrored in the output.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dvis_cli.errors import UsageError, VideoError
from dvis_cli.video.source import IMAGE_SUFFIXES

from .folders import (
    VIDEO_SUFFIXES,
    Filters,
    FolderScan,
    Found,
    entries_of,
    is_dir,
    is_result_folder,
    looks_like_video,
)
from .places import address_of, base_name, file_system, join, local_path, remote_mark, transfers

LIST_SUFFIX = ".txt"


@dataclass
class Listing:
    """All videos of a run, and what was noticed while looking for them."""

    found: list[Found] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # worth a line to the user
    problems: list[str] = field(default_factory=list)  # folders that could not be searched


def means_batch(sources: Sequence[str | Path], out: str | Path = "") -> bool:
    """Whether these sources are a batch, rather than one plain video (a file or a folder of images).

    One source is a batch when it is a folder that has videos directly in it, or has no images directly in it
    and videos somewhere below; a pattern; a list; or an address, as is any source when the output is one.
    """
    if len(sources) != 1 or local_path(str(out)) is None:
        return True
    path = local_path(str(sources[0]))
    if path is None:
        return True
    if path.is_dir():
        return _is_folder_of_videos(path)
    if path.exists() or path.is_symlink():
        return path.suffix.lower() == LIST_SUFFIX and _is_text(path)
    return glob.has_magic(str(path))


def list_videos(sources: Sequence[str | Path], out: str | Path, filters: Filters | None = None) -> Listing:
    """Find all videos that the sources mean.

    Args:
        sources: files, folders, patterns, lists (.txt), addresses.
        out: the output; it and other results are never taken for sources.
        filters: which names to take in folders.

    Raises:
        UsageError: a pattern that matches nothing, a list that is no text.
        VideoError: a source that does not exist.
    """
    listing = Listing()
    finder = _Finder(listing, filters or Filters(), local_path(str(out)), several=len(sources) > 1)
    for source in sources:
        finder.add(str(source))
    return listing


class _Finder:
    """Adds the videos of one source after the other to a listing."""

    def __init__(self, listing: Listing, filters: Filters, out: Path | None, several: bool) -> None:
        self._listing, self._filters, self._out, self._several = listing, filters, out, several

    def add(self, source: str) -> None:
        path = local_path(source)
        if path is None:
            self._address(source)
        elif path.is_dir():
            self._folder(path, _own_name(path) if self._several else "")
        elif path.suffix.lower() == LIST_SUFFIX and path.is_file() and _is_text(path):
            self._list(path)
        elif path.exists() or path.is_symlink():
            self._take([Found.of_file(str(path), "")])
        elif glob.has_magic(source):
            self._pattern(source)
        else:
            raise VideoError(f"{source}: there is no such file or folder; check the path")

    def _take(self, found: Iterable[Found]) -> None:
        self._listing.found.extend(found)

    def _folder(self, folder: Path, place: str) -> None:
        if not _is_folder_of_videos(folder, self._filters) and _has_images(folder):
            parent = PurePosixPath(place).parent.as_posix() if place else ""
            self._take([Found.of_folder(str(folder), "" if parent == "." else parent)])
            return
        scan = FolderScan(folder, place, self._filters, self._out)
        self._take(scan.walk())
        self._listing.notes.extend(scan.notes)
        self._listing.problems.extend(scan.problems)

    def _pattern(self, pattern: str) -> None:
        base = _fixed_part(pattern)
        matches = sorted(glob.glob(pattern, recursive=True), key=lambda m: (m.count(os.sep), m))  # noqa: PTH207
        seen: set[tuple[str, str]] = set()  # the same file, met again through a loop of links
        for match in matches:
            path = Path(match)
            identity = (os.path.realpath(path.parent), path.name)
            if identity in seen or self._is_output(path):
                continue
            seen.add(identity)
            place = _relative(path.parent, base)
            if path.is_dir():
                if not pattern.rstrip(os.sep).endswith("**"):
                    self._folder(path, _below(place, path.name))
            elif self._filters.takes_file(path.name, _below(place, path.name), looks_like_video(path.name)):
                self._take([Found.of_file(match, place)])
        if not matches:
            raise UsageError(f"{pattern}: no file matches; quote the pattern if the shell changed it")

    def _is_output(self, path: Path) -> bool:
        if self._out is not None:
            out = os.path.realpath(self._out)
            real = os.path.realpath(path)
            if real == out or real.startswith(out + os.sep):
                return True
        return is_result_folder(path.parent)

    def _list(self, path: Path) -> None:
        """One path, address or folder a line, relative to the list's own folder; `#` begins a remark."""
        seen: set[str] = set()
        for line in path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines():
            entry = line.strip()
            if not entry or entry.startswith("#"):
                continue
            local = local_path(entry)
            if local is None:
                self._address(entry, f"{entry.partition('://')[2].rpartition('/')[0]}")
                continue
            where = Path(os.path.normpath(path.parent / local))
            if str(where) in seen:
                self._listing.notes.append(f"{path}: {entry} is listed twice; it is done once")
                continue
            seen.add(str(where))
            place = _relative(where.parent, Path(os.path.normpath(path.parent)))
            if where.is_dir():
                self._folder(where, _below(place, where.name))
            else:
                self._take([Found.of_file(str(where), place)])

    def _address(self, url: str, place: str | None = None) -> None:
        """A file, a folder or a pattern behind an address."""
        fs, path = file_system(url)
        with transfers(url, "listing"):
            if glob.has_magic(path):
                found = fs.glob(path, detail=True)
                base = path[: len(path) - len(path.lstrip("/"))] + _fixed_part(path.lstrip("/")).as_posix()
            elif fs.isdir(path):
                found, base = fs.find(path, detail=True), path.rstrip("/")
            elif fs.exists(path):
                found, base = {path: fs.info(path)}, path.rpartition("/")[0]
            else:
                found, base = {path: {}}, path.rpartition("/")[0]  # its own row, with its own reason
        explicit = len(found) == 1 and path in found
        count = len(self._listing.found)
        results = {name.rpartition("/")[0] for name in found if name.endswith("/segments.json")}
        for name in sorted(found):
            info = found[name]
            inner = name[len(base) :].strip("/")
            takes = self._filters.takes_file(base_name(name), inner, looks_like_video(name))
            if (
                info.get("type") == "directory"
                or name.rpartition("/")[0] in results
                or not (explicit or takes)
            ):
                continue
            parent = place if place is not None and explicit else inner.rpartition("/")[0]
            source = address_of(name, url)
            size = info.get("size")
            self._take([Found.of_file(source, parent, remote_mark(info) if info else None, size)])
        if count == len(self._listing.found):
            self._listing.notes.append(f"{url}: no videos found there")


@dataclass(frozen=True, slots=True)
class Item:
    """One video and its place in the output."""

    source: str
    key: str  # the result's folder, relative to the output
    fingerprint: str | None = None  # known already for addresses
    size: int | None = None  # bytes


def place_videos(found: Sequence[Found], known: dict[str, str] | None = None) -> list[Item]:
    """Give every video its own folder in the output.

    `a/clip.mp4` goes to `a/clip`. Where that would meet another result or lie around one, it is `a/clip.mp4`, and
    with a `~` behind it where even that is taken. Videos that have a place from an earlier run keep it, whatever
    came beside them since.

    Args:
        found: the videos.
        known: the place of each source that had one, by its `identity`.

    Raises:
        UsageError: two sources that cannot be told apart in the output.
    """
    known = known or {}
    settled = {known[one.identity] for one in found if one.identity in known}
    wanted = [known.get(one.identity) or _outside(one.key, settled) for one in found]
    times = Counter(wanted)
    around = {parent for key in wanted for parent in _parents(key)}
    taken: dict[str, str] = {}
    later: list[tuple[int, Found]] = []
    for i, one in enumerate(found):
        key = wanted[i]
        if one.identity not in known and (times[key] > 1 or key in around):
            later.append((i, one))
        else:
            _take(taken, key, one)
    named: dict[str, Found] = {}
    for i, one in sorted(later, key=lambda pair: pair[1].source):
        own = one.full_key
        if own in named and named[own].name == one.name:
            _take({own: named[own].source}, own, one)  # refuse
        named[own] = one
        key = _outside(own, settled)
        while key in taken or key in around:
            key += "~"
        _take(taken, key, one)
        wanted[i] = key
    return [Item(f.source, key, f.fingerprint, f.size) for f, key in zip(found, wanted, strict=True)]


def _take(taken: dict[str, str], key: str, one: Found) -> None:
    if key in taken:
        raise UsageError(
            f"{taken[key]} and {one.source} would both be written to {key}; segment them into two folders"
        )
    taken[key] = one.source


def _outside(key: str, settled: set[str]) -> str:
    """The key, with a `~` behind each folder that is already the result of another video."""
    if not settled:
        return key
    parts = key.split("/")
    for i in range(1, len(parts)):
        while "/".join(parts[:i]) in settled:
            parts[i - 1] += "~"
    return "/".join(parts)


def _parents(key: str) -> Iterator[str]:
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key


def _is_folder_of_videos(folder: Path, filters: Filters | None = None) -> bool:
    """Whether a folder is searched rather than read as images."""
    images = False
    try:
        for entry in entries_of(folder):
            name = entry.name
            if name.startswith(".") or is_dir(entry):
                continue
            if (filters or Filters()).takes_file(name, name, looks_like_video(name)):
                return True
            images = images or Path(name).suffix.lower() in IMAGE_SUFFIXES
    except OSError as error:
        raise VideoError(f"{folder} cannot be listed: {error.strerror}; check its permissions") from error
    return not images and next(FolderScan(folder, "", filters or Filters(), None).walk(), None) is not None


def _has_images(folder: Path) -> bool:
    return any(
        Path(entry.name).suffix.lower() in IMAGE_SUFFIXES
        for entry in entries_of(folder)
        if not entry.name.startswith(".")
    )


def _is_text(path: Path) -> bool:
    """Whether a .txt file is a list: a video of that name, or a broken one, has bytes that text has not."""
    try:
        with path.open("rb") as file:
            return b"\0" not in file.read(4096)
    except OSError:
        return False


def _own_name(path: Path) -> str:
    return Path(os.path.abspath(path)).name  # noqa: PTH100 - resolve() would follow links


def _fixed_part(pattern: str) -> Path:
    """The folder of a pattern before its first wildcard."""
    parts = Path(pattern).parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first]) if first else Path()


def _relative(folder: Path, base: Path) -> str:
    """Where to put something of a folder: relative to the base, or its whole path when it lies outside."""
    inside = os.path.relpath(os.path.abspath(folder), os.path.abspath(base))  # noqa: PTH100
    if inside == ".":
        return ""
    if inside == ".." or inside.startswith(".." + os.sep):
        inside = os.path.abspath(folder).lstrip(os.sep)  # noqa: PTH100
    return Path(inside).as_posix()


def _below(place: str, name: str) -> str:
    return join(place, name) if place else name


__all__ = ["VIDEO_SUFFIXES", "Item", "Listing", "list_videos", "means_batch", "place_videos"]
