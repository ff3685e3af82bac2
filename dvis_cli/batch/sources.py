"""What the user named -> all videos in it, each with a folder of its own in the output.

Folders are searched, patterns matched, lists read, addresses asked.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvis_cli.errors import UsageError, VideoError
from dvis_cli.video.source import IMAGE_SUFFIXES, plain_name
from dvis_cli.writers.folder import OUTPUT_NAMES, safe_name

from .options import BatchOptions
from .output import RECORD, STATE, base_name, file_system, is_url, join, local_path, transfers

_SUFFIXES = (
    "mp4 m4v mov qt mkv webm avi divx gif ts mts m2ts m2t mpg mpeg mpe m1v m2v vob wmv asf flv f4v ogv ogm 3gp 3g2 mxf "
    "dv rm rmvb nut y4m h264 264 h265 265 hevc ivf mjpeg mjpg"
)
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())


@dataclass(frozen=True, slots=True)
class Video:
    """One video, and where its result goes."""

    source: str
    parent: str  # folder in the output in which it is mirrored, relative, "" for the top
    is_folder: bool = False  # of images
    fingerprint: str | None = None  # of the input, by the file system; known at once for addresses
    size: int | None = None  # bytes
    key: str = ""  # the result's folder, relative to the output, once that is settled (`places.py`)

    @property
    def name(self) -> str:
        """Its whole name, as it is."""
        name = base_name(self.source)
        return name if name not in ("", ".", "..") else plain_name(Path(self.source))

    @property
    def short_key(self) -> str:
        """Its result's folder, unless that would meet another one; `full_key` where it does."""
        name = self.name
        return join(self.parent, safe_name(name if self.is_folder else os.path.splitext(name)[0]))  # noqa: PTH122

    @property
    def full_key(self) -> str:
        return join(self.parent, safe_name(self.name))

    @property
    def identity(self) -> str:
        """The address, or the absolute path: what stays when the same video is named in another way."""
        path = local_path(self.source)
        return self.source if path is None else os.path.abspath(path)  # noqa: PTH100 - of links, too


@dataclass
class Listing:
    """All videos of a run, and what was noticed while looking for them."""

    found: list[Video] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # worth a line to the user
    problems: list[str] = field(default_factory=list)  # folders that could not be searched


def means_batch(sources: Sequence[str | Path], out: str | Path = "") -> bool:
    """Whether these sources are a batch, rather than one plain video (a file or a folder of images).

    One source is a batch when it is a folder that has videos directly in it, or has no images directly in it and
    videos somewhere below; a pattern; a list; or an address, as is any source when the output is one.
    """
    path = local_path(str(sources[0])) if sources else None
    if len(sources) != 1 or path is None or local_path(str(out)) is None:
        return True
    if path.is_dir():
        videos, images = _holds(path, BatchOptions())
        below = walk(path, "", BatchOptions(), None, Listing())
        return videos or (not images and next(below, None) is not None)
    if path.exists() or path.is_symlink():
        return _is_list(path)
    return glob.has_magic(str(path))


def list_videos(
    sources: Sequence[str | Path], out: str | Path, options: BatchOptions | None = None
) -> Listing:
    """Find all videos that the sources mean.

    Args:
        sources: files, folders, patterns, lists (.txt), addresses.
        out: the output; it and other results are never taken for sources.
        options: which names to take in folders.

    Raises:
        UsageError: a pattern that matches nothing.
        VideoError: a source that does not exist.
    """
    finder = _Finder(options or BatchOptions(), local_path(str(out)))
    for source in map(str, sources):
        path = local_path(source)
        if path is None:
            finder.address(source)
        elif path.is_dir():
            finder.folder(path, plain_name(path) if len(sources) > 1 else "")
        elif _is_list(path):
            finder.lines(path)
        elif path.exists() or path.is_symlink():
            finder.add(source, "")
        elif glob.has_magic(source):
            finder.pattern(source)
        else:
            raise VideoError(f"{source}: there is no such file or folder; check the path")
    if len(sources) > 1 or finder.listed:
        finder.drop_repeated()
    return finder.listing


