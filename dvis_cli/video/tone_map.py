"""HDR and wide colours to what the networks and the overlay mean by RGB: BT.709 primaries, sRGB curve.

Light is in units of SDR white, the 203 nit of ITU-R BT.2408. Up to KNEE it stays as it is; above, a curve brings
PEAK to 1, channel by channel, so that highlights fade to white instead of changing their hue at a hard edge.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

PQ, HLG = 16, 18  # transfer characteristics, numbered as in ITU-T H.273
UNSPECIFIED, BT2020, DISPLAY_P3 = 2, 9, 12  # colour primaries
WHITE = 203.0  # nit
PEAK = 1000 / WHITE  # brighter light is white: the peak for which most HDR is made
KNEE = 0.7
BITS = 12  # of the tables: as fine as the finest video
# Linear RGB of these primaries to linear BT.709, all with white D65 (ITU-R BT.2087; SMPTE EG 432-1).
TO_BT709 = {
    BT2020: [
        [1.660491, -0.587641, -0.072850],
        [-0.124550, 1.132900, -0.008349],
        [-0.018151, -0.100579, 1.118730],
    ],
    DISPLAY_P3: [[1.224940, -0.224940, 0], [-0.042057, 1.042057, 0], [-0.019638, -0.078636, 1.098274]],
}


class Colours(NamedTuple):
    """How a picture codes colour, as H.273 numbers."""

    primaries: int
    transfer: int

    @property
    def need_mapping(self) -> bool:
        """Whether taking the picture for SDR BT.709 would be wrong."""
        return self.transfer in (PQ, HLG) or self.primaries in TO_BT709

    def __str__(self) -> str:
        gamut = {BT2020: "BT.2020", DISPLAY_P3: "P3"}.get(self.primaries, "")
        return " ".join(filter(None, ({PQ: "HDR PQ", HLG: "HDR HLG"}.get(self.transfer, ""), gamut)))


def to_sdr(rgb: np.ndarray, colours: Colours) -> np.ndarray:
    """(height, width, 3) uint8 for BT.709 and sRGB of (height, width, 3) uint16 in full range, coded as `colours`."""
    light = _light_of_code(colours.transfer)[rgb >> (16 - BITS)]
    if colours.transfer == HLG:  # the OOTF of BT.2100, for a display of 1000 nit: gamma 1.2
        luminance = cv2.transform(light, np.array([[0.2627, 0.6780, 0.0593]], np.float32))
        light *= (PEAK * luminance**0.2)[..., None]
    default = BT2020 if colours.transfer in (PQ, HLG) else None
    matrix = TO_BT709.get(default if default and colours.primaries == UNSPECIFIED else colours.primaries)
    if matrix is not None:
        light = cv2.transform(light, np.array(matrix, np.float32))
    # The table is read at the square root: dark colours need the finest steps.
    peak = PEAK if colours.transfer in (PQ, HLG) else 1.0
    np.clip(light, 0, peak, out=light)
    np.sqrt(light, out=light)
    light *= (2 ** (BITS + 2) - 1) / peak**0.5
    return _code_of_root(peak)[(light + 0.5).astype(np.uint16)]


@lru_cache(4)
def _light_of_code(transfer: int) -> np.ndarray:
    """Linear light (2 ** BITS,) float32 of every code value; of HLG, the scene's, 0..1."""
    code = np.linspace(0, 1, 2**BITS)
    if transfer == PQ:  # SMPTE ST 2084
        root = code ** (1 / 78.84375)
        nit = 10000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (
            1 / 0.1593017578125
        )
        return (nit / WHITE).astype(np.float32)
    if transfer == HLG:  # ARIB STD-B67
        bright = (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
        return np.where(code <= 0.5, code**2 / 3, bright).astype(np.float32)
    # SDR: the same curve there and back, so that greys stay; BT.1886's 2.4 is also near to sRGB's.
    return _srgb_light(code).astype(np.float32)


@lru_cache(4)
def _code_of_root(peak: float) -> np.ndarray:
    """uint8 code of light whose square root is 0..sqrt(peak), evenly spaced."""
    light = np.linspace(0, peak**0.5, 2 ** (BITS + 2)) ** 2
    if peak > 1:
        over = np.maximum(light - KNEE, 0) / (1 - KNEE)
        highest = (peak - KNEE) / (1 - KNEE)
        light = np.minimum(light, KNEE) + (1 - KNEE) * over * (1 + over / highest**2) / (1 + over)
    code = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (255 * code + 0.5).clip(0, 255).astype(np.uint8)


def _srgb_light(code: np.ndarray) -> np.ndarray:
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
