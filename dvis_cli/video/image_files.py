"""Image files as video: a folder of numbered pictures, or a file of one or several."""

from __future__ import annotations

import re
import struct
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from dvis_cli.errors import DvisWarning, VideoError
from dvis_cli.structures import Frame, VideoInfo
from dvis_cli.video.pixels import Picture, opened, read_pictures, turn_of
from dvis_cli.video.source import IMAGE_SUFFIXES, NEEDS_HEIF, Selection, plain_name, refuse_huge
from dvis_cli.video.upright import is_sideways


def images_of_folder(folder: Path, selection: Selection, fps: float) -> ImageFiles:
    """The images of a folder in natural order (frame2 before frame10), hidden files left out.

    Raises VideoError when there are none or two of them have the same stem.
    """
    try:
        found = [p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file()]
    except OSError as error:
        raise VideoError(f"{folder} cannot be listed: {error.strerror}; check its permissions") from error
    images = sorted(filter(_is_image, found), key=natural_key)
    rest = Counter(p.suffix.lower() or "without suffix" for p in set(found).difference(images))
    others = ", ".join(f"{count} {suffix}" for suffix, count in sorted(rest.most_common(5)))
    others += ", ..." if len(rest) > 5 else ""
    if rest.keys() & {".heic", ".heif", ".hif"}:
        others += f"; HEIC {NEEDS_HEIF}"
    if not images:
        kinds = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        raise VideoError(
            f"{folder} has no images ({len(found)} other files{others and ': '}{others}); images end in {kinds}. "
            "Videos are found by their endings, or named one by one"
        )
    stem, times = Counter(p.stem for p in images).most_common(1)[0]
    if times > 1:
        twins = ", ".join(p.name for p in images if p.stem == stem)
        raise VideoError(f"{folder}: {twins} would be the same frame; keep one file a frame")
    source = ImageFiles(folder, plain_name(folder), images, selection, fps)
    if rest:
        source.notes.append(
            f"{rest.total()} of {len(found)} files cannot be read as images and are left out: {others}"
        )
    return source


def picture_file(path: Path, selection: Selection, fps: float) -> ImageFiles | None:
    """The pictures of a file as a video: all that have the size of the one that viewers show.

    `fps` is the rate of pictures without times. None where FFmpeg is the one to read the file: GIF, animated PNG,
    HEIF with a track (an AVIF sequence), and HEIF where Pillow has no reader for it.
    """
    if selection.video_track or _is_film(path):
        return None
    with opened(path) as image:
        every = getattr(image, "n_frames", 1)
        pages = _pages_of_first_size(image, every)
    seconds = _webp_durations(path) if len(pages) > 1 else []
    times = [0.0, *np.cumsum(seconds).tolist()] if len(seconds) == len(pages) else None
    name = Path(plain_name(path)).stem
    source = ImageFiles(path, name, [Picture(path, page) for page in pages], selection, fps, times)
    if len(pages) < every:
        source.notes.append(f"{every - len(pages)} of {every} pictures have another size and are left out")
    return source


def natural_key(path: Path) -> tuple[list[tuple[str, int]], str]:
    """Sort key under which runs of digits count as numbers; equal numbers fall back to the spelling."""
    parts = re.split(r"([0-9]+)", path.name.casefold())
    return [("", int(p)) if p.isdigit() and p.isascii() else (p, 0) for p in parts], path.name


