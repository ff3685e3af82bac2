"""Image files as video: a folder of numbered pictures, or a single one."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dvis_cli.errors import VideoError
from dvis_cli.structures import Frame, VideoInfo
from dvis_cli.video.source import IMAGE_SUFFIXES, Selection, plain_name, refuse_huge
from dvis_cli.video.upright import UNTURNED, Turn, is_sideways, turned

EXIF_ORIENTATION = 0x0112
TURN_OF_EXIF: dict[int, Turn] = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


def images_of_folder(folder: Path, selection: Selection, fps: float) -> ImageFiles:
    """The images of a folder in natural order (frame2 before frame10), hidden and other files left out.

    Raises VideoError when there are none or two of them have the same stem.
    """
    try:
        found = [p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file()]
    except OSError as error:
        raise VideoError(f"{folder} cannot be listed: {error.strerror}; check its permissions") from error
    images = sorted((p for p in found if p.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
    if not images:
        kinds = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        raise VideoError(
            f"{folder} has no images ({len(found)} other files); images end in {kinds}. "
            "Video files are named one by one, not by their folder"
        )
    stem, times = Counter(p.stem for p in images).most_common(1)[0]
    if times > 1:
        twins = ", ".join(p.name for p in images if p.stem == stem)
        raise VideoError(f"{folder}: {twins} would be the same frame; keep one file a frame")
    return ImageFiles(folder, plain_name(folder), images, selection, fps)


def single_image(path: Path, selection: Selection, fps: float) -> ImageFiles:
    """One image as a video of one frame. Only the first picture of an animation or of pages is used."""
    return ImageFiles(path, Path(plain_name(path)).stem, [path], selection, fps)


def natural_key(path: Path) -> tuple[list[tuple[str, int]], str]:
    """Sort key under which runs of digits count as numbers; equal numbers fall back to the spelling."""
    parts = re.split(r"([0-9]+)", path.name.casefold())
    return [("", int(p)) if p.isdigit() and p.isascii() else (p, 0) for p in parts], path.name


class ImageFiles:
    """Images of one size as a `VideoSource`: picture i is shown at i / fps seconds."""

    def __init__(self, path: Path, name: str, images: list[Path], selection: Selection, fps: float) -> None:
        """Reads the headers of the selected images.

        Raises VideoError when one cannot be read or their sizes differ, UsageError when none is selected.
        """
        timed = [(i / fps, (i / fps, image)) for i, image in enumerate(images)]
        self._images = list(selection.pick(timed))
        if not self._images:
            raise selection.nothing_in(path, len(images) / fps)
        self._size = _common_size(path, [image for _, image in self._images])
        self.info = VideoInfo(
            name=name,
            path=str(path),
            width=self._size[1],
            height=self._size[0],
            fps=fps / selection.stride,
            frames=len(self._images),
            duration=len(self._images) * selection.stride / fps,
            has_audio=False,
            start=self._images[0][0],
        )

    def __iter__(self) -> Iterator[Frame]:
        """Frames that carry their file's stem as name. Raises VideoError at an image that is damaged."""
        for index, (seconds, path) in enumerate(self._images):
            rgb = _read(path)
            if rgb.shape[:2] != self._size:
                raise VideoError(f"{path} changed while the folder was read; run again")
            yield Frame(index=index, pts=seconds, rgb=rgb, name=path.stem)


def _common_size(folder: Path, images: list[Path]) -> tuple[int, int]:
    """(height, width) as shown. The files are only opened, not decoded."""
    first = _header_size(images[0])
    for image in images[1:]:
        size = _header_size(image)
        if size != first:
            raise VideoError(
                f"{folder} mixes sizes: {images[0].name} is {first[1]} x {first[0]} pixels and"
                f" {image.name} is {size[1]} x {size[0]}; a video has one size, put them in two folders"
            )
    return first


def _header_size(path: Path) -> tuple[int, int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refuse_huge says it better
            image = Image.open(path)
        with image:
            width, height = image.size
            turn = _turn_of(image)
    except Image.DecompressionBombError as error:
        raise VideoError(f"{path}: its header claims an absurd size; is it damaged? ({error})") from error
    except Exception as error:
        raise _unreadable(path, error) from error
    refuse_huge(path, width, height)
    return (width, height) if is_sideways(turn) else (height, width)


def _read(path: Path) -> np.ndarray:
    """(height, width, 3) uint8 RGB, upright."""
    try:
        with Image.open(path) as image:
            turn = _turn_of(image)
            return turned(_eight_bit_rgb(image), turn)
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them meet
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> VideoError:
    if isinstance(error, OSError) and error.strerror:  # from the system, not from the decoder
        return VideoError(f"{path} cannot be read: {error.strerror}")
    return VideoError(f"{path} is not an image that can be read; replace or remove it ({error})")


def _turn_of(image: Image.Image) -> Turn:
    if image.format == "PNG" and "exif" not in image.info:
        return UNTURNED  # Pillow would decode the whole picture to look behind it
    return TURN_OF_EXIF.get(image.getexif().get(EXIF_ORIENTATION, 1), UNTURNED)


def _eight_bit_rgb(image: Image.Image) -> np.ndarray:
    """Any pixel type as (height, width, 3) uint8. Transparency is dropped; 16 bits keep the upper 8."""
    if image.mode.startswith("I"):
        grey = (np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("its pixels are floating point numbers of unknown range")
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB Pillow warns of transparent palettes
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
