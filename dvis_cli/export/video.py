"""What editors take: masks in black and white, mattes with alpha, cut-outs on another background."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from PIL import ImageColor

from dvis_cli.demux import address
from dvis_cli.errors import OutputError, UsageError
from dvis_cli.files import output_errors
from dvis_cli.structures import FinishedFrame, VideoInfo
from dvis_cli.writers.overlay_video import OverlayVideo
from dvis_cli.writers.panoptic_png import write_png
from dvis_cli.writers.video_encoder import encoding_errors

from .edges import alpha_of
from .job import Job, Writer
from .seen import union_of

BLUR = 24  # the background's blur is the short side divided by this, in pixels
SMALLER = 4  # the blur is made at this part of the size
INSTEAD = "take PNGs: masks:png, matte:png"


class _Codec(NamedTuple):
    container: str
    encoder: str
    pixels: str
    ticks: int  # a second
    options: dict[str, str]


_WITH_ALPHA = {
    "mov": _Codec("mov", "prores_ks", "yuva444p10le", 90_000,
                  {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"}),
    "webm": _Codec("webm", "libvpx-vp9", "yuva420p", 1000,
                   {"crf": "18", "b": "0", "auto-alt-ref": "0", "lag-in-frames": "0", "deadline": "good",
                    "cpu-used": "4"}),
}  # fmt: skip


class PngFolder:
    """`000000.png` ...: where pictures go, one after the other, as into an `OverlayVideo`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        with output_errors(folder):
            folder.mkdir(parents=True)

    def encode(self, picture: np.ndarray, pts: float) -> None:
        """Take a picture, (height, width) uint8 or 3 or 4 channels of RGB and alpha; `pts` in seconds."""
        if picture.ndim == 3:
            code = cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR
            picture = cv2.cvtColor(picture, code)
        write_png(self._folder / f"{self._count:06d}.png", picture)
        self._count += 1

    def close(self) -> None:
        """Every file is complete."""

    def abort(self) -> None:
        """None is open."""


class AlphaVideo:
    """ProRes 4444 (`mov`) or VP9 (`webm`), straight alpha; a picture is shown at its time, the first at 0.

    Used as an `OverlayVideo`; pictures are (height, width, 4) uint8.
    """

    def __init__(self, path: Path, info: VideoInfo, kind: str) -> None:
        self._path, self._info, self._codec = path, info, _WITH_ALPHA[kind]
        if self._codec.encoder not in av.codecs_available:
            raise OutputError(f"FFmpeg here has no {self._codec.encoder} to write {kind}; take matte:png")
        self._stream: Any = None
        self._start, self._last, self._tick = 0.0, -1, Fraction(1, self._codec.ticks)
        with encoding_errors(path, INSTEAD):
            self._output = av.open(address(path), "w", format=self._codec.container)

    def encode(self, picture: np.ndarray, pts: float) -> None:
        with encoding_errors(self._path, INSTEAD):
            if self._stream is None:
                self._begin(picture.shape[1], picture.shape[0])
                self._start = pts
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgba")
            frame = frame.reformat(format=self._codec.pixels, dst_colorspace="ITU709")
            self._last = max(self._last + 1, round((pts - self._start) / self._tick))
            frame.pts, frame.time_base = self._last, self._tick
            self._mux(frame)

    def close(self) -> None:
        with encoding_errors(self._path, INSTEAD):
            if self._stream is not None:
                self._mux(None)
            self._output.close()

    def abort(self) -> None:
        with suppress(Exception):
            self._output.close()

    def _begin(self, width: int, height: int) -> None:
        codec, rate = self._codec, Fraction(self._info.fps).limit_denominator(1001)
        self._stream = self._output.add_stream(codec.encoder, rate=rate, options=dict(codec.options))
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, codec.pixels
        self._stream.time_base = self._stream.codec_context.time_base = self._tick
        self._stream.codec_context.colorspace = 1  # BT.709
        self._frame_ticks = max(1, round(1 / (self._info.fps * self._tick)))

    def _mux(self, frame: av.VideoFrame | None) -> None:
        """Encode a frame, or what is left."""
        for packet in self._stream.encode(frame):
            packet.duration = self._frame_ticks
            self._output.mux(packet)


