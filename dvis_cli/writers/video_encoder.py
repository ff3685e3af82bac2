"""Pictures to compressed video packets, with whatever good encoder this machine has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
import cv2
import numpy as np

from dvis_cli.errors import OutputError
from dvis_cli.files import output_errors

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

_BT709 = 1  # FFmpeg's number for the colour space, primaries and transfer of HD video


@dataclass(frozen=True, slots=True)
class Encoding:
    """On what videos are encoded."""

    threads: int = 1  # of the CPU; another number, other bytes
    gpu: int | None = None  # the CUDA device whose NVENC is taken, if it opens


DETERMINISTIC = Encoding()  # the same bytes on every machine


@dataclass(frozen=True, slots=True)
class _Encoder:
    name: str
    options: dict[str, str]
    clock: int = 90_000  # ticks a second: fine enough for every frame rate in use
    rate_control: bool = False  # knows no constant quality: needs a bit rate
    live: dict[str, str] = field(default_factory=dict)  # options: no frame waits for a later one


# Best first. B-frames are off ("bf"): with them the mp4 muxer counts the length of a video whose frames are
# unevenly spaced in decoding order, and players cut its end. So is x264's "mbtree": the same pictures came out as
# other bytes about once in a hundred short videos (docs/batch.md).
_ENCODERS: tuple[_Encoder, ...] = (
    _Encoder(
        "libx264",
        {"preset": "veryfast", "crf": "20", "bf": "0", "mbtree": "0"},
        live={"tune": "zerolatency"},
    ),
    _Encoder("libopenh264", {}, rate_control=True),
    _Encoder("h264_videotoolbox", {"bf": "0", "allow_sw": "1"}, rate_control=True),
    _Encoder("h264_mf", {}, rate_control=True),
    # 118: FF_QP2LAMBDA.
    _Encoder("mpeg4", {"flags": "+qscale", "global_quality": str(118 * 3)}, clock=30_000),
)
_NVENC = _Encoder(
    "h264_nvenc",
    {"preset": "p4", "rc": "vbr", "cq": "20", "bf": "0"},
    live={"delay": "0", "zerolatency": "1"},
)
_BITS_PER_PIXEL = 0.15  # for encoders with rate control: generous, drawn edges are expensive


class VideoEncoder:
    """The video stream of an mp4, or of a transport stream.

    Args:
        output: the file; its header is not written yet.
        width, height: pixels of the pictures; odd ones are padded to even.
        frame_seconds: how long a frame is shown, on average; the last one is shown this long.
        changes: options of the encoder that differ from ours.
        encoding: on what it runs.
        live: every picture's packet comes at once.

    Raises:
        OutputError: no encoder takes this size; from all methods: NVENC failed.
    """

    def __init__(
        self,
        output: OutputContainer,
        width: int,
        height: int,
        frame_seconds: float,
        changes: Mapping[str, str] | None = None,
        encoding: Encoding = DETERMINISTIC,
        live: bool = False,
    ) -> None:
        self._size = (width + width % 2, height + height % 2)
        rate = Fraction(1 / frame_seconds).limit_denominator(1001)
        rate = min(max(rate, Fraction(1, 1000)), Fraction(1000))
        self._encoder = _choose(*self._size, rate, encoding)
        self._clock = Fraction(1, self._encoder.clock)
        options = {**self._encoder.options, **(self._encoder.live if live else {}), **(changes or {})}
        stream = output.add_stream(self._encoder.name, rate=rate, options=options)
        self._stream = cast("VideoStream", stream)
        context = self._stream.codec_context
        _configure(context, self._encoder, *self._size, rate, encoding.threads)
        context.thread_type = "SLICE" if live else "FRAME"
        self._stream.time_base = self._clock
        with self._gpu_errors():
            context.open()
        self._frame_ticks = max(1, round(frame_seconds / self._clock))
        self._last = -1  # ticks of the latest frame

    @property
    def name(self) -> str:
        """FFmpeg's name of the encoder."""
        return self._encoder.name

    @property
    def plays_in_browsers(self) -> bool:
        """Whether browsers know what is written: they know H.264, not MPEG-4."""
        return self._encoder.name != "mpeg4"

    @property
    def end(self) -> float:
        """Seconds at which the latest frame stops being shown."""
        return float((self._last + self._frame_ticks) * self._clock) if self._last >= 0 else 0.0

    def encode(self, picture: np.ndarray, seconds: float) -> list[Packet[Any]]:
        """Packets that are ready after one more picture.

        Args:
            picture: (height, width, 3) uint8 RGB.
            seconds: when it is shown; the first at 0. Times that do not grow are moved by one tick.
        """
        frame = av.VideoFrame.from_ndarray(self._fit(picture), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", interpolation="BILINEAR")
        self._last = max(self._last + 1, round(seconds / self._clock))
        frame.pts, frame.time_base = self._last, self._clock
        return self._packets(frame)

    def flush(self) -> list[Packet[Any]]:
        """The packets still under way."""
        return self._packets(None)

    def _packets(self, frame: av.VideoFrame | None) -> list[Packet[Any]]:
        with self._gpu_errors():
            packets = self._stream.encode(frame)
        for packet in packets:
            # Mp4 uses the last one's; the others end where the next begins.
            packet.duration = self._frame_ticks
        return packets

    @contextmanager
    def _gpu_errors(self) -> Iterator[None]:
        """NVENC may have no session left, or lose its GPU: say how to go without."""
        try:
            yield
        except av.FFmpegError as error:
            if self._encoder.name != _NVENC.name:
                raise
            raise OutputError(
                f"the GPU's video encoder (NVENC) failed: {error.strerror or type(error).__name__}; "
                "--deterministic encodes on the CPU"
            ) from error

    def _fit(self, picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        right, below = self._size[0] - width, self._size[1] - height
        if not 0 <= right <= 1 or not 0 <= below <= 1:  # a source whose size changes midway
            return cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        if right or below:  # repeating the edge keeps a coloured fringe out of the picture
            return cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_REPLICATE)
        return np.ascontiguousarray(picture)


def _choose(width: int, height: int, rate: Fraction, encoding: Encoding) -> _Encoder:
    """The best encoder that really opens: FFmpeg may list ones for which the machine has no hardware."""
    encoders = _ENCODERS
    if encoding.gpu is not None:
        encoders = (replace(_NVENC, options={**_NVENC.options, "gpu": str(encoding.gpu)}), *encoders)
    for encoder in encoders:
        try:
            context = cast("VideoCodecContext", av.CodecContext.create(encoder.name, "w"))
            context.options = dict(encoder.options)
            _configure(context, encoder, width, height, rate, encoding.threads)
            context.open()
        except (av.FFmpegError, ValueError):
            continue
        return encoder
    raise OutputError(
        f"no video encoder on this machine can write an overlay of {width}x{height} pixels "
        f"(tried {', '.join(encoder.name for encoder in encoders)}); turn the overlay off"
    )


def _configure(
    context: VideoCodecContext, encoder: _Encoder, width: int, height: int, rate: Fraction, threads: int
) -> None:
    context.width, context.height = width, height
    context.pix_fmt = "yuv420p"
    context.time_base = Fraction(1, encoder.clock)
    context.framerate = rate
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = 1  # 16..235
    context.thread_count = threads  # by default a slice for each core: other bytes on other machines
    if encoder.rate_control:
        context.bit_rate = max(200_000, round(width * height * float(rate) * _BITS_PER_PIXEL))


@contextmanager
def encoding_errors(path: Path, instead: str) -> Iterator[None]:
    """Turn what FFmpeg and the operating system raise into an `OutputError`; `instead` is what to do."""
    with output_errors(path):
        try:
            yield
        except av.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise OutputError(
                f"cannot encode {path}: {error.strerror or type(error).__name__}; {instead}"
            ) from error
