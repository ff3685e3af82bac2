"""Small real media for the tests: every file is encoded on the spot, none is shipped.

Frames are `(height, width, 3)` uint8 RGB arrays, times are seconds.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer

CODEC_OF_SUFFIX = {
    ".mp4": "libx264",
    ".mov": "libx264",
    ".mkv": "libx264",
    ".ts": "libx264",
    ".h264": "libx264",
    ".webm": "libvpx-vp9",
    ".avi": "mpeg4",
    ".gif": "gif",
}
AUDIO_OF_SUFFIX = {".webm": "libopus", ".avi": "pcm_s16le", ".wav": "pcm_s16le", ".mp3": "libmp3lame"}
FAST = {"libx264": {"preset": "ultrafast"}, "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}}
# The 2x2 part (a, b, c, d) of the matrix in an mp4 track header: stored point (x, y) is shown at
# (a x + c y, b x + d y), y pointing down. Keys: degrees clockwise from the stored to the shown picture.
TURNS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
MIRROR = (-1, 0, 0, 1)


def moving_squares(n: int, h: int, w: int) -> list[np.ndarray]:
    """`n` RGB frames: a red and a blue square move over a grey ramp, so no two frames are equal.

    The top left corner is green: it tells which way up a picture is.
    """
    ramp = np.linspace(40, 200, w, dtype=np.float32)[None, :, None] + np.linspace(-30, 30, h)[:, None, None]
    side = max(1, min(h, w) // 4)
    frames = []
    for i in range(n):
        frame = np.repeat(ramp, 3, axis=2).clip(0, 255).astype(np.uint8)
        x, y = (3 * i + side) % max(1, w - side), (2 * i + h // 2) % max(1, h - side)
        frame[y : y + side, x : x + side] = (220, 30, 30)
        frame[h - y - side : h - y, w - x - side : w - x] = (30, 30, 220)
        frame[:side, :side] = (20, 200, 20)
        frames.append(frame)
    return frames


def number_frames(n: int, h: int = 16, w: int = 16) -> list[np.ndarray]:
    """`n` flat grey frames that carry their number: `read_number` finds it after any codec (n <= 60)."""
    return [np.full((h, w, 3), 8 + 4 * i, dtype=np.uint8) for i in range(n)]


def read_number(rgb: np.ndarray) -> int:
    """The number that `number_frames` put into a frame."""
    return round((float(rgb.mean()) - 8) / 4)


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    fps: float = 25.0,
    codec: str | None = None,
    pts: Sequence[float] | None = None,
    audio: bool = False,
    rotation: int = 0,
    mirror: bool = False,
    sar: Fraction | None = None,
    pix_fmt: str | None = None,
    gop: int = 12,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode `frames` into the container that the suffix of `path` names, and return `path`.

    `pts`: a time in seconds per frame (then `fps` is only the nominal rate). `rotation`: degrees
    clockwise that a player turns the stored picture (mp4 and mov only); `mirror`: left and right
    exchanged as well, before the turn. `audio` adds a tone of the video's length.
    """
    codec = codec or CODEC_OF_SUFFIX[path.suffix]
    height, width = frames[0].shape[:2]
    even = height % 2 == 0 and width % 2 == 0
    if pix_fmt is None:
        pix_fmt = {"gif": "rgb8", "ffv1": "bgr0", "png": "rgb24", "libx264rgb": "rgb24"}.get(codec)
        pix_fmt = pix_fmt or ("yuv420p" if even or codec == "mpeg4" else "yuv444p")
    rate = Fraction(fps).limit_denominator(100000)
    tick = Fraction(1, 100) if codec == "gif" else Fraction(1, 90000)
    if pts is None or codec == "mpeg4":
        tick = 1 / rate
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options={**FAST.get(codec, {}), **(options or {})})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = tick
        stream.codec_context.gop_size = gop
        if sar is not None:
            stream.codec_context.sample_aspect_ratio = sar
        tone = _add_tone(container, path) if audio else None
        for i, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.pts = i if pts is None else round(Fraction(pts[i]) / tick)
            frame.time_base = tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone is not None:
            _encode_tone(container, tone, len(frames) / float(rate) if pts is None else pts[-1] + 1 / fps)
    if rotation or mirror:
        _patch_display_matrix(path, rotation, mirror)
    return path


def write_audio(path: Path, seconds: float = 0.5) -> Path:
    """A file with a tone and no picture."""
    with av.open(str(path), "w") as container:
        _encode_tone(container, _add_tone(container, path), seconds)
    return path


def _add_tone(container: OutputContainer, path: Path) -> AudioStream:
    stream = container.add_stream(AUDIO_OF_SUFFIX.get(path.suffix, "aac"), rate=48000)
    stream.codec_context.layout = "mono"
    return stream


def _encode_tone(container: OutputContainer, stream: AudioStream, seconds: float) -> None:
    rate, chunk = 48000, 960
    for first in range(0, max(chunk, int(seconds * rate)), chunk):
        wave = np.sin((first + np.arange(chunk)) * (2 * np.pi * 440 / rate)) * 8000
        frame = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _patch_display_matrix(path: Path, rotation: int, mirror: bool) -> None:
    """Write the matrix into the video's track header box by hand, as ISO/IEC 14496-12 lays it out."""
    a, b, c, d = TURNS[rotation]
    if mirror:  # mirrored first, then turned: the matrices multiply as row vectors
        e, f, g, h = MIRROR
        a, b, c, d = e * a + f * c, e * b + f * d, g * a + h * c, g * b + h * d
    data = bytearray(path.read_bytes())
    box = data.index(b"tkhd") + 4  # the video is the first track that write_video adds
    matrix = box + (52 if data[box] == 1 else 40)  # version 1 has 64-bit times
    one = 1 << 16
    struct.pack_into(">9i", data, matrix, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def write_image_folder(
    folder: Path, frames: Sequence[np.ndarray], suffix: str = ".png", name: str = "frame{}"
) -> Path:
    """One image file a frame, numbered from 0 without leading zeros, so that only natural sort is right."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, rgb in enumerate(frames):
        ok, data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        assert ok
        (folder / f"{name.format(i)}{suffix}").write_bytes(data.tobytes())
    return folder


def truncate(path: Path, keep: float) -> Path:
    """Cut the file, keeping the first `keep` (0..1) of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path
