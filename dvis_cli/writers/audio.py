"""The source's sound: read a packet at a time as the picture comes, moved to its clock, copied or recoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from dvis_cli.demux import is_encrypted, open_media

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.packet import Packet

# Codecs that players expect in mp4. The muxer accepts some more (raw PCM, Vorbis) that many do not play.
COPIED_CODECS = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"})
# What reading damaged sound can raise: FFmpeg's errors, and ValueError for parameters that change midway.
AUDIO_FAULTS = (av.FFmpegError, ValueError, OSError)

_PREROLL = 0.5  # seconds read before the start: decoders need some run-up
_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_BIT_RATE = {"mono": 96_000, "stereo": 160_000}
_RUN_UP = 1.0  # seconds before the start that are decoded and thrown away: decoders need some
_TOLERANCE = 0.04  # seconds: a smaller gap is the rounding of a coarse clock, a larger one is real


def codec_name(stream: AudioStream) -> str:
    """The codec's general name, e.g. `mp3` whichever decoder reads it."""
    return stream.codec_context.codec.canonical_name


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


class RecodedAudio:
    """Decoded packets, encoded as AAC in mono or stereo.

    The sample count is the clock: gaps in the source become silence, overlaps are cut, so sound and picture
    stay together however long the video is.
    """

    def __init__(self, source: AudioInput, output: OutputContainer) -> None:
        self._source = source
        self._decoder = source.stream.codec_context
        self._rate = self._decoder.sample_rate
        if self._rate not in _AAC_RATES:
            self._rate = 48000 if self._rate > 24000 else 24000
        self._layout = "mono" if self._decoder.channels == 1 else "stereo"
        self._stream = output.add_stream("aac", rate=self._rate, bit_rate=_BIT_RATE[self._layout])
        self._stream.codec_context.layout = self._layout
        self._resampler = self._new_resampler()
        self._channels = 1 if self._layout == "mono" else 2
        self._queue = np.zeros((self._channels, 0), np.float32)  # samples not yet encoded, under one frame
        self._sent = 0  # samples encoded

    def packets(self, until: float) -> Iterator[Packet[Any]]:
        """Packets of all sound that begins before `until` seconds of the overlay."""
        for time, packet in self._source.read(until):
            if time < -_RUN_UP:
                continue
            try:
                frames = self._decoder.decode(packet)
            except av.FFmpegError:
                continue  # a damaged packet leaves a gap, which becomes silence
            for frame in frames:
                yield from self._take(self._resample(frame))

    def finish(self, end: float) -> Iterator[Packet[Any]]:
        """The rest, cut at `end` seconds."""
        yield from self.packets(end)
        for frame in self._decoder.decode(None):
            yield from self._take(self._resample(frame))
        yield from self._take(self._resampler.resample(None))
        wanted = max(0, round(end * self._rate) - self._sent)
        if wanted and self._queue.shape[1]:
            yield from self._encode(self._queue[:, :wanted])
        yield from self._stream.encode(None)

    def _new_resampler(self) -> av.AudioResampler:
        return av.AudioResampler("fltp", self._layout, self._rate)

    def _resample(self, frame: AudioFrame) -> list[AudioFrame]:
        try:
            return self._resampler.resample(frame)
        except ValueError:  # broadcasts switch from stereo to 5.1 and back
            self._resampler = self._new_resampler()
            return self._resampler.resample(frame)

    def _take(self, frames: Sequence[AudioFrame | None]) -> Iterator[Packet[Any]]:
        for frame in frames:
            if frame is None:  # a resampler that had nothing to do says so at the end
                continue
            samples = frame.to_ndarray()
            if frame.pts is None or frame.time_base is None:
                yield from self._push(samples)
                continue
            begins = round((float(frame.pts * frame.time_base) - self._source.start) * self._rate)
            late = begins - (self._sent + self._queue.shape[1])
            if late < 0 and (begins < 0 or -late > _TOLERANCE * self._rate):
                samples, late = samples[:, -late:], 0
            if late > _TOLERANCE * self._rate or (late > 0 and self._sent == 0):
                yield from self._push_silence(late)
            yield from self._push(samples)

    def _push_silence(self, count: int) -> Iterator[Packet[Any]]:
        # A second at a time: a source may be silent for hours.
        for first in range(0, count, self._rate):
            yield from self._push(np.zeros((self._channels, min(self._rate, count - first)), np.float32))

    def _push(self, samples: np.ndarray) -> Iterator[Packet[Any]]:
        self._queue = np.concatenate((self._queue, samples), axis=1)
        size = self._stream.codec_context.frame_size or 1024
        while self._queue.shape[1] >= size:
            yield from self._encode(self._queue[:, :size])
            self._queue = self._queue[:, size:]

    def _encode(self, samples: np.ndarray) -> list[Packet[Any]]:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=self._layout)
        frame.sample_rate = self._rate
        frame.time_base = self._stream.codec_context.time_base
        frame.pts = self._sent
        self._sent += samples.shape[1]
        return self._stream.encode(frame)
