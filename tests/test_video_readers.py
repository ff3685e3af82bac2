"""Video files read back: containers, colours, times, selection, rotation, memory, names."""

from __future__ import annotations

import os
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media import (
    moving_squares,
    number_frames,
    read_number,
    write_image_folder,
    write_video,
)
from PIL import Image

from dvis_cli.errors import DvisWarning, UsageError
from dvis_cli.video import Selection, open_video
from dvis_cli.video.clock import Clock
from dvis_cli.video.container import Decoder
from dvis_cli.video.upright import turn_of, turned

GOOD = {"preset": "ultrafast", "qp": "0"}  # H.264 without loss
B_FRAMES = {"preset": "fast", "bf": "3", "qp": "4"}


def numbers(source) -> list[int]:
    return [read_number(frame.rgb) for frame in source]


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


# --- every container -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".ts", ".h264"])
def test_every_container(tmp_path: Path, suffix: str):
    frames = moving_squares(12, 48, 64)
    path = write_video(tmp_path / f"clip{suffix}", frames, audio=suffix in (".mp4", ".mkv", ".webm", ".avi"))
    source = open_video(path)
    info = source.info
    assert (info.name, info.path, info.width, info.height) == ("clip", str(path), 64, 48)
    assert info.fps == pytest.approx(25, rel=0.01)
    assert info.has_audio == (suffix in (".mp4", ".mkv", ".webm", ".avi"))
    assert info.frames == (None if suffix == ".h264" else 12)
    read = list(source)
    assert [frame.index for frame in read] == list(range(12))
    assert [frame.pts - info.start for frame in read] == pytest.approx([i / 25 for i in range(12)], abs=1e-3)
    assert read[0].pts == info.start
    for frame, expected in zip(read, frames, strict=True):
        assert frame.rgb.dtype == np.uint8
        assert frame.rgb.flags.c_contiguous
        assert difference(frame.rgb, expected) < 20


def test_lossless_rgb_comes_back_exactly(tmp_path: Path):
    frames = moving_squares(4, 33, 47)
    path = write_video(tmp_path / "a.mkv", frames, codec="ffv1")
    for frame, expected in zip(open_video(path), frames, strict=True):
        np.testing.assert_array_equal(frame.rgb, expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 1), (31, 45)])
@pytest.mark.parametrize("suffix", [".mov", ".mp4", ".gif"])
def test_odd_and_tiny_sizes(tmp_path: Path, size: tuple[int, int], suffix: str):
    codec = "png" if suffix == ".mov" else None
    path = write_video(tmp_path / f"a{suffix}", moving_squares(2, *size), codec=codec)
    source = open_video(path)
    assert (source.info.height, source.info.width) == size
    assert [frame.rgb.shape for frame in source] == [(*size, 3)] * 2


def test_one_frame(tmp_path: Path):
    source = open_video(write_video(tmp_path / "a.mp4", number_frames(1)))
    assert source.info.frames == 1
    assert numbers(source) == [0]


def test_colours_follow_the_matrix_and_range_of_the_file(tmp_path: Path):
    """Pure colours, converted to YUV by the book (BT.709 and BT.601, limited and full range)."""
    colours = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (90, 160, 220)])
    for tag, red, blue in ((1, 0.2126, 0.0722), (6, 0.299, 0.114)):
        for full in (False, True):
            r, g, b = colours.T / 255
            y = red * r + (1 - red - blue) * g + blue * b
            u, v = (b - y) / 2 / (1 - blue), (r - y) / 2 / (1 - red)
            span = (255, 0, 255) if full else (219, 16, 224)
            planes = (span[0] * y + span[1], span[2] * u + 128, span[2] * v + 128)
            picture = av.VideoFrame(16 * len(colours), 16, "yuv444p")
            for plane, values in zip(picture.planes, planes, strict=True):
                rows = np.zeros((16, plane.line_size), np.uint8)
                rows[:, : 16 * len(colours)] = np.repeat(values.round().clip(0, 255), 16)
                plane.update(rows.tobytes())
            picture.colorspace, picture.color_range = tag, 2 if full else 1
            path = tmp_path / f"{tag}{full}.mkv"
            with av.open(str(path), "w") as container:
                stream = container.add_stream("libx264", rate=25, options=GOOD)
                stream.width, stream.height, stream.pix_fmt = picture.width, 16, "yuv444p"
                stream.codec_context.colorspace = tag
                stream.codec_context.color_range = 2 if full else 1
                container.mux([*stream.encode(picture), *stream.encode(None)])
            rgb = next(iter(open_video(path))).rgb
            np.testing.assert_allclose(rgb[8, 8::16].astype(int), colours, atol=3)


