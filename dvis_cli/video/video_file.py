"""A video file of any container and codec that PyAV can open, read as a stream of frames."""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dvis_cli.errors import DvisWarning, VideoError
from dvis_cli.structures import Frame, VideoInfo
from dvis_cli.video.clock import Clock
from dvis_cli.video.container import (
    Decoder,
    frame_rate,
    guessed_track,
    nominal_rate,
    open_container,
    promised_length,
    seek,
    video_stream,
    why_nothing_decodes,
)
from dvis_cli.video.deinterlace import deinterlaced
from dvis_cli.video.source import TIME_TOLERANCE, Selection, plain_name, refuse_huge
from dvis_cli.video.tone_map import UNSPECIFIED
from dvis_cli.video.upright import Upright, shown_size

DOLBY_VISION = ("dvh1", "dvhe", "dva1", "dvav", "dav1")  # codec tags
SECOND_TRY = 10.0  # seconds before the start where seeking is tried again when it landed too late


@dataclass(frozen=True)
class _Facts:
    """What the header and the first frame say of the whole video."""

    origin: float  # seconds on the file's own clock: the first frame
    fps: float  # average
    frames: int | None
    length: float | None  # seconds
    sar: Fraction | None  # width of a stored pixel over its height
    has_audio: bool
    notes: tuple[str, ...]  # what to say of the choice of track and of its colours


class _Timed(NamedTuple):
    seconds: float  # on the file's own clock
    picture: VideoFrame


class VideoFile:
    """A video file as a `VideoSource`. Holds no open file; every iteration opens its own."""

    prefetch, class_memory = True, 0.0

    def __init__(self, path: Path, selection: Selection) -> None:
        """Decodes the first selected frame. Raises VideoError, or UsageError when none is selected."""
        self._path = path
        self._selection = selection
        self._facts = _facts_of(path, selection.video_track)
        first = self._first_selected()
        height, width = shown_size(first.picture, self._facts.sar)
        refuse_huge(path, width, height)
        frames, duration = _expected(self._facts, selection)
        self.info = VideoInfo(
            name=Path(plain_name(path)).stem,
            path=str(path),
            width=width,
            height=height,
            fps=self._facts.fps / selection.stride,
            frames=frames,
            duration=duration,
            has_audio=self._facts.has_audio,
            start=first.seconds,
        )

    def __iter__(self) -> Iterator[Frame]:
        """Frames with their times on the file's own clock; see `VideoSource`."""
        upright = Upright((self.info.height, self.info.width))
        walk = _Walk(self._path, self._facts, self._selection)
        stored_sizes = set()
        count = 0
        with closing(walk.frames()) as timed:
            for seconds, picture in self._selection.pick(timed):
                stored_sizes.add((picture.width, picture.height))
                yield Frame(index=count, pts=seconds, rgb=upright(picture))
                count += 1
        self._warn(count, walk, upright.mapped, len(stored_sizes) > 1)

    def _first_selected(self) -> _Timed:
        walk = _Walk(self._path, self._facts, self._selection)
        with closing(walk.frames()) as timed:
            for found in self._selection.pick(timed):
                return found
        raise self._selection.nothing_in(self._path, walk.last_end)

    def _warn(self, count: int, walk: _Walk, mapped: set[str], resized: bool) -> None:
        problems = list(self._facts.notes)
        problems += [f"its colours ({kind}) were mapped to SDR BT.709" for kind in sorted(mapped)]
        if walk.interlaced:
            problems.append("its interlaced frames were deinterlaced")
        if walk.encrypted:
            problems.append(f"{walk.encrypted} encrypted packets were left out")
        if resized:
            problems.append(
                "its resolution changes on the way; all frames were scaled to the first one's size"
            )
        damaged = walk.is_damaged
        if damaged and (self.info.frames or 0) > count:
            expected = self.info.frames
            problems.append(
                f"damaged or cut short: {count} of about {expected} frames could be read and are used"
            )
        elif damaged:
            problems.append(f"damaged in places: the {count} frames that could be read are used")
        if problems:
            warnings.warn(f"{self._path}: {'; '.join(problems)}", DvisWarning, stacklevel=3)


