"""Sound that mp4 players do not know, as AAC: decoded, cut and padded to the sample, encoded again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from dvis_cli.writers.audio import AudioInput

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import OutputContainer
    from av.packet import Packet

_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_BIT_RATE = {"mono": 96_000, "stereo": 160_000}
_RUN_UP = 1.0  # seconds before the start that are decoded and thrown away: decoders need some
_TOLERANCE = 0.04  # seconds: a smaller gap is the rounding of a coarse clock, a larger one is real


class RecodedAudio:
    """Decoded packets, encoded as AAC in mono or stereo; an `AudioTrack`.

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
