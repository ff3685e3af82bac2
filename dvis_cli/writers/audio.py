"""The source's sound: read a packet at a time, as far as the picture has come, and moved to its clock."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import av

from dvis_cli.demux import is_encrypted, open_media

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.packet import Packet

# Codecs that players expect in mp4. The muxer accepts some more (raw PCM, Vorbis) that many do not play.
COPIED_CODECS = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"})
# What reading damaged sound can raise: FFmpeg's errors, and ValueError for parameters that change midway.
AUDIO_FAULTS = (av.FFmpegError, ValueError, OSError)

_PREROLL = 0.5  # seconds read before the start: decoders need some run-up


def codec_name(stream: AudioStream) -> str:
    """The codec's general name, e.g. `mp3` whichever decoder reads it."""
    return stream.codec_context.codec.canonical_name


class AudioTrack(Protocol):
    """Sound on the way into the overlay."""

    def packets(self, until: float) -> Iterator[Packet[Any]]:
        """Packets ready to be muxed that begin before `until` seconds of the overlay."""

    def finish(self, end: float) -> Iterator[Packet[Any]]:
        """The rest, up to the overlay's end in seconds."""


class AudioInput:
    """Encoded packets of one audio track, in order, from about `start` on.

    Args:
        path: the source.
        start: seconds on the source's clock that become 0.
        track: which of the file's audio tracks, from 0.

    Raises:
        ValueError: the track is encrypted.
        av.FFmpegError: the file cannot be opened.
    """

    def __init__(self, path: Path, start: float, track: int = 0) -> None:
        self.start = start
        self._container = open_media(path)
        try:
            self.stream: AudioStream = self._container.streams.audio[track]
            self.tick = self.stream.time_base or Fraction(1, av.time_base)  # seconds
            self._seek(path, track)
            self._packets = self._container.demux(self.stream)
            self._waiting: Packet[Any] | None = next(self._packets, None)
            if self._waiting is not None and is_encrypted(self._waiting):
                raise ValueError("it is encrypted")
        except BaseException:
            self._container.close()
            raise
        self._clock = 0.0  # where the next packet is expected, for those without a time

    def read(self, until: float) -> Iterator[tuple[float, Packet[Any]]]:
        """Packets that begin before `until`, as `(seconds of the overlay, packet)`; may be called again."""
        while True:
            packet = self._waiting or next(self._packets, None)
            if packet is None:
                return
            self._waiting = None
            if packet.size == 0:  # the demuxer's goodbye
                continue
            time = self._time(packet)
            if time >= until:
                self._waiting = packet
                return
            self._clock = time + self.seconds(packet.duration)
            yield time, packet

    def seconds(self, ticks: int | None) -> float:
        """Ticks of the stream's clock in seconds; 0 for None."""
        return float((ticks or 0) * self.tick)

    def close(self) -> None:
        self._container.close()

    def _time(self, packet: Packet[Any]) -> float:
        ticks = packet.pts if packet.pts is not None else packet.dts
        return self._clock if ticks is None else self.seconds(ticks) - self.start

    def _seek(self, path: Path, track: int) -> None:
        first = self.seconds(self.stream.start_time)
        if self.start - first < 2 * _PREROLL:
            return
        try:
            self._container.seek(int((self.start - _PREROLL) / self.tick), stream=self.stream)
        except av.FFmpegError:  # a format without an index: read from the beginning, what is early is skipped
            self._container.close()
            self._container = open_media(path)
            self.stream = self._container.streams.audio[track]


class CopiedAudio:
    """Packets as they are, with new times."""

    def __init__(self, source: AudioInput, output: OutputContainer) -> None:
        self._source = source
        self._stream = output.add_stream_from_template(source.stream)
        self._shift = round(source.start / source.tick)
        self._last_dts: int | None = None

    def packets(self, until: float) -> Iterator[Packet[Any]]:
        for time, packet in self._source.read(until):
            # One packet more than is heard goes in, before time 0: a decoder needs it to start cleanly,
            # and the file's edit list keeps it silent.
            if time + 2 * self._source.seconds(packet.duration) <= 0:
                continue
            ticks = round(time / self._source.tick)
            packet.dts = packet.dts - self._shift if packet.dts is not None else ticks
            packet.pts = packet.pts - self._shift if packet.pts is not None else packet.dts
            if self._last_dts is not None and packet.dts <= self._last_dts:
                continue  # a clock that runs backwards: mp4 cannot say that
            self._last_dts = packet.dts
            packet.stream = self._stream
            yield packet

    def finish(self, end: float) -> Iterator[Packet[Any]]:
        last = round(end / self._source.tick)
        for packet in self.packets(end):
            # The sound is not cut inside a packet, but the file is not longer than its picture.
            if packet.duration and packet.pts is not None:
                packet.duration = max(1, min(packet.duration, last - packet.pts))
            yield packet
