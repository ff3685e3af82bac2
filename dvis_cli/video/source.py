"""What the user named, and which part of it: the entry of the whole program."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from dvis_cli.demux import PIXEL_LIMIT
from dvis_cli.errors import UsageError, VideoError
from dvis_cli.structures import Frame, VideoInfo

_SUFFIXES = (
    ".jpg .jpeg .jpe .jfif .mpo .png .bmp .dib .webp .tif .tiff .ppm .pgm .pbm .pnm .tga .jp2 .j2k .jpf .jpx .qoi"
    " .sgi .avif .heic .heif .hif .jxl"
)
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
# Of cameras.
RAW_SUFFIXES = frozenset((".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".pef", ".raf"))
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif")  # of pictures
NEEDS_HEIF = "needs a reader of HEIF: pip install 'dvis[heif]'"
TIME_TOLERANCE = 1e-6  # seconds: times nearer than this are equal, so that 0.1 s means the frame at 1/10 s

T = TypeVar("T")


@dataclass(frozen=True)
class Selection:
    """Which frames of a video are wanted: every `stride`-th of [start, end), at most `max_frames`.

    Raises UsageError when a value makes no sense.
    """

    start: float | None = None  # seconds from the beginning of the video, >= 0
    end: float | None = None  # seconds from the beginning, exclusive, > start
    stride: int = 1  # keep every stride-th frame of [start, end), >= 1
    max_frames: int | None = None  # counted after stride, >= 1
    video_track: int | None = None  # of the file's video tracks, from 0; None is FFmpeg's choice

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            seconds = getattr(self, name)
            if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
                raise UsageError(f"{name} must be a time in seconds, 0 or more, not {seconds}")
        if self.end is not None and self.end <= (self.start or 0.0):
            raise UsageError(f"end ({self.end:g} s) must be later than start ({self.start or 0:g} s)")
        if self.stride < 1:
            raise UsageError(f"stride must be 1 (every frame) or more, not {self.stride}")
        if self.max_frames is not None and self.max_frames < 1:
            raise UsageError(f"max_frames must be 1 or more, not {self.max_frames}")
        if self.video_track is not None and self.video_track < 0:
            raise UsageError(f"video_track must be 0 (the first) or more, not {self.video_track}")

    def pick(self, timed: Iterable[tuple[float, T]]) -> Iterator[T]:
        """The wanted ones of (seconds from the beginning, item) pairs in ascending time.

        Reads no further than the last item it yields needs.
        """
        start, end = self.start or 0.0, math.inf if self.end is None else self.end
        inside = kept = 0
        for seconds, item in timed:
            if seconds < start - TIME_TOLERANCE:
                continue
            if seconds >= end - TIME_TOLERANCE:
                return
            if inside % self.stride == 0:
                yield item
                kept += 1
                if kept == self.max_frames:
                    return
            inside += 1

    def nothing_in(self, path: Path, length: float) -> UsageError:
        """The error for a selection that holds no frame of a video of `length` seconds."""
        if (self.start or 0.0) >= length - TIME_TOLERANCE:
            what = f"start ({self.start or 0:g} s) is past the end"
        else:
            end = "the end" if self.end is None else f"{self.end:g} s"
            what = f"there is no frame from {self.start or 0:g} s to {end}"
        return UsageError(f"{path}: {what}; the video is {length:.3f} s long, choose a time inside it")


class VideoSource(Protocol):
    """Frames of a file or of a folder. Iterating starts at the first selected frame, every time."""

    prefetch: bool  # frames may be decoded ahead of the network
    class_memory: float  # 0..1: how much the classes of a horizon count in the next one

    @property
    def info(self) -> VideoInfo:
        """What is known without reading the frames."""
        ...

    def __iter__(self) -> Iterator[Frame]:
        """Decode while iterating; only a few frames are in memory.

        Raises VideoError when frames cannot be read at all; warns with DvisWarning, once and at the
        end, of all that was left out, guessed or changed: damage, HDR, interlacing, other tracks, ...
        """
        ...


def open_video(
    path: str | Path, selection: Selection | None = None, *, folder_fps: float = 25.0
) -> VideoSource:
    """Open a video file, a folder of images (naturally sorted), or a file of one or more pictures.

    `folder_fps` is the frame rate that pictures without times are taken to have, in frames a second.
    The first selected frame is decoded here, so a source that opens has at least one frame.
    Raises VideoError for a source that is missing or cannot be read, UsageError for a selection that
    holds no frame.
    """
    selection = selection or Selection()
    if not (math.isfinite(folder_fps) and folder_fps > 0):
        raise UsageError(f"the frame rate of a folder must be more than 0, not {folder_fps}")
    where = Path(path)
    mode = _mode_of(where, str(path))
    if stat.S_ISDIR(mode):
        if selection.video_track is not None:
            raise UsageError(f"{path} is a folder of images, which have no video tracks")
        from dvis_cli.video.image_files import images_of_folder

        return images_of_folder(where, selection, folder_fps)
    if not stat.S_ISREG(mode):
        raise VideoError(f"{path} is a device or a pipe; copy the video into a file first")
    _must_be_readable(where)
    if where.suffix.lower() in RAW_SUFFIXES:
        raise VideoError(f"{path} is unsupported: a camera's raw data; develop it into PNG or TIFF first")
    if where.suffix.lower() in IMAGE_SUFFIXES or _starts_as_picture(where):
        from dvis_cli.video.image_files import picture_file

        source = picture_file(where, selection, folder_fps)
        if source is not None:
            return source
    from dvis_cli.video.video_file import VideoFile

    return VideoFile(where, selection)


def plain_name(path: Path) -> str:
    """The last part of a path, also for `.` and `..`; links are not followed."""
    return Path(os.path.abspath(path)).name or "video"  # noqa: PTH100 - resolve() would follow links


def _starts_as_picture(path: Path) -> bool:
    """Whether a file of any suffix is of a kind of which FFmpeg would read one picture or one tile only."""
    with path.open("rb") as file:
        head = file.read(12)
    several = head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")) or head[8:] == b"WEBP"
    return several or (head[4:8] == b"ftyp" and head[8:] in HEIF_BRANDS)


def refuse_huge(path: Path, width: int, height: int) -> None:
    """Raises VideoError when a header claims a frame above PIXEL_LIMIT."""
    if width * height > PIXEL_LIMIT:
        raise VideoError(
            f"{path}: its header claims frames of {width} x {height} pixels, more than the limit of"
            f" {PIXEL_LIMIT // 10**6} megapixels; scale it down, or copy it again if that size is wrong"
        )


def _mode_of(path: Path, shown: str) -> int:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        hint = "addresses are not opened, download it first" if "://" in shown else "check the path"
        raise VideoError(f"{shown}: there is no such file or folder; {hint}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"{shown!r} cannot be opened: {reason}") from error


def _must_be_readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    if not first:
        raise VideoError(f"{path} is empty (0 bytes); copy or record it again")
