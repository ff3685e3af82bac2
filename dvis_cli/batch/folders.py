"""Searching a folder for videos, whatever lies in it: links in circles, results, images, forbidden rooms."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dvis_cli.video.source import IMAGE_SUFFIXES, plain_name
from dvis_cli.writers.folder import OUTPUT_NAMES, safe_name

from .manifest import STEM
from .places import base_name, is_url

_SUFFIXES = (
    ".mp4 .m4v .mov .qt .mkv .webm .avi .divx .gif .ts .mts .m2ts .m2t .mpg .mpeg .mpe .m1v .m2v .vob .wmv .asf "
    ".flv .f4v .ogv .ogm .3gp .3g2 .mxf .dv .rm .rmvb .nut .y4m .h264 .264 .h265 .265 .hevc .ivf .mjpeg .mjpg"
)
VIDEO_SUFFIXES = frozenset(_SUFFIXES.split())


def looks_like_video(name: str) -> bool:
    """By its ending; what is in it shows when it is opened."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES  # noqa: PTH122 - many names, and addresses


@dataclass(frozen=True)
class Filters:
    """Patterns (`*.mp4`, `day?/*`) against a name or the path relative to the folder that is searched."""

    include: tuple[str, ...] = ()  # empty: everything that looks like a video
    exclude: tuple[str, ...] = ()  # names of folders leave out all that is in them

    def takes_file(self, name: str, relative: str, video: bool) -> bool:
        """Whether a file is wanted; hidden ones never are."""
        if name.startswith(".") or self.leaves_out(name, relative):
            return False
        return _matches(name, relative, self.include) if self.include else video

    def takes_images(self, name: str, relative: str) -> bool:
        """Whether a folder of images is wanted."""
        return not self.include or _matches(name, relative, self.include)

    def leaves_out(self, name: str, relative: str) -> bool:
        return _matches(name, relative, self.exclude)


def _matches(name: str, relative: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, p) or fnmatch.fnmatchcase(relative, p) for p in patterns)


@dataclass(frozen=True, slots=True)
class Found:
    """One video, and where its folder is mirrored."""

    source: str
    place: str  # folder in the output, relative, "" for the top
    stem: str  # its result's name
    name: str  # its whole name, as it is
    fingerprint: str | None = None
    size: int | None = None  # bytes

    @classmethod
    def of_file(
        cls, source: str, place: str, fingerprint: str | None = None, size: int | None = None
    ) -> Found:
        name = source.rpartition("/")[2]
        if name in ("", ".", ".."):
            name = base_name(source) if is_url(source) else plain_name(Path(source))
        return cls(source, place, safe_name(Path(name).stem), name, fingerprint, size)

    @classmethod
    def of_folder(cls, source: str, place: str) -> Found:
        name = plain_name(Path(source))
        return cls(source, place, safe_name(name), name)

    @property
    def key(self) -> str:
        return f"{self.place}/{self.stem}" if self.place else self.stem

    @property
    def full_key(self) -> str:
        """Where it goes when `key` is not its own."""
        name = safe_name(self.name)
        return f"{self.place}/{name}" if self.place else name

    @property
    def identity(self) -> str:
        """What stays the same when the same video is named in another way."""
        return identity_of(self.source)


def identity_of(source: str) -> str:
    """The address, or the absolute path."""
    return source if is_url(source) else os.path.abspath(source)  # noqa: PTH100 - links are not followed


def is_result_folder(folder: Path) -> bool:
    """Whether a folder is a result of this program: its overlay must not be segmented again."""
    return (folder / "segments.json").is_file() and any(
        (folder / name).exists() for name in OUTPUT_NAMES - {"segments.json"}
    )


class FolderScan:
    """All videos in and below a folder, in the order of their names.

    Real folders come before linked ones and each is searched once, so that links in circles end and a link
    to a neighbour does not take its videos away from it.

    Attributes, complete after the walk:
        notes: what was left out and might be missed.
        problems: folders that could not be read.
    """

    def __init__(self, root: Path, place: str, filters: Filters, out: Path | None) -> None:
        self._root, self._place, self._filters = root, place, filters
        self._out = os.path.realpath(out) if out is not None else None
        self._seen: set[tuple[int, int]] = set()
        self._links: list[tuple[Path, str]] = []
        self.notes: list[str] = []
        self.problems: list[str] = []

    def walk(self) -> Iterator[Found]:
        """Find them; may be called once."""
        yield from self._below(self._root, "")
        while self._links:
            path, relative = self._links.pop(0)
            yield from self._below(path, relative)

    def _below(self, folder: Path, relative: str) -> Iterator[Found]:
        stack = [(folder, relative)]
        while stack:
            path, inner = stack.pop()
            if not self._enter(path):
                continue
            try:
                entries = entries_of(path)
            except OSError as error:
                self.problems.append(f"{path} cannot be searched: {error.strerror}")
                continue
            folders, found = self._look_at(path, inner, entries)
            yield from found
            stack.extend(reversed(folders))

    def _enter(self, path: Path) -> bool:
        try:
            facts = path.stat()
        except OSError as error:
            self.problems.append(f"{path} cannot be searched: {error.strerror}")
            return False
        identity = (facts.st_dev, facts.st_ino)
        if identity in self._seen or (self._out is not None and os.path.realpath(path) == self._out):
            return False
        self._seen.add(identity)
        return True

    def _look_at(
        self, path: Path, inner: str, entries: list[os.DirEntry[str]]
    ) -> tuple[list[tuple[Path, str]], list[Found]]:
        """(folders to search, videos) of one folder."""
        names = {entry.name for entry in entries}
        ours = f"{STEM}.jsonl" in names or "segments.json" in names
        if path != self._root and ours and (f"{STEM}.jsonl" in names or is_result_folder(path)):
            return [], []  # results of another run
        folders: list[tuple[Path, str]] = []
        found: list[Found] = []
        images = 0
        for entry in entries:
            relative = f"{inner}/{entry.name}" if inner else entry.name
            if entry.name.startswith(".") or self._filters.leaves_out(entry.name, relative):
                continue
            if is_dir(entry):
                (self._links if entry.is_symlink() else folders).append((Path(entry.path), relative))
            elif self._filters.takes_file(entry.name, relative, looks_like_video(entry.name)):
                found.append(Found.of_file(entry.path, self._mirrored(inner)))
            else:
                images += os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122
        if images and found:
            self.notes.append(
                f"{path}: {images} images beside videos are left out; give them their own folder"
            )
        elif images and inner and self._filters.takes_images(path.name, inner):
            found.append(Found.of_folder(str(path), self._mirrored(inner.rpartition("/")[0])))
        return folders, found

    def _mirrored(self, inner: str) -> str:
        return "/".join(part for part in (self._place, inner) if part)


def entries_of(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
