"""Cameras, streams and pipes: frames that do not wait for whoever reads them.

A thread decodes; the frames that wait for the network are one (`realtime`: a newer one takes its place) or a few (all
are kept, and the sender waits where it can). A stream that breaks off is opened again; its times go on by the clock on
the wall.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
from av.container import InputContainer

from dvis_cli.demux import PIXEL_LIMIT, mute
from dvis_cli.errors import DvisWarning, VideoError
from dvis_cli.structures import Frame, VideoInfo
from dvis_cli.video.container import DEFAULT_FPS, NOT_VIDEO, nominal_rate
from dvis_cli.video.names import PIPE
from dvis_cli.video.source import refuse_huge
from dvis_cli.video.upright import Upright, shown_size

QUEUED = 8  # frames that wait where none may be dropped
SILENCE = 5.0  # seconds without a packet after which a stream counts as broken
RETRY = (0.25, 4.0)  # seconds between attempts to open it again: at first, at most
_OPTIONS = {
    "rtsp": {"rtsp_flags": "prefer_tcp"},
    "udp": {"fifo_size": "50000", "overrun_nonfatal": "1"},
}
_PROTOCOLS = dict.fromkeys(("rtsp", "rtsps", "rtp"), "rtsp,rtsps,rtp,udp,tcp,tls,crypto,srtp")
_CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}:none"),
    "win32": ("dshow", "video={}"),
}


@dataclass
class LiveCounts:
    """What happened while a source ran."""

    received: int = 0  # frames decoded
    dropped: int = 0  # of them, those that nobody took in time
    reconnected: int = 0
    faults: int = 0  # packets that could not be decoded


class LiveSource:
    """A `VideoSource` that can be iterated once, until the stream ends, `stop` is called, or enough frames came.

    Args:
        name: a camera's number, an address, or `-`, standard input.
        realtime: keep only the newest frame waiting; None: for all but pipes.
        every: take each N-th frame.
        max_frames: end after so many; None: never.
        patience: seconds to wait for a stream that broke off, 0 or more.

    Raises:
        VideoError: it cannot be opened, or has no picture.
    """

    prefetch = False  # it has a thread of its own; what waits in another one would be delay
    class_memory = 0.9  # a frame that is decided alone has the classes of about ten frames

    def __init__(
        self,
        name: str,
        realtime: bool | None = None,
        every: int = 1,
        max_frames: int | None = None,
        patience: float = 30.0,
    ) -> None:
        self.name, self.every, self.max_frames, self.patience = name, every, max_frames, patience
        self.realtime = name != PIPE if realtime is None else realtime
        self.counts = LiveCounts()
        # Frame index -> time.monotonic() when it was decoded; `delay` forgets it.
        self.arrived: dict[int, float] = {}
        self._waiting: deque[tuple[float, float, Any]] = deque()  # arrival, pts, picture
        self._changed = threading.Condition()
        self._stopped = self._ended = self._enough = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._receive, name="dvis-live", daemon=True)
        self._info: VideoInfo | None = None
        self._started = 0.0  # time.monotonic()
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._info is not None or self._ended)
        if self._info is None:
            raise self._failure or VideoError(f"{name}: no frame came")

    @property
    def info(self) -> VideoInfo:
        """Size and nominal rate; how many frames there will be nobody knows."""
        assert self._info is not None
        return self._info

    def stop(self) -> None:
        """End after the frame at hand. May be called from a signal handler."""
        self._stopped = True

    def __iter__(self) -> Iterator[Frame]:
        upright, index = Upright((self.info.height, self.info.width)), 0
        while (entry := self._take()) is not None:
            arrived, pts, picture = entry
            self.arrived[index] = arrived
            yield Frame(index, pts, upright(picture))
            index += 1
            if index == self.max_frames:
                break
        self._enough = self._stopped or index == self.max_frames
        self._stopped = True
        self._warn()

    def delay(self, index: int) -> float:
        """Seconds since a frame was decoded; it is forgotten then."""
        return time.monotonic() - self.arrived.pop(index, time.monotonic())

    def _take(self) -> tuple[float, float, Any] | None:
        with self._changed:
            while not self._waiting:
                if self._ended or self._stopped:
                    return None
                self._changed.wait(0.1)  # in pieces: a signal's handler only sets `_stopped`
            entry = self._waiting.popleft()
            self._changed.notify_all()
            return None if self._stopped else entry

    def _receive(self) -> None:
        """In the thread: frames of one connection after the other."""
        self._started, wait = time.monotonic(), RETRY[0]
        heard = self._started
        try:
            while not self._stopped:
                before = self.counts.received
                try:
                    with closing(self._open()) as container:
                        self._connection(container, time.monotonic() - self._started)
                except (av.FFmpegError, OSError, ValueError) as error:
                    if self._info is None:
                        raise VideoError(_why(self.name, error)) from error
                if self.name == PIPE or self._stopped:
                    break
                now = time.monotonic()
                if self.counts.received > before:
                    heard, wait = now, RETRY[0]
                if now - heard >= self.patience:
                    self._failure = VideoError(f"no frame came for {self.patience:g} s")
                    break
                time.sleep(wait)
                wait = min(2 * wait, RETRY[1])
        except Exception as error:  # told by whoever reads the frames
            self._failure = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _open(self) -> InputContainer:
        options = {"max_pixels": str(PIXEL_LIMIT), "analyzeduration": "2000000"}
        scheme = urlsplit(self.name).scheme.lower()
        source: Any = self.name
        kind: str | None = None
        timeout: Any = (2 * SILENCE, SILENCE)  # to open, to read
        if self.name == PIPE:
            # Unbuffered: what has come is read at once, not when 32 KB are there.
            source, timeout = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer), None
        elif self.name.isdigit():
            kind, device = _CAMERAS.get(sys.platform, _CAMERAS["linux"])
            source = device.format(self.name)
        elif own := _OPTIONS.get(scheme.removesuffix("s")):
            options |= own | {"timeout": str(int(SILENCE * 1e6))}
        # A stream may name other files and addresses; those of its own kind are all it gets.
        allowed = _PROTOCOLS.get(scheme, scheme or "pipe,file")
        mute()
        container = av.open(
            source,
            "r",
            format=kind,
            options=options,
            container_options={"protocol_whitelist": allowed},
            timeout=timeout,
            metadata_errors="replace",
        )
        if (NOT_VIDEO - {"sdp"}) & set(container.format.name.split(",")):
            container.close()
            raise VideoError(f"{self.name} is a list of other files, not a video")
        return container

    def _connection(self, container: InputContainer, base: float) -> None:
        """Receive one connection's frames; the first is at `base` seconds."""
        stream = next(iter(container.streams.video), None)
        if stream is None or stream.codec_context is None:
            raise VideoError(f"{self.name} has no picture that can be decoded here")
        refuse_huge(Path(self.name), stream.codec_context.width, stream.codec_context.height)
        # Threads that work on several frames hold so many back.
        stream.thread_type = "SLICE"
        first, last = None, base - 1e-3
        again = self._info is not None
        for packet in container.demux(stream):
            try:
                pictures = stream.decode(packet)
            except av.FFmpegError:
                self.counts.faults += 1
                continue
            for picture in pictures:
                self.counts.reconnected += again
                again = False
                stamp = picture.time if picture.time is not None else None
                first = stamp if first is None else first
                now = time.monotonic() - self._started
                seconds = now if stamp is None or first is None else base + stamp - first
                last = max(last + 1e-3, seconds)
                self._put(picture, last, stream)
            if self._stopped:
                return

    def _put(self, picture: Any, pts: float, stream: Any) -> None:
        number = self.counts.received
        self.counts.received += 1
        with self._changed:
            if self._info is None:
                self._info = self._describe(picture, stream)
            if number % self.every == 0:
                if self.realtime:
                    self.counts.dropped += len(self._waiting)
                    self._waiting.clear()
                else:
                    self._changed.wait_for(lambda: len(self._waiting) < QUEUED or self._stopped)
                self._waiting.append((time.monotonic(), pts, picture))
            self._changed.notify_all()

    def _describe(self, picture: Any, stream: Any) -> VideoInfo:
        height, width = shown_size(picture, stream.sample_aspect_ratio)
        rate = nominal_rate(stream) if stream.average_rate or stream.guessed_rate else DEFAULT_FPS
        return VideoInfo(
            name=_plain(self.name),
            path=shown_address(self.name),
            width=width,
            height=height,
            fps=rate / self.every,
            frames=None,
            duration=None,
            has_audio=False,
        )

    def _warn(self) -> None:
        counts, notes = self.counts, []
        if counts.dropped:
            notes.append(f"{counts.dropped} of {counts.received} frames were dropped to keep up")
        if counts.reconnected:
            notes.append(f"the stream broke off and was opened again {counts.reconnected} times")
        if counts.faults:
            notes.append(f"{counts.faults} damaged packets were left out")
        if self._failure is not None and not self._enough:
            notes.append(f"it ended: {self._failure}")
        if notes:
            warnings.warn(f"{shown_address(self.name)}: {'; '.join(notes)}", DvisWarning, stacklevel=3)


def shown_address(name: str) -> str:
    """An address without its password."""
    with suppress(ValueError):
        parts = urlsplit(name)
        if parts.password:  # it must not end up in files
            return name.replace(f":{parts.password}@", ":...@", 1)
    return name


def _plain(name: str) -> str:
    """A name for the folder: camera-0, stdin, or of the address."""
    if name == PIPE:
        return "stdin"
    if name.isdigit():
        return f"camera-{name}"
    parts = urlsplit(name)
    words = [parts.scheme, parts.hostname or "", str(parts.port or ""), *parts.path.split("/")]
    return "-".join(word.strip("@") for word in words if word.strip("@"))


def _why(name: str, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if name == PIPE:
        reason += (
            "; it must be MPEG-TS, YUV4MPEG, Matroska or another container that is read from front to back"
        )
    what = f"camera {name}" if name.isdigit() else "standard input" if name == PIPE else shown_address(name)
    return f"{what} cannot be opened: {reason}"