class _Walk:
    """One pass over the frames from `start` (or a little before) to the end of the file."""

    def __init__(self, path: Path, facts: _Facts, selection: Selection) -> None:
        self._path = path
        self._facts = facts
        self._track = selection.video_track
        self._start = selection.start or 0.0
        self._decoder: Decoder | None = None
        self._at_end = False
        self.interlaced = False  # whether any frame was
        self.last_end = 0.0  # seconds from the beginning where the last decoded frame ends

    def frames(self) -> Generator[tuple[float, _Timed], None, None]:
        """(seconds from the beginning, frame): none of [start, ...) is missing, earlier ones may come."""
        for seek_to in self._places_to_try():
            with closing(open_container(self._path)) as container:
                stream = video_stream(container, self._path, self._track)
                if seek_to is not None and not seek(container, stream, seek_to + self._facts.origin):
                    continue
                self._decoder = Decoder(container, stream)
                pictures = iter(self._decoder)
                first = next(pictures, None)
                if seek_to is not None and not self._is_early_enough(first):
                    continue
                yield from self._timed(chain([] if first is None else [first], pictures))
                self._at_end = True
                return

    def _places_to_try(self) -> list[float | None]:
        """Where to seek, in seconds from the beginning; None reads from there and always succeeds."""
        if self._start <= 0:
            return [None]
        return [self._start, max(0.0, self._start - SECOND_TRY), None]

    def _is_early_enough(self, first: VideoFrame | None) -> bool:
        """Seeking may land behind the start, or where frames carry no time: then it is of no use."""
        if first is None or first.pts is None or not first.time_base:
            return False
        return float(first.pts * first.time_base) - self._facts.origin <= self._start + TIME_TOLERANCE

    def _timed(self, pictures: Iterator[VideoFrame]) -> Iterator[tuple[float, _Timed]]:
        step = 1 / self._facts.fps
        clock = Clock(step)
        for picture in deinterlaced(self._noting_interlace(pictures)):
            seconds = clock.seconds(picture.pts, picture.time_base)
            since = seconds - self._facts.origin
            self.last_end = since + step
            yield since, _Timed(seconds, picture)

    def _noting_interlace(self, pictures: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        for picture in pictures:
            self.interlaced |= picture.interlaced_frame
            yield picture

    @property
    def encrypted(self) -> int:
        """Packets that were left out because they are encrypted."""
        return self._decoder.encrypted if self._decoder else 0

    @property
    def is_damaged(self) -> bool:
        """Whether something could not be decoded, or the file ended before the time its header gives."""
        facts, decoder = self._facts, self._decoder
        if decoder is None or decoder.faults:
            return decoder is not None
        if not self._at_end or facts.length is None or facts.frames == decoder.packets:
            return False
        missing = facts.length - (decoder.read_to - facts.origin)
        return missing > max(3 / facts.fps, 0.01 * facts.length)


def _facts_of(path: Path, track: int | None) -> _Facts:
    with closing(open_container(path)) as container:
        stream = video_stream(container, path, track)
        decoder = Decoder(container, stream)
        with closing(iter(decoder)) as pictures:
            first = next(pictures, None)
        if first is None:
            raise VideoError(why_nothing_decodes(container, stream, decoder, path))
        origin = Clock(1 / nominal_rate(stream)).seconds(first.pts, first.time_base)
        return _Facts(
            origin=origin,
            fps=frame_rate(container, stream, decoder),
            frames=stream.frames or None,
            length=promised_length(container, stream, origin),
            sar=stream.sample_aspect_ratio,
            has_audio=bool(container.streams.audio),
            notes=tuple(_notes_on(container, stream, first, track)),
        )


def _notes_on(
    container: InputContainer, stream: VideoStream, first: VideoFrame, track: int | None
) -> Iterator[str]:
    if track is None and (guess := guessed_track(container, stream)):
        yield guess
    if stream.codec_context.codec_tag in DOLBY_VISION and first.color_trc == UNSPECIFIED:
        yield "Dolby Vision without a base layer for other players: its colours are wrong here"


def _expected(facts: _Facts, selection: Selection) -> tuple[int | None, float | None]:
    """(frames, seconds) that the selection will deliver, estimated from the header; None when unknown."""
    if facts.length is None:
        return None, None
    start = selection.start or 0.0
    end = facts.length if selection.end is None else min(float(selection.end), facts.length)
    inside = round(max(0.0, end - start) * facts.fps)
    if facts.frames and end - start == facts.length and abs(facts.frames - inside) <= 1:
        inside = facts.frames
    kept = math.ceil(max(1, inside) / selection.stride)
    if selection.max_frames is None or kept <= selection.max_frames:
        return kept, max(0.0, end - start)
    return selection.max_frames, selection.max_frames * selection.stride / facts.fps