class _Finder:
    """Adds the videos of one source after the other to a listing."""

    def __init__(self, options: BatchOptions, out: Path | None) -> None:
        self.listing = Listing()
        self.listed = False  # whether there was a list among the sources
        self._options = options
        self._out = os.path.realpath(out) if out is not None else None

    def add(self, source: str, parent: str, is_folder: bool = False) -> None:
        self.listing.found.append(Video(source, parent, is_folder))

    def folder(self, folder: Path, place: str) -> None:
        """A folder of videos, mirrored at `place`, or of images."""
        videos, images = _holds(folder, self._options)
        if images and not videos:
            self.add(str(folder), place.rpartition("/")[0], is_folder=True)
        else:
            self.listing.found.extend(walk(folder, place, self._options, self._out, self.listing))

    def pattern(self, pattern: str) -> None:
        """Everything that matches, mirrored from the pattern's first wildcard on."""
        matches = sorted(glob.glob(pattern, recursive=True), key=lambda m: (m.count(os.sep), m))  # noqa: PTH207
        if not matches:
            raise UsageError(f"{pattern}: no file matches; quote the pattern if the shell changed it")
        base = _fixed_part(pattern)
        seen: set[tuple[str, str]] = set()  # the same file, met again through a loop of links
        for path in map(Path, matches):
            identity = (os.path.realpath(path.parent), path.name)
            if identity in seen or self._is_result(path):
                continue
            seen.add(identity)
            place = _relative(path.parent, base)
            if path.is_dir():
                if not pattern.rstrip(os.sep).endswith("**"):
                    self.folder(path, join(place, path.name))
            elif takes(self._options, join(place, path.name)):
                self.add(str(path), place)

    def drop_repeated(self) -> None:
        """Do a video that several sources or lines name once, where the first has it."""
        first: dict[str, Video] = {}
        again = [one.source for one in self.listing.found if first.setdefault(one.identity, one) is not one]
        if again:
            more = f" and {len(again) - 1} more are" if again[1:] else " is"
            self.listing.notes.append(f"{again[0]}{more} named twice; done once")
            self.listing.found = list(first.values())

    def _is_result(self, path: Path) -> bool:
        real = os.path.realpath(path)
        inside = self._out is not None and (real == self._out or real.startswith(self._out + os.sep))
        return inside or _is_result_folder(path.parent)

    def lines(self, path: Path) -> None:
        """A list: one path, address or folder a line, relative to its own folder; `#` begins a remark."""
        self.listed, base = True, Path(os.path.normpath(path.parent))
        for line in path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines():
            entry = line.strip()
            local = local_path(entry)
            if not entry or entry.startswith("#"):
                continue
            if local is None:
                self.address(entry, entry.partition("://")[2].rpartition("/")[0])
                continue
            where = Path(os.path.normpath(path.parent / local))
            place = _relative(where.parent, base)
            if where.is_dir():
                self.folder(where, join(place, where.name))
            else:
                self.add(str(where), place)

    def address(self, url: str, place: str | None = None) -> None:
        """A file, a folder or a pattern behind an address; `place`: where a file of a list is mirrored."""
        fs, path = file_system(url)
        base, alone = path.rpartition("/")[0], False
        with transfers(url, "listing"):
            if glob.has_magic(path):
                found = fs.glob(path, detail=True)
                base = path[: len(path) - len(path.lstrip("/"))] + _fixed_part(path.lstrip("/")).as_posix()
            elif fs.isdir(path):
                found, base = fs.find(path, detail=True), path.rstrip("/")
            else:  # what is not there is listed, too, and will fail with its reason
                found, alone = {path: fs.info(path) if fs.exists(path) else {}}, True
        results = {name.rpartition("/")[0] for name in found if base_name(name) in (RECORD, "segments.json")}
        count = len(self.listing.found)
        for name, info in sorted(found.items()):
            inner = name[len(base) :].strip("/")
            if info.get("type") == "directory" or name.rpartition("/")[0] in results:
                continue
            if alone or takes(self._options, inner):
                parent = place if place is not None and alone else inner.rpartition("/")[0]
                address = name if is_url(name) else f"{url.partition('://')[0]}://{name}"
                video = Video(address, parent, False, _remote_mark(info), info.get("size"))
                self.listing.found.append(video)
        if count == len(self.listing.found):
            self.listing.notes.append(f"{url}: no videos found there")


def _remote_mark(info: dict[str, Any]) -> str | None:
    """What a store tells of a file that changes when the file does: its size, and a hash or time."""
    names = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
    mark = next((str(info[name]) for name in names if info.get(name)), "")
    return f"{info.get('size')}:{mark}" if info else None