# --- times and selection ---------------------------------------------------------------------------------


def test_variable_frame_rate_keeps_its_times(tmp_path: Path):
    times = [0.0, 0.1, 0.15, 0.5, 0.52, 2.0, 2.04]
    for suffix in (".mp4", ".mkv"):
        path = write_video(tmp_path / f"a{suffix}", number_frames(7), pts=times, options=GOOD)
        source = open_video(path)
        assert [frame.pts for frame in source] == pytest.approx(times, abs=1e-3)
        assert numbers(open_video(path, Selection(start=0.15, end=2.0))) == [2, 3, 4]


CLIP = 60


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same 60 numbered frames with several keyframes, where seeking and time stamps differ."""
    folder = tmp_path_factory.mktemp("clips")
    frames = number_frames(CLIP)
    ten = {"fps": 10.0, "gop": 12}
    return [
        write_video(folder / "plain.mp4", frames, options=GOOD, **ten),
        write_video(folder / "b.mp4", frames, options=B_FRAMES, **ten),
        write_video(folder / "b.mkv", frames, options=B_FRAMES, **ten),
        write_video(folder / "late.mkv", frames, pts=[5 + i / 10 for i in range(CLIP)], options=GOOD, **ten),
        write_video(
            folder / "late.mp4", frames, pts=[5 + i / 10 for i in range(CLIP)], options=B_FRAMES, **ten
        ),
        write_video(folder / "a.avi", frames, codec="ffv1", **ten),
        write_video(folder / "b.avi", frames, codec="libx264", options=B_FRAMES, **ten),
        write_video(folder / "a.ts", frames, options=B_FRAMES, **ten),
        write_video(folder / "a.gif", frames, **ten),
        write_video(folder / "a.h264", frames, options=GOOD, **ten),
    ]


@pytest.mark.parametrize("position", range(10))
def test_selection_equals_brute_force(clips: list[Path], position: int):
    path = clips[position]
    every = list(open_video(path))
    assert len(every) == CLIP
    if path.suffix != ".gif":  # its palette moves greys
        assert [read_number(frame.rgb) for frame in every] == list(range(CLIP))
    origin, fps = every[0].pts, open_video(path).info.fps
    for start, end, stride, limit in [
        (None, None, 7, None),
        (1.2, None, 1, None),
        (2.55, 4.0, 1, None),
        (0.3, 0.4, 1, None),
        (3.0, 5.9, 4, 3),
        (None, 2.0, 3, 2),
        (5.85, None, 1, None),
    ]:
        low, high = start or 0, end or 1e9
        inside = [frame for frame in every if low - 1e-6 <= frame.pts - origin < high - 1e-6]
        expected = inside[::stride][:limit]
        selection = Selection(start, end, stride, limit)
        if not expected:
            with pytest.raises(UsageError):
                open_video(path, selection)
            continue
        source = open_video(path, selection)
        read = list(source)
        assert [f.index for f in read] == list(range(len(expected)))
        assert [f.pts for f in read] == pytest.approx([f.pts for f in expected], abs=1e-9)
        assert all(np.array_equal(f.rgb, e.rgb) for f, e in zip(read, expected, strict=True))
        assert source.info.start == pytest.approx(expected[0].pts, abs=1e-9)
        assert source.info.fps == pytest.approx(fps / stride)
        if source.info.frames is not None:
            assert abs(source.info.frames - len(expected)) <= 1


def test_iterating_again_starts_again(tmp_path: Path):
    for path in (
        write_video(tmp_path / "a.mp4", number_frames(6)),
        write_image_folder(tmp_path / "f", number_frames(6)),
    ):
        source = open_video(path, Selection(start=0.04, stride=2))
        assert numbers(source) == numbers(source) == [1, 3, 5]
        abandoned = iter(source)
        assert next(abandoned).index == 0
        assert numbers(source) == [1, 3, 5]  # two passes at once do not disturb each other


@given(
    st.floats(0, 3) | st.none(),
    st.floats(0.001, 3) | st.none(),
    st.integers(1, 5),
    st.integers(1, 9) | st.none(),
)
def test_pick_is_slicing(start, end, stride, limit):
    if end is not None and end <= (start or 0):
        return
    times = [i / 10 for i in range(20)]
    low, high = start or 0, 9 if end is None else end
    expected = [t for t in times if low - 1e-6 <= t < high - 1e-6][::stride][:limit]
    assert list(Selection(start, end, stride, limit).pick((t, t) for t in times)) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": -1.0}, "start must be a time in seconds, 0 or more, not -1.0"),
        ({"end": float("nan")}, "end must be .* not nan"),
        ({"start": 2.0, "end": 2.0}, r"end \(2 s\) must be later than start \(2 s\)"),
        ({"end": 0.0}, "must be later than start"),
        ({"stride": 0}, "stride must be 1 .* not 0"),
        ({"max_frames": 0}, "max_frames must be 1 or more, not 0"),
    ],
)
def test_selection_refuses_nonsense(values: dict, message: str):
    with pytest.raises(UsageError, match=message):
        Selection(**values)


def test_a_selection_of_nothing_says_how_long_the_video_is(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", number_frames(10), fps=10)
    with pytest.raises(UsageError, match=r"start \(7 s\) is past the end; the video is 1.000 s long"):
        open_video(path, Selection(start=7))
    with pytest.raises(UsageError, match=r"no frame from 0.12 s to 0.18 s"):
        open_video(path, Selection(start=0.12, end=0.18))
    folder = write_image_folder(tmp_path / "f", number_frames(5))
    with pytest.raises(UsageError, match=r"past the end; the video is 0.500 s long"):
        open_video(folder, Selection(start=2), folder_fps=10)


def test_clock_only_goes_forward():
    def times(stamps: list[int | None]) -> list[float]:
        clock = Clock(step=1.0)
        return [clock.seconds(stamp, Fraction(1)) for stamp in stamps]

    assert times([3, 4, 7]) == [3, 4, 7]
    assert times([None, None, None]) == [0, 1, 2]
    assert times([5, None, 7]) == [5, 6, 7]
    assert times([0, 1, 1, 2, 3]) == [0, 1, 1.5, 2, 3]  # one wrong stamp does not move the others
    assert times([100, 101, 0, 1, 2]) == [100, 101, 102, 103, 104]  # the clock started again


@given(st.lists(st.none() | st.integers(-(10**6), 10**6), max_size=40), st.floats(0.001, 10))
def test_clock_is_strictly_increasing(stamps, step):
    clock = Clock(step)
    times = [clock.seconds(stamp, Fraction(1, 30)) for stamp in stamps]
    assert all(before < after for before, after in pairwise(times))


# --- upright, square pixels, one size --------------------------------------------------------------------


def test_rotation_without_readable_side_data():
    """PyAV raises ValueError for frames that carry side data of a kind it does not know."""

    class Unlisted:
        def __init__(self, rotation: int) -> None:
            self.rotation = rotation  # anticlockwise

        @property
        def side_data(self) -> None:
            raise ValueError("99 is not a valid Type")

    rgb = moving_squares(1, 8, 12)[0]
    for rotation in (0, 90, -90, 180, -180, -89):
        shown = turned(rgb, turn_of(Unlisted(rotation)))
        np.testing.assert_array_equal(shown, np.rot90(rgb, k=round(rotation / 90)))


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation_and_mirroring(tmp_path: Path, rotation: int, mirror: bool):
    frames = moving_squares(3, 48, 64)
    path = write_video(tmp_path / "a.mp4", frames, rotation=rotation, mirror=mirror)
    source = open_video(path)
    for frame, stored in zip(source, frames, strict=True):
        shown = np.rot90(stored[:, ::-1] if mirror else stored, k=-rotation // 90)  # k counts anticlockwise
        assert frame.rgb.shape == shown.shape == (source.info.height, source.info.width, 3)
        assert frame.rgb.flags.c_contiguous
        assert difference(frame.rgb, shown) < 6


def test_sample_aspect_ratio_makes_square_pixels(tmp_path: Path):
    frames = moving_squares(2, 48, 64)
    for sar, width in ((Fraction(4, 3), 85), (Fraction(1, 2), 32), (Fraction(1), 64)):
        path = write_video(tmp_path / f"{width}.mp4", frames, sar=sar)
        source = open_video(path)
        assert (source.info.width, source.info.height) == (width, 48)
        wide = np.array(Image.fromarray(frames[0]).resize((width, 48), Image.Resampling.BILINEAR))
        assert difference(next(iter(source)).rgb, wide) < 8
    path = write_video(tmp_path / "turned.mp4", frames, sar=Fraction(2), rotation=90)
    assert (open_video(path).info.width, open_video(path).info.height) == (48, 128)


def test_a_resolution_that_changes_is_scaled_to_the_first(tmp_path: Path):
    small, large = tmp_path / "small.h264", tmp_path / "large.h264"
    write_video(small, number_frames(4, 32, 48), options=GOOD)
    write_video(large, number_frames(5, 64, 64), options=GOOD)
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    source = open_video(both)
    with pytest.warns(DvisWarning, match="resolution changes") as caught:
        read = list(source)
    assert len(caught) == 1
    assert [frame.rgb.shape for frame in read] == [(32, 48, 3)] * 9
    assert [read_number(frame.rgb) for frame in read] == [0, 1, 2, 3, 0, 1, 2, 3, 4]


# --- memory and closing ----------------------------------------------------------------------------------


def test_decodes_only_as_far_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_video(tmp_path / "a.mp4", number_frames(60))
    source = open_video(path)
    packets = []
    note = Decoder._note
    monkeypatch.setattr(Decoder, "_note", lambda self, packet: (packets.append(1), note(self, packet)))
    frames = iter(source)
    next(frames)
    assert len(packets) < 30  # a few frames for each decoding thread
    frames.close()
    packets.clear()
    assert len(list(open_video(path, Selection(max_frames=2)))) == 2
    assert len(packets) < 60


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files the Linux way")
def test_abandoned_iteration_closes_the_file(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", number_frames(20))

    def open_files() -> int:
        return [os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()].count(str(path))

    frames = iter(open_video(path))
    next(frames)
    assert open_files() == 1
    frames.close()
    assert open_files() == 0


# --- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["-i.mp4", "two words.mp4", "naïve 视频 🎬.mp4", "concat:a|b.mp4", "100%d.mp4", "a?b*[c].mp4", "x:y.mp4"],
)
def test_strange_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    write_video(tmp_path / "plain.mp4", number_frames(2)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    source = open_video(name)
    assert source.info.name == name.removesuffix(".mp4")
    assert len(list(source)) == 2


def test_names_that_are_not_unicode(tmp_path: Path):
    path = tmp_path / os.fsdecode(b"caf\xe9.mkv")
    write_video(tmp_path / "a.mkv", number_frames(2)).rename(path)
    assert len(list(open_video(path))) == 2


def test_folder_named_by_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_image_folder(tmp_path / "clip.v2", number_frames(1))
    monkeypatch.chdir(tmp_path / "clip.v2")
    assert open_video(".").info.name == "clip.v2"
