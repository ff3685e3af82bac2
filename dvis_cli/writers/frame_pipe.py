"""Overlay pictures into a pipe, for players and other programs: MPEG-TS (H.264) or raw YUV4MPEG."""

from __future__ import annotations

from fractions import Fraction
from typing import IO, Any, Literal, cast

import av
import numpy as np

from dvis_cli.errors import OutputError
from dvis_cli.structures import FinishedFrame, VideoInfo
from dvis_cli.writers.instance_picture import shown_map
from dvis_cli.writers.labels import Anchors
from dvis_cli.writers.overlay import draw_overlay

PipeFormat = Literal["mpegts", "y4m"]
_TICK = Fraction(1, 90_000)


class FramePipe:
    """Context manager: every frame is drawn, encoded without delay, and written at once.

    Args:
        file: where to; it stays open.
        info: the source.
        kind: `mpegts` has times; `y4m` is raw pictures at the nominal rate.
        may_close: whether the reader may go away without it being an error.

    Raises:
        OutputError: no encoder, or nobody reads any more.
    """

    def __init__(self, file: IO[bytes], info: VideoInfo, kind: PipeFormat, may_close: bool = False) -> None:
        self._file, self._info, self._kind, self._may_close = file, info, kind, may_close
        self._anchors: Anchors = {}
        self._stream: Any = None
        self._last, self._start, self._gone = -1, 0.0, False

    def __enter__(self) -> FramePipe:
        self._output = av.open(
            _Unseekable(self._file), "w", format={"y4m": "yuv4mpegpipe"}.get(self._kind, self._kind)
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if self._stream is not None and not self._gone:
                self._output.mux(self._stream.encode(None))
            self._output.close()
        except (OSError, av.FFmpegError, ValueError):
            if kind is None and not self._may_close:
                raise OutputError("nobody reads the pipe any more") from None

    def add(self, frame: FinishedFrame) -> None:
        """Draw and write one frame."""
        if self._gone:
            return
        picture = draw_overlay(frame.rgb, *shown_map(frame), "blend", self._anchors)
        try:
            self._write(picture, frame.pts)
        except (OSError, av.FFmpegError, ValueError) as error:
            if not self._may_close:
                raise OutputError(f"nobody reads the pipe any more ({error})") from error
            self._gone = True

    def _write(self, picture: np.ndarray, pts: float) -> None:
        height, width = (side - side % 2 for side in picture.shape[:2])
        if self._stream is None:
            self._open(width, height)
            self._start = pts
        shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        shown = shown.reformat(format="yuv420p", dst_colorspace="ITU709")
        ticks = self._last + 1 if self._kind == "y4m" else round((pts - self._start) / _TICK)
        self._last = max(self._last + 1, ticks)
        shown.pts, shown.time_base = self._last, self._stream.codec_context.time_base
        self._output.mux(self._stream.encode(shown))
        self._file.flush()

    def _open(self, width: int, height: int) -> None:
        rate = Fraction(self._info.fps).limit_denominator(1001)
        if self._kind == "y4m":
            stream = self._output.add_stream("rawvideo", rate=rate)
        else:
            options = {"preset": "veryfast", "tune": "zerolatency", "crf": "20"}
            names = [name for name in ("libx264", "libopenh264", "mpeg2video") if name in av.codecs_available]
            stream = self._output.add_stream(
                names[0], rate=rate, options=options if names[0] == "libx264" else {}
            )
        stream = cast(Any, stream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = 1 / rate if self._kind == "y4m" else _TICK
        # Who comes late sees something soon.
        stream.codec_context.gop_size = max(1, round(2 * self._info.fps))
        self._stream = stream


class _Unseekable:
    """A pipe to PyAV: it can only be written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write = file.write
