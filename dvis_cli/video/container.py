"""PyAV's side of a video file: opening it, finding its picture, decoding, and saying what is wrong with it.

No PyAV exception leaves this module.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dvis_cli.errors import VideoError
from dvis_cli.video.source import PIXEL_LIMIT, refuse_huge

DEFAULT_FPS = 25.0  # frames a second, where the file gives none that makes sense
HIGHEST_FPS = 1000.0
# Containers whose seeking goes by an index or by block times; the others are read from the beginning.
SEEKABLE = frozenset({"mov", "matroska", "avi", "flv", "asf"})
# Formats that are lists of other files, or that draw text: a renamed text file is not a video.
NOT_VIDEO = frozenset({"concat", "hls", "dash", "sdp", "tty"})
ATTACHED_PICTURE = 0x400  # disposition of a stream that is cover art
MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free")


def open_container(path: Path) -> InputContainer:
    """The opened file; the caller closes it. Raises VideoError with the likely reason."""
    try:
        container = av.open(
            # With a protocol and an absolute path no name is taken for a pattern, an option or an address.
            f"file:{path.absolute()}",
            options={"max_pixels": str(PIXEL_LIMIT)},
            container_options={"protocol_whitelist": "file", "pattern_type": "none"},
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(_why_not_opened(path, error)) from error
    if NOT_VIDEO.intersection(_kinds(container)):
        kind = container.format.name
        container.close()
        raise VideoError(f"{path} is not a video: it is text or a list of other files ({kind})")
    return container


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first stream that is a video (not cover art), set up for threaded decoding.

    Raises VideoError when there is none, or none that can be decoded.
    """
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        if container.streams.audio:
            raise VideoError(f"{path} has no picture: it holds only sound; name a video file")
        if "mov" in _kinds(container):
            raise VideoError(_incomplete_mp4(path))
        raise VideoError(f"{path} has no video stream (format {container.format.name})")
    stream = streams[0]
    if stream.codec_context is None:
        raise VideoError(f"{path}: its video codec is not known here; convert it, e.g. to H.264 in mp4")
    refuse_huge(path, stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.options = {"max_pixels": str(PIXEL_LIMIT)}
    stream.thread_type = "AUTO"
    return stream


def seek(container: InputContainer, stream: VideoStream, seconds: float) -> bool:
    """Go to the key frame before `seconds` on the file's clock; False where that cannot be relied on."""
    if not SEEKABLE.intersection(_kinds(container)) or not stream.time_base:
        return False
    try:
        container.seek(int(Fraction(seconds) / stream.time_base), stream=stream)
    except (av.FFmpegError, OverflowError):
        return False
    return True


class Decoder:
    """Decodes the rest of a stream, steps over what is damaged, and remembers what it met."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container = container
        self._stream = stream
        self.decoded = 0  # frames
        self.packets = 0
        self.faults = 0  # packets that were damaged, or 1 where the container broke off
        self.read_to = -math.inf  # seconds on the file's clock: where the last packet's frame ends

    def __iter__(self) -> Generator[VideoFrame, None, None]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:  # the container itself is broken from here on
                self.faults += 1
                return
            if packet is None:
                return
            self._note(packet)
            try:
                pictures = self._stream.decode(packet)
            except av.FFmpegError:
                self.faults += self.decoded > 0  # before: a recording may begin between two key frames
                continue
            for picture in pictures:
                self.decoded += 1
                yield picture

    def _note(self, packet: Packet) -> None:
        if not packet.size:  # only asks the decoder for its last frames
            return
        self.packets += 1
        self.faults += bool(packet.is_corrupt)
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is not None and packet.time_base:
            end = float((stamp + (packet.duration or 0)) * packet.time_base)
            self.read_to = max(self.read_to, end)


def frame_rate(stream: VideoStream) -> float:
    """Average frames a second."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < rate <= HIGHEST_FPS:
            return float(rate)
    return DEFAULT_FPS


def promised_length(container: InputContainer, stream: VideoStream, origin: float) -> float | None:
    """Seconds of video by the header; None where the header gives none of the video's own.

    `origin`: the first frame on the file's clock, in seconds.
    """
    if "avi" in _kinds(container) and stream.frames:
        return stream.frames / frame_rate(stream)  # its other durations are guessed from the size of the file
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    length = _tagged_length(stream)
    if length is None and container.duration and len(container.streams) == 1:  # else it may be the sound's
        length = container.duration / av.time_base
    if length is not None and "matroska" in _kinds(container):
        length -= max(0.0, origin)  # Matroska gives the time of the end on its clock
    return length


def _tagged_length(stream: VideoStream) -> float | None:
    """Seconds by the tag that Matroska files carry for every stream: 00:00:02.000000000."""
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def _is_cover(stream: VideoStream) -> bool:
    flags = getattr(stream, "disposition", 0)  # none in PyAV 14.0, a plain Flag before 16, then an IntFlag
    return bool(int(getattr(flags, "value", flags)) & ATTACHED_PICTURE)


def _kinds(container: InputContainer) -> list[str]:
    return container.format.name.split(",")


def _why_not_opened(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError:
        head = b""
    if head[4:] in MP4_BOXES:
        return _incomplete_mp4(path)
    if isinstance(error, av.error.InvalidDataError):
        return f"{path} is not a video, or its beginning is damaged: no known format was found in it"
    return f"{path} cannot be opened as a video: {getattr(error, 'strerror', None) or error}"


def _incomplete_mp4(path: Path) -> str:
    return (
        f"{path} is an incomplete mp4/mov file: its index (the moov part) is missing or cut off, so no"
        " frame can be found; finish the download or recording, or repair it with the help of a good copy"
    )
