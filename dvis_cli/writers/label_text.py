"""The picture of one label: white text on a dark rounded box with a bar in the segment's colour."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_BOX = (16, 18, 24)
_BOX_OPACITY = 0.80
_TEXT = (255, 255, 255)
_SUPERSAMPLE = 4  # the box is drawn this much larger and shrunk: Pillow's round corners are not smooth
_SMALL_TEXT = 15  # pixels: below this, strokes are thinner than a pixel and come out grey ...
_SMALL_TEXT_GAMMA = 0.75  # ... so their coverage is raised


@dataclass(frozen=True, slots=True)
class LabelPatch:
    """A label ready to be laid over a picture: `out = paint + (1 - opacity) * picture`."""

    paint: np.ndarray  # (h, w, 3) float32 0..255, already multiplied by the opacity
    opacity: np.ndarray  # (h, w, 1) float32 0..1

    @property
    def size(self) -> tuple[int, int]:
        """`(width, height)` in pixels."""
        return self.opacity.shape[1], self.opacity.shape[0]


def text_height(width: int, height: int) -> int:
    """Font size in pixels that can be read in a frame of this size, from 180 lines to 4K."""
    return max(10, round(min(width, height) * 0.0215), round(max(width, height) * 0.0125))


# A crowd has hundreds of labels, each in some thousand frames: drawn once, pasted often.
@lru_cache(maxsize=512)
def label_patch(text: str, color: tuple[int, int, int], font_size: int) -> LabelPatch:
    """The label for a text; `color` is the segment's RGB, `font_size` in pixels."""
    pad, bar = max(2, round(font_size * 0.32)), max(2, round(font_size * 0.22))
    ink = _ink(text, font_size, left=bar + pad, right=pad)
    height, width = ink.shape[:2]
    paint = np.empty((height, width, 3), np.float32)
    paint[:], paint[:, :bar] = _BOX, color
    opacity = np.full((height, width, 1), _BOX_OPACITY, np.float32)
    opacity[:, :bar] = 1.0
    paint = paint * (1.0 - ink) + np.array(_TEXT, np.float32) * ink
    opacity = np.maximum(opacity, ink) * _rounded_box(width, height, radius=font_size * 0.28)
    return LabelPatch(paint * opacity, opacity)


def _ink(text: str, font_size: int, left: int, right: int) -> np.ndarray:
    """Coverage (height, width, 1) float32 0..1 of the letters, with `left` and `right` pixels of margin."""
    font = _font(font_size)
    try:
        start, _, end, _ = font.getbbox(text)
    except UnicodeEncodeError:  # the bitmap fallback font knows Latin letters only
        text = text.encode("ascii", "replace").decode("ascii")
        start, _, end, _ = font.getbbox(text)
    # All labels of a size are equally high, whether or not their text has a g in it.
    _, top, _, bottom = font.getbbox("Ag")
    width = left + round(end - start) + 1 + right
    height = round(bottom - top) + 2 * max(2, round(font_size * 0.22))
    letters = Image.new("L", (width, height), 0)
    corner = (left - start, (height - (bottom - top)) // 2 - top)
    ImageDraw.Draw(letters).text(corner, text, fill=255, font=font)
    ink = np.asarray(letters, np.float32)[..., None] / 255.0
    return ink**_SMALL_TEXT_GAMMA if font_size < _SMALL_TEXT else ink


def _rounded_box(width: int, height: int, radius: float) -> np.ndarray:
    """Coverage (height, width, 1) float32 0..1 of a box with round corners."""
    big = Image.new("L", (width * _SUPERSAMPLE, height * _SUPERSAMPLE), 0)
    corner = (width * _SUPERSAMPLE - 1, height * _SUPERSAMPLE - 1)
    ImageDraw.Draw(big).rounded_rectangle((0, 0, *corner), radius=radius * _SUPERSAMPLE, fill=255)
    small = big.resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, np.float32)[..., None] / 255.0


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own scalable font, or its small bitmap one where Pillow was built without FreeType."""
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError):
        return ImageFont.load_default()
