"""What cannot be read as video, or only in part: one clear line each."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from media import (
    moving_squares,
    number_frames,
    read_number,
    truncate,
    write_audio,
    write_video,
)

from dvis_cli.errors import DvisWarning, VideoError
from dvis_cli.video import Selection, open_video

GOOD = {"preset": "ultrafast", "qp": "0"}  # H.264 without loss
B_FRAMES = {"preset": "fast", "bf": "3", "qp": "4"}


def numbers(source) -> list[int]:
    return [read_number(frame.rgb) for frame in source]


def test_missing_path(tmp_path: Path):
    with pytest.raises(VideoError, match="no such file or folder; check the path"):
        open_video(tmp_path / "nope.mp4")
    with pytest.raises(VideoError, match=r"https://x/a\.mp4.* addresses are not opened"):
        open_video("https://x/a.mp4")
    for hostile in ("concat:a.mp4|b.mp4", "img%03d.png", "pipe:0", "a\0b", "x" * 5000):
        with pytest.raises(VideoError):
            open_video(hostile)


def test_empty_text_noise_and_lists(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    clip = write_video(tmp_path / "real.mp4", number_frames(2))
    cases = {
        "empty.mp4": (b"", r"is empty \(0 bytes\)"),
        "text.mp4": (b"hello world\n" * 300, "is not a video"),
        "notes.txt": (b"hello world\n" * 300, "is not a video"),
        "noise.mp4": (np.random.default_rng(0).bytes(50_000), "is not a video"),
        "list.mp4": (f"ffconcat version 1.0\nfile {clip.name}\n".encode(), "is not a video"),
        "list.m3u8": (f"#EXTM3U\n#EXTINF:1,\n{clip.name}\n#EXT-X-ENDLIST\n".encode(), "is not a video"),
        "empty.png": (b"", "is empty"),
        "text.png": (b"hello", "is not an image that can be read"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoError, match=message) as caught:
            open_video(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)
    assert capfd.readouterr().err == ""


def test_audio_only(tmp_path: Path):
    for suffix in (".m4a", ".wav", ".mp3"):
        with pytest.raises(VideoError, match="holds only sound"):
            open_video(write_audio(tmp_path / f"a{suffix}"))


def test_header_without_frames(tmp_path: Path):
    path = write_video(tmp_path / "a.mov", moving_squares(2, 64, 64), codec="png")
    path.write_bytes(path.read_bytes().replace(b"IHDR", b"????"))
    with pytest.raises(VideoError, match="no frame can be decoded"):
        open_video(path)


def test_device_or_pipe(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="device or a pipe"):
        open_video(tmp_path / "pipe.mp4")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", number_frames(1))
    path.chmod(0)
    with pytest.raises(VideoError, match="cannot be read: Permission denied"):
        open_video(path)


def test_refused_by_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_video(tmp_path / "a.mp4", number_frames(1))

    def refuse(*_args: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(VideoError, match="cannot be read: Permission denied; check its permissions"):
        open_video(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi"])
def test_truncated_file_keeps_what_decodes(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]):
    faststart = {"movflags": "faststart"} if suffix == ".mp4" else {}
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    path = write_video(tmp_path / f"a{suffix}", list(noise), container_options=faststart)
    truncate(path, 0.7)
    source = open_video(path)
    with pytest.warns(DvisWarning, match=r"cut short: \d+ of about 20 frames") as caught:
        read = list(source)
    assert len(caught) == 1
    assert 8 <= len(read) < 20
    assert f"{len(read)} of about 20" in str(caught[0].message)
    assert capfd.readouterr().err == ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(open_video(path, Selection(end=0.16)))) == 4  # that part is whole


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.97])
def test_mp4_without_its_index(tmp_path: Path, keep: float):
    path = truncate(write_video(tmp_path / "a.mp4", moving_squares(30, 64, 64)), keep)
    with pytest.raises(VideoError, match="incomplete mp4/mov file"):
        open_video(path)


def test_damage_in_the_middle_is_reported(tmp_path: Path):
    path = write_video(tmp_path / "a.mov", moving_squares(10, 64, 64), codec="png")
    data = bytearray(path.read_bytes())
    starts = [i for i in range(len(data)) if data[i : i + 4] == b"IHDR"]
    data[starts[4] : starts[4] + 4] = b"????"
    path.write_bytes(data)
    with pytest.warns(DvisWarning, match="9 of about 10 frames could be read"):
        assert len(list(open_video(path))) == 9


def test_trimmed_and_long_last_frames_are_not_damage(tmp_path: Path):
    """An edit list that hides frames, and a last frame that is shown for long, are whole files."""
    path = write_video(tmp_path / "edited.mp4", number_frames(50), options=B_FRAMES)
    data = bytearray(path.read_bytes())
    struct.pack_into(">I", data, data.index(b"elst") + 12, 1000)  # show 1 s of 2 s
    path.write_bytes(data)
    assert numbers(open_video(path)) == list(range(25))
    assert open_video(path).info.frames == 25
    write_video(tmp_path / "slides.mp4", number_frames(3), pts=[0, 4, 5], options=GOOD)
    assert len(list(open_video(tmp_path / "slides.mp4"))) == 3


def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path: Path):
    def claim(width: int, height: int) -> bytes:
        """A GIF that claims a size and holds one pixel."""
        pixel = b"\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\x00\x02\x02\x44\x01\x00\x3b"
        return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff" + pixel

    (tmp_path / "a.gif").write_bytes(claim(60000, 60000))
    with pytest.raises(VideoError, match="67 megapixels"):
        open_video(tmp_path / "a.gif")
    path = write_video(tmp_path / "a.avi", number_frames(2), codec="ffv1")
    data = bytearray(path.read_bytes())
    at = data.index(b"strf") + 8  # BITMAPINFOHEADER: its size, then width and height
    struct.pack_into("<ii", data, at + 4, 60000, 60000)
    path.write_bytes(data)
    with pytest.raises(VideoError, match="67 megapixels"):
        open_video(path)
    bmp = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
    for width, height in ((10_000, 9_000), (60_000, 60_000)):
        header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        (tmp_path / "a.bmp").write_bytes(bmp + header)
        with pytest.raises(VideoError, match="its header claims"):
            open_video(tmp_path / "a.bmp")


OPENINGS = """
import sys, av
from dvis_cli.video import open_video
av.logging.set_level(av.logging.ERROR)
for _ in range(5):
    open_video(sys.argv[1])
"""


def test_decoder_threads_that_report_errors_do_not_hang_the_close(tmp_path: Path):
    """Another library may have turned FFmpeg's messages on: torchvision before 0.26 does."""
    clip = write_video(tmp_path / "cut.mkv", moving_squares(40, 32, 40), fps=10)
    truncate(clip, 0.6)  # the first frame can be read; threads are at work on the broken ones at the close
    subprocess.run([sys.executable, "-c", OPENINGS, str(clip)], check=True, timeout=300)
