"""Reading PNGs of segment ids that somebody else wrote: id = R + 256 G + 65536 B, 0 = void.

The header is looked at before anything is decoded, so that a small file cannot ask for a lot of memory.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dvis_cli.datasets.names import error_in
from dvis_cli.errors import DatasetError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_BYTES = 33
LARGEST_SIDE = 16384  # pixels
GRAY, RGB, PALETTE, RGBA = 0, 2, 3, 6  # PNG colour types


@dataclass(frozen=True, slots=True)
class PngHeader:
    """The first chunk of a PNG."""

    width: int
    height: int
    bit_depth: int
    color_type: int

    @classmethod
    def parse(cls, data: bytes) -> PngHeader:
        """Read the header from a file's first 33 bytes.

        Raises:
            DatasetError: it is not a PNG.
        """
        if len(data) < HEADER_BYTES or data[:8] != SIGNATURE or data[12:16] != b"IHDR":
            raise DatasetError("not a PNG" if data else "empty file")
        return cls(*struct.unpack(">IIBB", data[16:26]))

    def check(self, width: int, height: int) -> None:
        """Raise DatasetError unless this is a picture of ids of `width` x `height` pixels."""
        if (self.width, self.height) != (width, height):
            raise DatasetError(f"is {self.width}x{self.height} pixels, must be {width}x{height}")
        if self.bit_depth != 8 or self.color_type not in (RGB, RGBA):
            raise DatasetError(
                f"must be an 8-bit RGB PNG (bit depth {self.bit_depth}, color type {self.color_type})"
            )

    def check_map(self, depths: Sequence[int] = (8,)) -> None:
        """Raise DatasetError unless this is a picture of one channel, of one of some bit depths."""
        if self.color_type not in (GRAY, PALETTE) or self.bit_depth not in depths:
            raise DatasetError(
                f"must be a PNG of one channel of 8 bits (bit depth {self.bit_depth}, color type {self.color_type})"
            )
        if not (0 < self.width <= LARGEST_SIDE and 0 < self.height <= LARGEST_SIDE):
            raise DatasetError(f"{self.width}x{self.height} pixels are too many")


def decode_ids(data: bytes, width: int, height: int) -> npt.NDArray[np.uint32]:
    """Ids of a PNG in memory.

    Args:
        data: the whole file.
        width, height: pixels it must have.

    Returns:
        (height, width) uint32, 0 = void.

    Raises:
        DatasetError: no PNG, damaged, another size, or not 8-bit RGB.
    """
    PngHeader.parse(data).check(width, height)
    with _decoded(data) as image:
        packed = image.tobytes("raw", "RGBX" if image.mode == "RGB" else "RGBA")
    ids = np.frombuffer(packed, dtype="<u4").reshape(height, width)
    return np.bitwise_and(ids, 0xFFFFFF, dtype=np.uint32)


def decode_classes(data: bytes) -> npt.NDArray[np.int32]:
    """A map in memory: (height, width) int32. Raises DatasetError: no PNG, damaged, not one channel of 8 or 16 bits."""
    header = PngHeader.parse(data)
    header.check_map((8, 16))
    with _decoded(data) as image:
        return np.array(image).astype(np.int32).reshape(header.height, header.width)


@contextmanager
def _decoded(data: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            yield image
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(f"damaged PNG: {error}") from error


def read_ids(path: Path, width: int, height: int) -> npt.NDArray[np.uint32]:
    """`decode_ids` of a file, with its path in every message."""
    try:
        with path.open("rb") as file, error_in(str(path)):
            head = file.read(HEADER_BYTES)
            PngHeader.parse(head).check(width, height)
            return decode_ids(head + file.read(), width, height)
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
