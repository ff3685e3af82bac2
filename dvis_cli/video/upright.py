"""From pixels as stored to pixels as shown: sample aspect ratio, rotation and mirroring."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from PIL import Image

from dvis_cli.errors import VideoError
from dvis_cli.video.tone_map import BT2020, DISPLAY_P3, UNSPECIFIED, Colours, to_sdr

# (a, b, c, d): the stored point (x, y), y pointing down, is shown at (a x + c y, b x + d y).
Turn = tuple[int, int, int, int]
UNTURNED: Turn = (1, 0, 0, 1)
QUARTERS: tuple[Turn, ...] = (UNTURNED, (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0))  # clockwise
SAR_LIMIT = 16  # a pixel more oblong than this is a damaged header, not a picture


def turn_of(picture: VideoFrame) -> Turn:
    """How a player turns this frame, from its display matrix; free angles go to the nearest quarter."""
    try:
        matrix: Any = picture.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV lists no side data when one entry is newer than itself; this loses mirroring
        return QUARTERS[round(-picture.rotation / 90) % 4]
    if matrix is None:
        return UNTURNED
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return (0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0)
    return (-1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1)


def is_sideways(turn: Turn) -> bool:
    """Whether width and height change places."""
    return turn[0] == 0


def turned(rgb: np.ndarray, turn: Turn) -> np.ndarray:
    """`rgb` (height, width, 3) as shown; contiguous. The same array when there is nothing to turn."""
    a, b, c, d = turn
    if is_sideways(turn):
        rgb = rgb.swapaxes(0, 1)
        a, d = c, b
    rgb = rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(rgb)


def shown_size(picture: VideoFrame, sar: Fraction | None) -> tuple[int, int]:
    """(height, width) in square pixels, after turning, of a decoded frame whose pixels are `sar` wide."""
    if not sar or not Fraction(1, SAR_LIMIT) <= sar <= SAR_LIMIT:
        sar = Fraction(1)
    height, width = picture.height, max(1, int(picture.width * sar + Fraction(1, 2)))
    return (width, height) if is_sideways(turn_of(picture)) else (height, width)


class Upright:
    """Makes shown frames of one size from decoded ones; keeps the converter's tables between frames."""

    def __init__(self, size: tuple[int, int]) -> None:
        """`size`: (height, width) in pixels of every result."""
        self._size = size
        self._converter = VideoReformatter()
        self._turn, self._turn_of = UNTURNED, (-1, -1, -1)
        self.mapped: set[str] = set()  # kinds of colour that were mapped to SDR

    def __call__(self, picture: VideoFrame) -> np.ndarray:
        """(height, width, 3) uint8 RGB for SDR BT.709, by the frame's own colours.

        Raises VideoError for a pixel format that cannot be converted.
        """
        # A look at a frame's side data keeps the frame until Python collects its cycles: only where something changed.
        if (looks := (picture.rotation, picture.width, picture.height)) != self._turn_of:
            self._turn, self._turn_of = turn_of(picture), looks
        turn = self._turn
        height, width = self._size[::-1] if is_sideways(turn) else self._size
        try:
            rgb = self._rgb(picture)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(f"frames of pixel format {picture.format.name} cannot become RGB") from error
        if rgb.shape[:2] != (height, width):
            # Pillow, because scaling within the conversion darkens by one or two grey levels.
            rgb = np.array(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))
        return turned(rgb, turn)

    def _rgb(self, picture: VideoFrame) -> np.ndarray:
        colours = Colours(picture.color_primaries, picture.color_trc)
        if not colours.need_mapping:
            return self._converter.reformat(picture, format="rgb24").to_ndarray()
        self.mapped.add(str(colours))
        matrix = BT2020 if picture.colorspace == UNSPECIFIED and colours.primaries != DISPLAY_P3 else None
        return to_sdr(
            self._converter.reformat(picture, format="rgb48le", src_colorspace=matrix).to_ndarray(), colours
        )