class _Drawn(Writer):
    """A writer of one picture for each frame."""

    needs_pictures = True
    out: OverlayVideo | PngFolder | AlphaVideo

    @abstractmethod
    def picture(self, frame: FinishedFrame) -> np.ndarray:
        """What to show of a frame."""

    def add(self, frame: FinishedFrame) -> None:
        self.out.encode(self.picture(frame), frame.pts)

    def close(self) -> None:
        self.out.close()

    def abort(self) -> None:
        self.out.abort()


class Masks(_Drawn):
    """White where something chosen is, black elsewhere."""

    needs_pictures = False

    def __init__(self, path: Path, job: Job) -> None:
        super().__init__(path, job)
        self.out = PngFolder(path) if job.variant == "png" else OverlayVideo(path, job.info, instead=INSTEAD)

    def picture(self, frame: FinishedFrame) -> np.ndarray:
        mask = union_of(frame, self.job.chosen).astype(np.uint8) * 255
        return mask if self.job.variant == "png" else cv2.cvtColor(mask, cv2.COLOR_GRAY2RGB)


class Matte(_Drawn):
    """The frame with alpha; black where nothing of it is seen, so that what was cut away is not in the file."""

    def __init__(self, path: Path, job: Job) -> None:
        super().__init__(path, job)
        self.out = PngFolder(path) if job.variant == "png" else AlphaVideo(path, job.info, job.variant)

    def picture(self, frame: FinishedFrame) -> np.ndarray:
        alpha = alpha_of(frame, self.job.chosen)
        return np.dstack((np.where(alpha[..., None] > 0, frame.rgb, 0).astype(np.uint8), alpha))


class Cutout(Matte):
    """What was chosen before another background."""

    _color: np.ndarray | None

    def __init__(self, path: Path, job: Job) -> None:
        Writer.__init__(self, path, job)
        self.out, self._color = OverlayVideo(path, job.info, instead=INSTEAD), None
        if job.variant == "transparent":
            self.out = AlphaVideo(path, job.info, "webm")
        elif job.variant != "blur":
            self._color = np.array(color_of(job.variant), np.float32)

    def picture(self, frame: FinishedFrame) -> np.ndarray:
        if self.job.variant == "transparent":
            return super().picture(frame)
        alpha = alpha_of(frame, self.job.chosen)[..., None] / np.float32(255)
        behind = blurred(frame.rgb, alpha) if self._color is None else self._color
        return np.rint(frame.rgb * alpha + behind * (1 - alpha)).astype(np.uint8)


def blurred(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(height, width, 3) float32: what is behind, out of focus; nothing of what is in front runs into it."""
    height, width = rgb.shape[:2]
    small = (max(1, width // SMALLER), max(1, height // SMALLER))
    weight = cv2.resize(np.maximum(1 - alpha[..., 0], 1e-3), small, interpolation=cv2.INTER_AREA)
    color = cv2.resize(rgb * np.maximum(1 - alpha, 1e-3), small, interpolation=cv2.INTER_AREA)
    sigma = max(1.0, min(height, width) / BLUR / SMALLER)
    mean = cv2.GaussianBlur(color, (0, 0), sigma) / cv2.GaussianBlur(weight, (0, 0), sigma)[..., None]
    return np.clip(cv2.resize(mean, (width, height), interpolation=cv2.INTER_LINEAR), 0, 255)


def color_of(text: str) -> tuple[int, int, int]:
    """RGB of `white`, `#00b140`, ...; raises UsageError."""
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        raise UsageError(
            f"cutout:{text}: expected blur, transparent, or a colour such as white or #00b140"
        ) from None
