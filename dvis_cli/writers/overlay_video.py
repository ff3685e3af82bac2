"""Overlay pictures to an mp4: H.264, the source's frame times, the source's sound."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from dvis_cli.demux import address, open_media, ranked_tracks
from dvis_cli.errors import DvisWarning, OutputError
from dvis_cli.structures import FinishedFrame, VideoInfo
from dvis_cli.writers.audio import (
    AUDIO_FAULTS,
    COPIED_CODECS,
    AudioInput,
    CopiedAudio,
    RecodedAudio,
    codec_name,
)
from dvis_cli.writers.instance_picture import SHOWN_FROM, shown_map
from dvis_cli.writers.labels import Anchors
from dvis_cli.writers.overlay import OverlayStyle, draw_overlay
from dvis_cli.writers.video_encoder import DETERMINISTIC, Encoding, VideoEncoder, encoding_errors

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet


def tell(message: str) -> None:
    """Warn with a `DvisWarning`."""
    warnings.warn(message, DvisWarning, stacklevel=3)


# A way of keeping sound; mp4 players know the codecs that are copied.
_Way = type[CopiedAudio] | type[RecodedAudio]


class OverlayVideo:
    """Draws and encodes one video; nothing is written before the first frame.

    Args:
        path: the mp4 to write; its folder exists.
        info: the source. Its frame rate says how long the last frame is shown.
        style: see `draw_overlay`.
        audio_from: the file whose sound to keep, on the same clock as the frames' `pts`; None for silence.
        warn: told of sound that was left out, cut short, or chosen among several tracks.
        numbered: labels of things have their ids.
        shown_from: of instances: the least score of what is drawn.
        instead: what to do where it cannot be encoded, for the message.
        encoding: on what it is encoded.
    """

    changes: Mapping[str, str] = {}  # options of the encoder that differ from its own

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        style: OverlayStyle = "blend",
        audio_from: Path | None = None,
        warn: Callable[[str], None] = tell,
        *,
        numbered: bool = True,
        shown_from: float = SHOWN_FROM,
        instead: str = "turn the overlay off to go on without",
        encoding: Encoding = DETERMINISTIC,
    ) -> None:
        self.path, self._info, self._style = path, info, style
        self._audio_from, self._warn, self._instead = audio_from, warn, instead
        self._numbered, self._shown_from, self._encoding = numbered, shown_from, encoding
        self._anchors: Anchors = {}
        self._encoder: VideoEncoder | None = None
        self._output: OutputContainer | None = None
        self._audio_input: AudioInput | None = None
        self._audio: CopiedAudio | RecodedAudio | None = None
        self._start = 0.0  # pts of the first frame
        fps = info.fps if math.isfinite(info.fps) and info.fps > 0 else 25.0
        self._frame_seconds = 1.0 / fps

    @property
    def encoder(self) -> str | None:
        """FFmpeg's name of the encoder; None before the first frame."""
        return None if self._encoder is None else self._encoder.name

    def add(self, frame: FinishedFrame) -> None:
        """Draw and encode one frame; frames come in order. Raises what `encode` does."""
        self.encode(self.draw(frame), frame.pts)

    def draw(self, frame: FinishedFrame) -> np.ndarray:
        """The picture of a frame, (height, width, 3) uint8 RGB; in order. Another thread may be encoding meanwhile."""
        ids, segments = shown_map(frame, self._shown_from)
        return draw_overlay(frame.rgb, ids, segments, self._style, self._anchors, self._numbered)

    def encode(self, picture: np.ndarray, pts: float) -> None:
        """Encode a drawn picture, (height, width, 3) uint8 RGB, shown from `pts` seconds on.

        Raises:
            OutputError: no encoder can write this size, or the file cannot be written.
        """
        with encoding_errors(self.path, self._instead):
            if self._encoder is None:
                self._open(picture, pts)
            assert self._encoder is not None
            self._mux_video(self._encoder.encode(picture, pts - self._start))

    def close(self) -> None:
        """Write what is still under way and complete the file; without any frame there is none.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._encoder is None or self._output is None:
            return
        try:
            with encoding_errors(self.path, self._instead):
                self._mux_video(self._encoder.flush())
                if self._audio is not None:
                    self._mux_audio(self._audio.finish(self._encoder.end))
                self._output.close()
        except BaseException:
            self.abort()
            raise
        self._release()

    def abort(self) -> None:
        """Let go of everything and remove the unfinished file. Never raises."""
        self._release()
        with suppress(OSError):
            self.path.unlink()

    def _open(self, picture: np.ndarray, pts: float) -> None:
        """Create the file, with the first track and way of keeping the sound that works."""
        self._start = pts
        tracks, count, fault = self._audio_tracks()
        for number, ways in tracks:
            for way in ways:
                try:
                    self._open_with(picture, number, way)
                except AUDIO_FAULTS as error:
                    self._release()
                    last = error
                    continue
                what = f"is audio track {number} (from 0) of {count}"
                if fault is not None:
                    self._tell_of_audio(f"{what}; the one to prefer cannot be read", fault)
                elif count > 1:
                    self._warn(f"the sound of {self._info.name} {what}")
                return
            fault = fault or last
        self._open_with(picture)
        if fault is not None:
            self._tell_of_audio("cannot be read: there is none in the overlay", fault)

    def _audio_tracks(self) -> tuple[list[tuple[int, tuple[_Way, ...]]], int, Exception | None]:
        """What can be kept of the sound.

        Returns:
            (track, ways to keep it), the best first; the number of all tracks; why the best of all is not there.
        """
        if self._audio_from is None:
            return [], 0, None
        try:
            with open_media(self._audio_from) as container:
                streams = ranked_tracks(container, "audio")
                numbers = [container.streams.audio.index(stream) for stream in streams]
                codecs = [None if stream.codec_context is None else codec_name(stream) for stream in streams]
        except AUDIO_FAULTS as error:
            return [], 0, error
        tracks: list[tuple[int, tuple[_Way, ...]]] = [
            (number, (CopiedAudio, RecodedAudio) if codec in COPIED_CODECS else (RecodedAudio,))
            for number, codec in zip(numbers, codecs, strict=True)
            if codec is not None
        ]
        missing = ValueError("there is no decoder for it here") if codecs and codecs[0] is None else None
        return tracks, len(codecs), missing

    def _open_with(self, picture: np.ndarray, number: int = 0, way: _Way | None = None) -> None:
        height, width = picture.shape[:2]
        if way is not None and self._audio_from is not None:
            self._audio_input = AudioInput(self._audio_from, self._start, number)
        # The index in front lets a browser play the file while it loads.
        self._output = av.open(address(self.path), "w", format="mp4", options={"movflags": "+faststart"})
        try:
            encoder = VideoEncoder(
                self._output, width, height, self._frame_seconds, self.changes, self._encoding
            )
        except OutputError:
            if self._encoding.gpu is None:
                raise
            self._release()  # another process has taken the GPU's last session
            self._encoding = replace(self._encoding, gpu=None)
            return self._open_with(picture, number, way)
        if way is not None and self._audio_input is not None:
            self._audio = way(self._audio_input, self._output)
        self._output.start_encoding()
        self._encoder = encoder

    def _mux_video(self, packets: Iterable[Packet[Any]]) -> None:
        """Write video packets, each followed by the sound up to it: the muxer need not hold back much."""
        assert self._output is not None
        for packet in packets:
            time = float((packet.pts or 0) * packet.time_base)
            self._output.mux(packet)
            if self._audio is not None:
                self._mux_audio(self._audio.packets(time))

    def _mux_audio(self, packets: Iterator[Packet[Any]]) -> None:
        assert self._output is not None
        while True:
            try:
                packet = next(packets, None)
            except AUDIO_FAULTS as error:
                return self._drop_audio("is damaged: it ends early in the overlay", error)
            if packet is None:
                return None
            try:
                self._output.mux(packet)
            except OSError:  # the disk's fault
                raise
            except AUDIO_FAULTS as error:
                return self._drop_audio("is damaged: it ends early in the overlay", error)

    def _drop_audio(self, what: str, fault: BaseException) -> None:
        """Go on without (more) sound: the picture matters more."""
        self._audio = None
        self._tell_of_audio(what, fault)

    def _tell_of_audio(self, what: str, fault: BaseException) -> None:
        reason = getattr(fault, "strerror", None) or str(fault) or type(fault).__name__
        self._warn(f"the sound of {self._info.name} {what} ({reason})")

    def _release(self) -> None:
        if self._audio_input is not None:
            with suppress(Exception):
                self._audio_input.close()
        if self._output is not None:
            with suppress(Exception):
                self._output.close()  # does nothing when it is closed
        self._audio = self._audio_input = self._output = self._encoder = None
