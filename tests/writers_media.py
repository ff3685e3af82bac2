"""Tiny sources with sound, and what the writers' tests measure in the files that were written."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from dvis_cli.structures import Category, PanopticFrame, Segment, VideoInfo
from dvis_cli.writers.audio import codec_name

RATE = 48000
PERSON = Category(60, "person", True, (150, 5, 61))
ROAD = Category(18, "road", False, (140, 140, 140))


def ids_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Colours that spell ids: (..., 3) uint8."""
    return np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


def read_panoptic_png(path: Path) -> np.ndarray:
    """(height, width) int32 ids."""
    with Image.open(path) as image:
        assert image.mode == "RGB"
        red, green, blue = np.moveaxis(np.asarray(image).astype(np.int32), -1, 0)
    return red | green << 8 | blue << 16


def info(**changes: object) -> VideoInfo:
    values: dict = {
        "name": "clip",
        "path": "clip.mp4",
        "width": 64,
        "height": 48,
        "fps": 10.0,
        "frames": None,
        "duration": None,
        "has_audio": False,
    }
    return VideoInfo(**(values | changes))


def frame(index: int, pts: float, width: int = 64, height: int = 48, **changes: object) -> PanopticFrame:
    """A person (id 2) that walks over a road (id 1); the frame's grey tells its index."""
    rgb = np.full((height, width, 3), 20 + index % 200, np.uint8)
    ids = np.ones((height, width), np.int32)
    ids[: height // 4] = 0
    left = (index * 2) % max(1, width // 2)
    ids[height // 3 : height * 3 // 4 + 1, left : left + width // 3 + 1] = 2
    segments = {1: Segment(1, ROAD, 0.9), 2: Segment(2, PERSON, 0.8)}
    return PanopticFrame(
        **({"index": index, "pts": pts, "rgb": rgb, "ids": ids, "segments": segments} | changes)
    )


def click_track(seconds: float, clicks: list[float], channels: int = 1) -> np.ndarray:
    """(channels, samples) float32: silence with a short loud tone at each time."""
    sound = np.zeros(round(seconds * RATE), np.float32)
    tone = 0.8 * np.sin(np.arange(RATE // 50) * 2 * np.pi * 1000 / RATE)
    for click in clicks:
        first = round(click * RATE)
        piece = sound[first : first + len(tone)]
        piece += tone[: len(piece)]
    return np.tile(sound, (channels, 1))


def write_sound(
    path: Path,
    sound: np.ndarray,
    codec: str,
    *,
    start: float = 0.0,
    skip: tuple[float, float] | None = None,
    with_video: bool = True,
) -> Path:
    """A source with a still picture and `sound`, whose first sample is at `start` seconds.

    `skip` leaves out the packets that begin between two times: a gap.
    """
    layout = "mono" if len(sound) == 1 else "stereo"
    with av.open(str(path), "w") as output:
        audio = output.add_stream(codec, rate=RATE)
        audio.codec_context.layout = layout
        if with_video:
            video = output.add_stream("mpeg4", rate=25, width=32, height=32, pix_fmt="yuv420p")
            for index in range(round((start + sound.shape[1] / RATE) * 25)):
                picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                picture.pts, picture.time_base = index, Fraction(1, 25)
                output.mux(video.encode(picture))
            output.mux(video.encode(None))
        output.start_encoding()
        format = audio.codec_context.format.name
        size = audio.codec_context.frame_size or 1024
        for first in range(0, sound.shape[1], size):
            piece = _as_format(sound[:, first : first + size], format)
            block = av.AudioFrame.from_ndarray(piece, format=format, layout=layout)
            block.sample_rate, block.time_base = RATE, Fraction(1, RATE)
            block.pts = first + round(start * RATE)
            for packet in audio.encode(block):
                if skip is None or not skip[0] <= float(packet.pts * packet.time_base) < skip[1]:
                    output.mux(packet)
        output.mux(audio.encode(None))
    return path


def _as_format(sound: np.ndarray, format: str) -> np.ndarray:
    if format.startswith("s16"):
        sound = np.round(sound * 32767).astype(np.int16)
    elif format.startswith("s32"):
        sound = np.round(sound * 2147483000.0).astype(np.int32)
    return np.ascontiguousarray(sound if format.endswith("p") else sound.T.reshape(1, -1))


def read_times(path: Path) -> list[float]:
    """Presentation times of the decoded frames, in seconds."""
    with av.open(str(path)) as container:
        return [decoded.time for decoded in container.decode(video=0)]


def read_pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [decoded.to_ndarray(format="rgb24") for decoded in container.decode(video=0)]


def video_seconds(path: Path) -> float:
    """How long the file's video stream says it is."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return float(stream.duration * stream.time_base)


def audio_codec(path: Path) -> str | None:
    with av.open(f"file:{path.absolute()}") as container:
        streams = container.streams.audio
        return codec_name(streams[0]) if streams else None


def read_clicks(path: Path) -> tuple[list[float], float, float]:
    """`(times of the clicks, first and last moment of the sound)`, in seconds of presentation."""
    clicks: list[float] = []
    first = last = None
    quiet_since = -1.0
    with av.open(str(path)) as container:
        for block in container.decode(audio=0):
            samples = np.abs(block.to_ndarray().astype(np.float64))
            if block.format.name.startswith("s16"):
                samples /= 32767
            loud = samples.reshape(-1, block.samples).max(0) if block.format.is_planar else samples.max(0)
            rate = block.sample_rate
            first = block.time if first is None else first
            last = block.time + block.samples / rate
            for place in np.flatnonzero(loud[: block.samples] > 0.4):
                time = block.time + place / rate
                if time - quiet_since > 0.03:
                    clicks.append(time)
                quiet_since = time
    return clicks, first or 0.0, last or 0.0
