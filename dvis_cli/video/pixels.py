"""Pictures of files as upright 8-bit RGB, whatever pixels they store, by Pillow (and OpenCV for 16-bit colour)."""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from dvis_cli.errors import VideoError
from dvis_cli.video.tone_map import Colours, to_sdr
from dvis_cli.video.upright import UNTURNED, Turn, turned

try:
    import pillow_heif
except ImportError:  # the extra is not installed: Pillow reads the other kinds
    pass
else:
    pillow_heif.register_heif_opener()

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs is in the errors that it raises

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
DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # bits that sensors and programs use of a deep pixel
SAMPLES = 5  # pictures of a video that are looked at for its depth


class Picture(NamedTuple):
    """One picture of a file."""

    path: Path
    page: int | None = None  # None is the one that viewers show: the first, or the primary one of HEIF


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture that viewers show of a file, not decoded. Raises VideoError, from here and from within the block."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refuse_huge says it better
            image = Image.open(path)
        with image:
            yield image
    except VideoError:
        raise
    except Image.DecompressionBombError as error:
        raise VideoError(f"{path}: its header claims an absurd size; is it damaged? ({error})") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them meet
        if isinstance(error, OSError) and error.strerror:  # from the system, not from the decoder
            raise VideoError(f"{path} cannot be read: {error.strerror}") from error
        suffix = path.suffix.lower()
        if isinstance(error, UnidentifiedImageError) and suffix not in Image.registered_extensions():
            text = f"{path} is unsupported: there is no reader here for {suffix}; convert it, e.g. to PNG"
            raise VideoError(text) from error
        raise VideoError(
            f"{path} is not an image that can be read; replace or remove it ({error})"
        ) from error


def turn_of(image: Image.Image) -> Turn:
    """How a viewer turns the picture."""
    if image.format == "PNG" and "exif" not in image.info:
        return UNTURNED  # Pillow would decode the whole picture to look behind it
    return TURN_OF_EXIF.get(image.getexif().get(EXIF_ORIENTATION, 1), UNTURNED)


def read_pictures(pictures: Sequence[Picture], notes: list[str]) -> Iterator[np.ndarray]:
    """(height, width, 3) uint8 RGB of each, upright; a file of several pictures is read in one go.

    Transparency is dropped, HDR mapped to SDR. `notes` gets what was guessed or changed.
    """
    bits = 0  # in use of deep pixels
    clipped, mapped = 0, set()
    for path, group in groupby(pictures, lambda picture: picture.path):
        colours = _colours_of(path)
        with opened(path) as image:
            for picture in group:
                if picture.page is not None:
                    image.seek(picture.page)
                turn = turn_of(image)
                pixels = _stored(image, picture)
                used = 8
                if pixels.dtype != np.uint8:
                    bits = used = bits or _bits_of(pictures, notes)
                    clipped += bool(pixels.max(initial=0) >= 2**bits)
                    pixels = pixels.clip(0, 2**bits - 1)
                if colours.need_mapping:
                    mapped.add(str(colours))
                    pixels = to_sdr(_scaled(pixels, used, 16), colours)
                else:
                    pixels = _scaled(pixels, used, 8)
                yield turned(pixels, turn)
    if clipped:
        notes.append(
            f"{clipped} of {len(pictures)} pictures have values above {bits} bits, which were clipped"
        )
    notes.extend(f"colours ({kind}) were mapped to SDR BT.709" for kind in sorted(mapped))


def _stored(image: Image.Image, picture: Picture) -> np.ndarray:
    """(height, width, 3): uint8 RGB, or integers of more bits."""
    if image.mode.startswith("I"):
        return np.repeat(np.asarray(image)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("its pixels are floating point numbers of unknown range")
    if ";16" in str(getattr(image, "tile", ())[:1]):  # colour, of which Pillow keeps the upper 8 bits
        read, pages = cv2.imreadmulti(str(picture.path), picture.page or 0, 1, flags=cv2.IMREAD_UNCHANGED)
        if read and pages[0].dtype == np.uint16 and pages[0].ndim == 3:
            return pages[0][:, :, 2::-1]
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB Pillow warns of transparent palettes
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _bits_of(pictures: Sequence[Picture], notes: list[str]) -> int:
    """Bits that the deep pixels of a video use: its brightest value, in a few pictures, tells."""
    brightest = 0
    for picture in {pictures[i * (len(pictures) - 1) // (SAMPLES - 1)] for i in range(SAMPLES)}:
        with opened(picture.path) as image:
            if picture.page is not None:
                image.seek(picture.page)
            brightest = max(brightest, int(_stored(image, picture).max(initial=0)))
    bits = next((bits for bits in DEPTHS if 0 < brightest < 2**bits), 16)
    if bits != 16:
        notes.append(f"deep pixels are taken to use {bits} bits, for the brightest seen is {brightest}")
    return bits


def _scaled(pixels: np.ndarray, bits: int, target: int) -> np.ndarray:
    """Integers of `bits` bits as uint8 or uint16 (`target` 8 or 16)."""
    if bits == target:
        return pixels.astype(f"uint{target}")
    if bits < target:
        return (pixels.astype(np.float32) * ((2**target - 1) / (2**bits - 1)) + 0.5).astype(f"uint{target}")
    return (pixels >> (bits - target)).astype(f"uint{target}")


def _colours_of(path: Path) -> Colours:
    """What the file says of its colours in H.273's numbers (HEIF, AVIF and PNG can)."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    at = head.find(b"colrnclx") if head[4:8] == b"ftyp" else -1
    if at >= 0:
        return Colours(*struct.unpack_from(">HH", head, at + 8))
    at = head.find(b"cICP") if head.startswith(b"\x89PNG") else -1
    return Colours(*head[at + 4 : at + 6]) if at >= 0 else Colours(1, 1)
