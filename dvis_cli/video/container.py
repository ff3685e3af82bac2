"""PyAV's side of a video file: opening it, finding its picture, decoding, and saying what is wrong with it.

No PyAV exception leaves this module.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dvis_cli.demux import DEPENDENT, PIXEL_LIMIT, has, is_encrypted, open_media, ranked_tracks
from dvis_cli.errors import UsageError, VideoError
from dvis_cli.video.source import HEIF_BRANDS, NEEDS_HEIF, refuse_huge

DEFAULT_FPS = 25.0  # frames a second, where the file gives none that makes sense
HIGHEST_FPS = 1000.0  # of a header: a higher rate is believed only of the times of frames
SAMPLE = 100  # packets whose times tell the rate
REORDERED = 16  # of them, the last ones may wait for frames behind the sample
# Containers whose seeking goes by an index or by block times; the others are read from the beginning.
SEEKABLE = frozenset({"mov", "matroska", "avi", "flv", "asf"})
# Formats that are lists of other files, or that draw text: a renamed text file is not a video.
NOT_VIDEO = frozenset({"concat", "hls", "dash", "sdp", "tty"})
MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free")
ASF_ENCRYPTION = (  # GUIDs of the header objects of protected files
    bytes.fromhex("fbb31122 23bd d211 b4b7 00a0c955fc6e"),
    bytes.fromhex("14e68a29 2226 174c b935 dae07ee9289c"),
)
DECRYPT = "it is encrypted (DRM or pay TV); only whoever has the key can decrypt it"


def open_container(path: Path) -> InputContainer:
    """The opened file; the caller closes it. Raises VideoError with the likely reason."""
    try:
        container = open_media(path)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(_why_not_opened(path, error)) from error
    if NOT_VIDEO.intersection(_kinds(container)):
        kind = container.format.name
        container.close()
        raise VideoError(f"{path} is not a video: it is text or a list of other files ({kind})")
    return container


def video_stream(container: InputContainer, path: Path, track: int | None = None) -> VideoStream:
    """Track `track` of the file's video tracks, or FFmpeg's choice among those that can be decoded.

    Cover art and tiles of pictures are not chosen. The stream is set up for threaded decoding.
    Raises VideoError when there is none, or none that can be decoded, UsageError for a track that there is not.
    """
    streams = ranked_tracks(container, "video")
    if track is not None:
        every = container.streams.video
        if track >= len(every):
            raise UsageError(f"{path} has no video track {track}; it has {len(every)}, counted from 0")
        streams = [every[track]]
    if not streams:
        raise VideoError(_why_no_picture(container, path))
    stream = next((s for s in streams if s.codec_context is not None), None)
    if stream is None:
        raise VideoError(
            f"{path} is unsupported: its video codec has no decoder here; convert it, e.g. to H.264 in mp4"
        )
    if "enc_key_id" in stream.metadata or stream.codec_context.codec_tag == "drmi":  # Matroska, iTunes
        raise VideoError(f"{path} cannot be decoded: {DECRYPT}")
    refuse_huge(path, stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.options = {"max_pixels": str(PIXEL_LIMIT)}
    stream.thread_type = "AUTO"
    return stream


def guessed_track(container: InputContainer, stream: VideoStream) -> str | None:
    """What to say of the choice of `stream`, where there are other video tracks."""
    tracks = ranked_tracks(container, "video")
    if stream.frames > 1:  # the still picture of an AVIF sequence is no other track
        tracks = [other for other in tracks if other.frames != 1]
    if len(tracks) < 2:
        return None
    context = stream.codec_context
    which = f"{container.streams.video.index(stream)} ({context.width} x {context.height}, {context.name})"
    text = f"of {len(tracks)} video tracks, track {which} is used; --video-track takes another"
    return text if tracks[0].codec_context else f"{text}; the one to prefer has no decoder here"


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
        self._packets = container.demux(stream)
        self._times: list[float] = []  # seconds: of the first packets
        self._at_end = False
        self.decoded = 0  # frames
        self.packets = 0
        self.faults = 0  # packets that were damaged, or 1 where the container broke off
        self.encrypted = 0  # packets
        self.unsupported = False  # FFmpeg says that it lacks a feature
        self.read_to = -math.inf  # seconds on the file's clock: where the last packet's frame ends

    def __iter__(self) -> Generator[VideoFrame, None, None]:
        while (packet := self._next()) is not None:
            if is_encrypted(packet):  # a decoder would make noise of it
                self.encrypted += 1
                continue
            try:
                pictures = self._stream.decode(packet)
            except av.FFmpegError as error:
                self.unsupported |= isinstance(error, av.error.PatchWelcomeError)
                self.faults += self.decoded > 0  # before: a recording may begin between two key frames
                continue
            for picture in pictures:
                self.decoded += 1
                yield picture

    def measured_rate(self) -> float | None:
        """Frames a second by the times of the first packets, which are read if need be; None when they have none.

        No frame can be decoded afterwards.
        """
        while self.packets < SAMPLE and self._next() is not None:
            pass
        times = sorted(set(self._times))
        if not self._at_end:
            times = times[:-REORDERED]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else None

    def _next(self) -> Packet[Any] | None:
        try:
            packet = next(self._packets, None)
        except av.FFmpegError:  # the container itself is broken from here on
            self.faults += 1
            packet = None
        if packet is None:
            self._at_end = True
        elif packet.size:  # one without bytes only asks the decoder for its last frames
            self._note(packet)
        return packet

    def _note(self, packet: Packet[Any]) -> None:
        self.packets += 1
        self.faults += bool(packet.is_corrupt)
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is not None and packet.time_base:
            if self.packets <= SAMPLE and not packet.is_discard:
                self._times.append(float(stamp * packet.time_base))
            end = float((stamp + (packet.duration or 0)) * packet.time_base)
            self.read_to = max(self.read_to, end)


def nominal_rate(stream: VideoStream) -> float:
    """Average frames a second, by the header."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < rate <= HIGHEST_FPS:
            return float(rate)
    return DEFAULT_FPS