def walk(root: Path, place: str, options: BatchOptions, out: str | None, listing: Listing) -> Iterator[Video]:
    """All videos in and below a folder, by name.

    Real folders come before linked ones and each is searched once, so that links in circles end and a link to a
    neighbour does not take its videos away from it.

    Args:
        out: real path of the output, which is left out.
        listing: takes notes of what was left out, and problems.
    """

    def cannot(error: OSError) -> None:
        listing.problems.append(f"{error.filename} cannot be searched: {error.strerror}")

    top, seen = str(root), set[str]()
    links = deque([top])
    while links:
        for path, folders, files in os.walk(links.popleft(), onerror=cannot):
            real = os.path.realpath(path)
            if real in seen or real == out or (path != top and (STATE in folders or _is_result_folder(path))):
                if real == out and path == top:
                    listing.problems.append(
                        f"{path} is the output, which is not searched; choose another with -o"
                    )
                folders.clear()
                continue
            seen.add(real)
            inner = path[len(top) :].strip(os.sep)
            folders[:] = sorted(name for name in folders if not _leaves_out(options, join(inner, name)))
            links.extend(one for one in (os.path.join(path, name) for name in folders) if os.path.islink(one))  # noqa: PTH114, PTH118
            kept = sorted(name for name in files if not _leaves_out(options, join(inner, name)))
            videos = [name for name in kept if takes(options, join(inner, name))]
            images = sum(map(_is_image, set(kept) - set(videos)))
            yield from (Video(os.path.join(path, name), join(place, inner)) for name in videos)  # noqa: PTH118
            if images and videos:
                text = f"{path}: {images} images beside videos are left out; give them their own folder"
                listing.notes.append(text)
            elif images and inner and takes(options, inner, images=True):
                yield Video(path, join(place, inner.rpartition("/")[0]), is_folder=True)


def _holds(folder: Path, options: BatchOptions) -> tuple[bool, bool]:
    """Whether there are videos directly in a folder, and images."""

    def fail(error: OSError) -> None:
        raise VideoError(f"{folder} cannot be listed: {error.strerror}; check its permissions") from error

    names = [name for name in next(os.walk(folder, onerror=fail))[2] if not name.startswith(".")]
    return any(takes(options, name) for name in names), any(map(_is_image, names))


def _is_result_folder(folder: str | Path) -> bool:
    """Whether a folder is a result of this program: its overlay must not be segmented again."""
    if Path(folder, RECORD).is_file():
        return True
    others = OUTPUT_NAMES - {"segments.json"}
    return Path(folder, "segments.json").is_file() and any(Path(folder, name).exists() for name in others)


def _is_list(path: Path) -> bool:
    """A video that is named .txt, or a broken one, has bytes that text has not."""
    try:
        if path.suffix.lower() != ".txt" or not path.is_file():
            return False
        with path.open("rb") as file:
            return b"\0" not in file.read(4096)
    except OSError:
        return False


def _is_image(name: str) -> bool:
    return _suffix(name) in IMAGE_SUFFIXES


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - many names, and addresses


def takes(options: BatchOptions, relative: str, images: bool = False) -> bool:
    """Whether a file is wanted as a video, or a folder as one of images."""
    if _leaves_out(options, relative):
        return False
    if options.include:
        return _matches(relative, options.include)
    return images or _suffix(relative) in VIDEO_SUFFIXES


def _leaves_out(options: BatchOptions, relative: str) -> bool:
    return base_name(relative).startswith(".") or _matches(relative, options.exclude)


def _matches(relative: str, patterns: tuple[str, ...]) -> bool:
    """Patterns (`*.mp4`, `day?/*`) against a name or the path relative to the folder that is searched."""
    names = (base_name(relative), relative)
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _fixed_part(pattern: str) -> Path:
    """The folder of a pattern before its first wildcard."""
    parts = Path(pattern).parts
    return Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])


def _relative(folder: Path, base: Path) -> str:
    """Where to put something of a folder: relative to the base, or its whole path when it lies outside."""
    inside = os.path.relpath(os.path.abspath(folder), os.path.abspath(base))  # noqa: PTH100 - not of links
    if Path(inside).parts[:1] == ("..",):
        inside = os.path.abspath(folder).lstrip(os.sep)  # noqa: PTH100
    return "" if inside == "." else Path(inside).as_posix()