class ImageFiles:
    """Images of one size as a `VideoSource`: picture i is shown at i / fps seconds, or at its own time."""

    prefetch, class_memory = True, 0.0

    def __init__(
        self,
        path: Path,
        name: str,
        images: Sequence[Path | Picture],
        selection: Selection,
        fps: float,
        times: Sequence[float] | None = None,
    ) -> None:
        """Reads the headers of the selected images.

        Args:
            images: files, each a frame that carries its stem as name, or pictures of one file.
            times: seconds at which each is shown, and the end; None is regular by `fps`.

        Raises VideoError when one cannot be read or their sizes differ, UsageError when none is selected.
        """
        if times is None:
            times = [i / fps for i in range(len(images) + 1)]
        else:
            fps = round(len(images) / (times[-1] - times[0]), 6)
        timed = zip(times, images, strict=False)
        chosen = list(selection.pick((seconds, (seconds, image)) for seconds, image in timed))
        if not chosen:
            raise selection.nothing_in(path, times[-1])
        self._times = [seconds for seconds, _ in chosen]
        self._pictures = [Picture(image) if isinstance(image, Path) else image for _, image in chosen]
        named = len(images) == 1 or isinstance(images[0], Path)
        self._names = [picture.path.stem if named else None for picture in self._pictures]
        self.notes: list[str] = []  # what was left out or guessed
        self._size = self._common_size(path)
        self.info = VideoInfo(
            name=name,
            path=str(path),
            width=self._size[1],
            height=self._size[0],
            fps=fps / selection.stride,
            frames=len(chosen),
            duration=len(chosen) * selection.stride / fps,
            has_audio=False,
            start=self._times[0],
        )

    def __iter__(self) -> Iterator[Frame]:
        """Raises VideoError at an image that is damaged."""
        notes = list(self.notes)
        for index, rgb in enumerate(read_pictures(self._pictures, notes)):
            if rgb.shape[:2] != self._size:
                raise VideoError(f"{self._pictures[index].path} changed while the folder was read; run again")
            yield Frame(index=index, pts=self._times[index], rgb=rgb, name=self._names[index])
        if notes:
            warnings.warn(f"{self.info.path}: {'; '.join(notes)}", DvisWarning, stacklevel=2)

    def _common_size(self, folder: Path) -> tuple[int, int]:
        """(height, width) as shown. The files are only opened, not decoded."""
        paths = list(dict.fromkeys(picture.path for picture in self._pictures))
        first, several = _header(paths[0])
        stacks = int(several)
        for path in paths[1:]:
            size, several = _header(path)
            stacks += several
            if size != first:
                raise VideoError(
                    f"{folder} mixes sizes: {paths[0].name} is {first[1]} x {first[0]} pixels and {path.name} is"
                    f" {size[1]} x {size[0]}; a video has one size, put them in two folders"
                )
        if stacks and folder != paths[0]:
            self.notes.append(f"{stacks} files hold several pictures, of which only the first is a frame")
        return first


def _header(path: Path) -> tuple[tuple[int, int], bool]:
    """((height, width) as shown, whether there are several pictures)."""
    with opened(path) as image:
        width, height = image.size
        refuse_huge(path, width, height)
        turned = is_sideways(turn_of(image))
        return (width, height) if turned else (height, width), getattr(image, "n_frames", 1) > 1


def _pages_of_first_size(image: Image.Image, count: int) -> list[int]:
    if image.format not in ("TIFF", "MPO", "HEIF"):
        return list(range(count))
    shown, pages = image.size, []
    for page in range(count):
        image.seek(page)
        if image.size == shown:
            pages.append(page)
    return pages


def _webp_durations(path: Path) -> list[float]:
    """Seconds that each picture of an animated WebP is shown; Pillow tells only after decoding them all."""
    seconds = []
    with path.open("rb") as file:
        if file.read(12)[8:] != b"WEBP":
            return []
        while len(head := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", head)
            if name == b"ANMF":
                frame = file.read(16)
                seconds.append(int.from_bytes(frame[12:15], "little") / 1000 or 0.1)  # 0: as browsers show it
                size -= len(frame)
            file.seek(size + size % 2, 1)
    return seconds


def _is_film(path: Path) -> bool:
    """Whether FFmpeg reads all of a file of which Pillow reads less."""
    with path.open("rb") as file:
        is_heif = file.read(8)[4:] == b"ftyp"
    if is_heif and _has_track(path):
        return True
    try:
        with opened(path) as image:
            return image.format == "GIF" or (image.format == "PNG" and getattr(image, "n_frames", 1) > 1)
    except VideoError as error:
        return is_heif and isinstance(error.__cause__, UnidentifiedImageError)


def _has_track(path: Path) -> bool:
    """Whether a file of ISO boxes has a `moov`: a film rather than pictures."""
    length = path.stat().st_size
    with path.open("rb") as file:
        while len(head := file.read(16)) >= 8:
            size, name = struct.unpack_from(">I4s", head)
            if name == b"moov":
                return True
            if size == 1 and len(head) == 16:
                (size,) = struct.unpack_from(">Q", head, 8)
            if not 8 <= size < length:  # 0: to the end of the file
                return False
            file.seek(size - len(head), 1)
    return False


def _is_image(path: Path) -> bool:
    """By its suffix; kinds that Pillow may lack a reader for, by opening it."""
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES or suffix in Image.registered_extensions():
        return suffix in IMAGE_SUFFIXES
    with suppress(VideoError), opened(path):
        return True
    return False