def frame_rate(container: InputContainer, stream: VideoStream, decoder: Decoder) -> float:
    """Average frames a second: the header's where the times of the first frames agree, else theirs.

    `decoder` cannot decode afterwards.
    """
    if "mov" in _kinds(container) and stream.frames > 1 and stream.average_rate:
        return float(stream.average_rate)  # from the times of all frames, which its index holds
    nominal, measured = nominal_rate(stream), decoder.measured_rate()
    if measured is None or abs(measured / nominal - 1) < 0.02:
        return nominal
    if "mpegts" in _kinds(container) and abs(measured / nominal - 2) < 0.04:
        return nominal  # the two fields of a frame come in two packets
    return measured


def promised_length(container: InputContainer, stream: VideoStream, origin: float) -> float | None:
    """Seconds of video by the header; None where the header gives none of the video's own.

    `origin`: the first frame on the file's clock, in seconds.
    """
    if "avi" in _kinds(container) and stream.frames:
        # Its other durations are guessed from the size of the file.
        return stream.frames / nominal_rate(stream)
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


def why_nothing_decodes(container: InputContainer, stream: VideoStream, decoder: Decoder, path: Path) -> str:
    """The error of a file without a single frame."""
    if decoder.encrypted or _is_scrambled(container, path):
        return f"{path} cannot be decoded: {DECRYPT}"
    codec = stream.codec_context.name
    if decoder.unsupported:
        return f"{path} is unsupported: its {codec} uses a feature that the decoder here lacks; convert it"
    limit = f"frames above {PIXEL_LIMIT // 10**6} megapixels are refused"
    return f"{path}: no frame can be decoded; it is empty or damaged ({limit})"


def _is_scrambled(container: InputContainer, path: Path) -> bool:
    """Whether a transport stream or an ASF file says of itself that it is encrypted."""
    kinds = _kinds(container)
    with path.open("rb") as file:
        head = file.read(188 * 5000)
    if "asf" in kinds:
        return any(guid in head[: 1 << 16] for guid in ASF_ENCRYPTION)
    first = head.find(b"G")
    controls = head[first + 3 :: 188] if "mpegts" in kinds and first >= 0 else b""
    return sum(control >> 6 > 1 for control in controls) > len(controls) / 4  # transport_scrambling_control


def _kinds(container: InputContainer) -> list[str]:
    return container.format.name.split(",")


def _why_not_opened(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        head = b""
    if head[4:8] in MP4_BOXES and head[8:] not in HEIF_BRANDS:
        return _incomplete_mp4(path)
    if isinstance(error, av.error.InvalidDataError):
        return f"{path} is not a video, or its beginning is damaged: no known format was found in it"
    return f"{path} cannot be opened as a video: {getattr(error, 'strerror', None) or error}"


def _why_no_picture(container: InputContainer, path: Path) -> str:
    if any(has(stream, DEPENDENT) for stream in container.streams.video):
        return f"{path} is a picture in tiles, which {NEEDS_HEIF}"
    if container.streams.audio:
        return f"{path} has no picture: it holds only sound; name a video file"
    if "mov" in _kinds(container) and not len(container.streams):
        return _incomplete_mp4(path)
    return f"{path} has no video stream (format {container.format.name})"


def _incomplete_mp4(path: Path) -> str:
    return (
        f"{path} is an incomplete mp4/mov file: its index (the moov part) is missing or cut off, so no"
        " frame can be found; finish the download or recording, or repair it with the help of a good copy"
    )
