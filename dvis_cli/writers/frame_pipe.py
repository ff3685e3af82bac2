"""Overlay pictures into a pipe, for players and other programs: MPEG-TS (H.264) or raw YUV4MPEG."""

from __future__ import annotations

import errno
from fractions import Fraction
from typing import IO, Any, Literal

import av
import numpy as np

from dvis_cli.errors import OutputError
from dvis_cli.structures import FinishedFrame, VideoInfo
from dvis_cli.writers.instance_picture import shown_map
from dvis_cli.writers.labels import Anchors
from dvis_cli.writers.overlay import draw_overlay
from dvis_cli.writers.video_encoder import DETERMINISTIC, Encoding, VideoEncoder

PipeFormat = Literal["mpegts", "y4m"]


class FramePipe:
    """Context manager: every frame is drawn, encoded without delay, and written at once.

    Args:
        file: where to; it stays open.
        info: the source.
        kind: `mpegts` has times; `y4m` is raw pictures at the nominal rate.
        may_close: whether the reader may go away without it being an error.
        encoding: on what `mpegts` is encoded.

    Raises:
        OutputError: no encoder, or nobody reads any more.
    """

    def __init__(
        self,
        file: IO[bytes],
        info: VideoInfo,
        kind: PipeFormat,
        may_close: bool = False,
        encoding: Encoding = DETERMINISTIC,
    ) -> None:
        self._file, self._info, self._kind, self._may_close = file, info, kind, may_close
        self._encoding = encoding
        self._anchors: Anchors = {}
        self._raw: Any = None  # the stream of y4m
        self._encoder: VideoEncoder | None = None  # of mpegts
        self._start, self._gone = 0.0, False

    def __enter__(self) -> FramePipe:
        self._output = av.open(
            _Unseekable(self._file), "w", format={"y4m": "yuv4mpegpipe"}.get(self._kind, self._kind)
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if self._encoder is not None and not self._gone:
                self._output.mux(self._encoder.flush())
            self._output.close()
        except (OSError, av.FFmpegError, ValueError) as error:
            if kind is None and not self._may_close:
                raise _broken(error) from error

    def add(self, frame: FinishedFrame) -> None:
        """Draw and write one frame."""
        if self._gone:
            return
        picture = draw_overlay(frame.rgb, *shown_map(frame), "blend", self._anchors)
        try:
            self._write(picture, frame.pts)
        except (OSError, av.FFmpegError, ValueError) as error:
            if not self._may_close:
                raise _broken(error) from error
            self._gone = True

    def _write(self, picture: np.ndarray, pts: float) -> None:
        if self._kind == "y4m":
            self._write_raw(picture)
        else:
            if self._encoder is None:
                self._start, fps = pts, self._info.fps
                # Who comes late sees something soon.
                changes = {"g": str(max(1, round(2 * fps)))}
                size = picture.shape[1], picture.shape[0]
                self._encoder = VideoEncoder(self._output, *size, 1 / fps, changes, self._encoding, live=True)
            self._output.mux(self._encoder.encode(picture, pts - self._start))
        self._file.flush()

    def _write_raw(self, picture: np.ndarray) -> None:
        height, width = (side - side % 2 for side in picture.shape[:2])
        if self._raw is None:
            rate = Fraction(self._info.fps).limit_denominator(1001)
            self._raw = self._output.add_stream("rawvideo", rate=rate)
            self._raw.width, self._raw.height, self._raw.pix_fmt = width, height, "yuv420p"
        shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        self._output.mux(self._raw.encode(shown.reformat(format="yuv420p", dst_colorspace="ITU709")))


def _broken(error: Exception) -> OutputError:
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return OutputError("nobody reads the pipe any more")
    return OutputError(f"the frames cannot be written: {error}")


class _Unseekable:
    """A pipe to PyAV: it can only be written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write = file.write
