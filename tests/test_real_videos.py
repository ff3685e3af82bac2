"""Video files as cameras, broadcasters and recorders write them: rates, HDR, interlacing, tracks, encryption."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media import moving_squares, number_frames, read_number, write_video

from dvis_cli.errors import DvisWarning, UsageError, VideoError
from dvis_cli.video import Selection, open_video
from dvis_cli.video.tone_map import HLG, PQ, Colours, to_sdr

CASES = Path(__file__).parent / "data" / "cases"
GOOD = {"preset": "ultrafast", "qp": "0"}
KEY = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "0123456789abcdef0123456789abcdef",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}


def one_warning(source) -> tuple[list, str]:
    with pytest.warns(DvisWarning) as caught:
        frames = list(source)
    assert len(caught) == 1
    return frames, str(caught[0].message)


# --- rates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nominal", [1000, 600, 90000, 120])
def test_the_rate_comes_from_the_times_where_the_header_is_nominal(tmp_path: Path, nominal: int):
    """One second of 30 frames in a Matroska file that claims another duration of a frame."""
    data = bytearray((CASES / "rate1000.mkv").read_bytes())
    at = data.index(b"\x23\xe3\x83")  # DefaultDuration, in nanoseconds
    size = data[at + 3] & 0x7F
    data[at + 4 : at + 4 + size] = round(10**9 / nominal).to_bytes(size, "big")
    path = tmp_path / "rate.mkv"
    path.write_bytes(data)
    info = open_video(path).info
    assert info.fps == pytest.approx(30, abs=0.1)
    assert info.frames == 30
    assert len(list(open_video(path))) == 30  # without a warning of damage
    assert open_video(path, Selection(stride=3)).info.frames == 10


def test_a_rate_that_counts_empty_frames(tmp_path: Path):
    """AVI says 600 frames a second and has an empty one in most places."""
    path = write_video(tmp_path / "a.avi", number_frames(30), fps=600, pts=[i / 30 for i in range(30)])
    source = open_video(path)
    assert source.info.fps == pytest.approx(30, rel=0.01) and abs(source.info.frames - 30) <= 1
    assert len(list(source)) == 30


def test_uneven_times_give_their_average(tmp_path: Path):
    times = [0, 0.1, 0.2, 0.9, 1.0, 1.6, 2.0]
    for name, container in (("a.mkv", {}), ("a.mp4", {"movflags": "frag_keyframe+empty_moov"})):
        path = write_video(
            tmp_path / name, number_frames(7), fps=30, pts=times, options=GOOD, container_options=container
        )
        assert open_video(path).info.fps == pytest.approx(3, rel=0.02)


def test_the_command_shows_the_rate_of_the_times(dvis, tmp_path: Path):
    code, out, err = dvis(
        "segment", CASES / "rate1000.mkv", "-o", tmp_path, "--short-side", 32, "--overlay", "none", "--json"
    )
    assert code == 0 and "damaged" not in err
    assert not [text for text in json.loads(out)["warnings"] if "untrained" not in text]
    document = json.loads((tmp_path / "rate1000" / "segments.json").read_text())
    assert document["source"]["fps"] == pytest.approx(30, abs=0.1)


# --- colours ---------------------------------------------------------------------------------------------


def test_hdr_video_is_mapped_to_sdr():
    """Patches of 203 nit white, 18% grey, and sRGB's red, green and blue at 203 nit."""
    frames, text = one_warning(open_video(CASES / "pq.mp4"))
    patches = frames[2].rgb[32, 32::64].astype(int)
    assert "HDR PQ BT.2020" in text
    assert patches[0].min() > 225
    np.testing.assert_allclose(patches[1], 118, atol=2)
    for channel in range(3):
        assert patches[2 + channel, channel] > 225
        assert np.delete(patches[2 + channel], channel).max() < 25


def srgb(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_dark_and_middle_light_keeps_its_brightness(transfer: int):
    """Up to the knee, light on a display of 203 nit white is the light of the HDR display."""
    nit = np.geomspace(1, 140, 50)
    if transfer == PQ:
        y = (nit / 10000) ** 0.1593017578125
        code = ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375
    else:
        scene = (nit / 1000) ** (1 / 1.2)
        bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        code = np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)
    grey = np.repeat((code * 65535).round().astype(np.uint16)[None, :, None], 3, 2)
    mapped = to_sdr(grey, Colours(9, transfer))[0].astype(float)
    np.testing.assert_allclose(mapped, np.repeat(srgb(nit / 203)[:, None], 3, 1), atol=1.5)
    ramp = np.repeat(np.linspace(0, 65535, 4096).astype(np.uint16)[None, :, None], 3, 2)
    levels = to_sdr(ramp, Colours(9, transfer))[0, :, 0].astype(int)
    assert (np.diff(levels) >= 0).all() and levels[0] == 0 and levels[-1] == 255
    assert np.diff(levels).max() <= 2  # no banding


def test_wide_sdr_keeps_greys_and_widens_colours():
    greys = np.repeat(np.arange(0, 65536, 257, dtype=np.uint16)[None, :, None], 3, 2)
    for primaries in (9, 12):
        mapped = to_sdr(greys, Colours(primaries, 1))
        np.testing.assert_array_equal(mapped[0, :, 0], np.arange(256))
        muted = np.array([[[40000, 20000, 20000]]], np.uint16)
        red, green, _ = to_sdr(muted, Colours(primaries, 1))[0, 0].astype(int)
        assert red > 40000 // 257 and green < 20000 // 257
    assert (
        not Colours(1, 1).need_mapping and not Colours(2, 2).need_mapping and not Colours(6, 6).need_mapping
    )


def test_dolby_vision_without_a_base_layer_is_said(tmp_path: Path):
    path = write_video(tmp_path / "a.mp4", number_frames(3))
    data = path.read_bytes()
    entry = data.index(b"avc1", data.index(b"stsd"))
    path.write_bytes(data[:entry] + b"dva1" + data[entry + 4 :])
    assert "Dolby Vision" in one_warning(open_video(path))[1]


# --- interlacing -----------------------------------------------------------------------------------------


def combing(rgb: np.ndarray) -> float:
    """How much nearer the rows of one field are than the rows of the picture, in grey levels."""
    rows = rgb.astype(int)
    return float(np.abs(rows[1:] - rows[:-1]).mean() - np.abs(rows[2:] - rows[:-2]).mean())


def test_interlaced_frames_are_made_whole():
    frames, text = one_warning(open_video(CASES / "interlaced.mpg"))
    assert "deinterlaced" in text and len(frames) == 25
    assert np.diff([frame.pts for frame in frames]) == pytest.approx(0.04, abs=1e-4)
    for index, frame in enumerate(frames):
        assert combing(frame.rgb) < 0.5
        bar = np.flatnonzero(frame.rgb[144, :, 0] > 130)
        assert abs(bar[0] - 16 * index % 300) <= 16 and 24 <= len(bar) <= 56  # of one of its two moments


@pytest.mark.parametrize("top_first", [1, 0])
def test_only_flagged_frames_change(tmp_path: Path, top_first: int):
    """Half a film of each kind: the progressive part comes back bit for bit."""
    squares = moving_squares(16, 96, 128)
    parts = []
    for name, options in (("p", {}), ("i", {"flags": "+ildct+ilme", "top": str(top_first)})):
        path = tmp_path / f"{name}.m2v"
        parts.append(
            write_video(path, squares, codec="mpeg2video", options={**options, "b": "4M"}).read_bytes()
        )
    alone = tmp_path / "p.m2v"
    both = tmp_path / "both.m2v"
    both.write_bytes(b"".join(parts))
    plain = [frame.rgb for frame in open_video(alone)]
    frames, text = one_warning(open_video(both))
    assert len(plain) == 16 and len(frames) == 32 and "deinterlaced" in text
    assert all(np.array_equal(a, b.rgb) for a, b in zip(plain, frames[:16], strict=True))


# --- tracks ----------------------------------------------------------------------------------------------


def two_tracks(path: Path, default: int = 1) -> Path:
    """Track 0 has numbers 0.., track 1 has 20.., in another size."""
    with av.open(str(path), "w") as out:
        streams = []
        for size in (48, 96):
            stream = out.add_stream("libx264", rate=10, options=GOOD)
            stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
            streams.append(stream)
        for stream in streams:
            stream.disposition = 1 if stream is streams[default] else 0
        for i in range(6):
            for track, stream in enumerate(streams):
                rgb = number_frames(30, stream.height, stream.width)[20 * track + i]
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 10)
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("default", [0, 1])
def test_the_best_video_track_is_taken_or_the_chosen_one(dvis, tmp_path: Path, default: int):
    path = two_tracks(tmp_path / "a.mkv", default)
    frames, text = one_warning(open_video(path))
    assert [read_number(frame.rgb) for frame in frames] == [20 * default + i for i in range(6)]
    assert f"of 2 video tracks, track {default} (" in text and "--video-track" in text
    for track in (0, 1):
        source = open_video(path, Selection(video_track=track))  # chosen: no warning
        assert [read_number(frame.rgb) for frame in source] == [20 * track + i for i in range(6)]
        code, out, _ = dvis(
            "segment", path, "-o", tmp_path / f"{track}", "--video-track", track, "--max-frames", 1, "--json"
        )
        assert code == 0 and len(json.loads(out)["warnings"]) == 1  # of the untrained model
        document = json.loads((tmp_path / f"{track}" / "a" / "segments.json").read_text())
        assert document["source"]["width"] == (48, 96)[track]
    with pytest.raises(UsageError, match=r"no video track 2; it has 2, counted from 0"):
        open_video(path, Selection(video_track=2))
    with pytest.raises(UsageError, match="video_track must be 0"):
        Selection(video_track=-1)


def test_a_track_without_decoder_gives_way(tmp_path: Path):
    path = two_tracks(tmp_path / "a.mp4", default=0)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"avc1", b"zzzz", 3).replace(b"zzzz", b"avc1", 1))  # the first is the brand
    data = path.read_bytes()
    last = data.rindex(b"zzzz")
    path.write_bytes(data[:last] + b"avc1" + data[last + 4 :])
    frames, text = one_warning(open_video(path))
    assert read_number(frames[0].rgb) == 20 and "track 1 (96 x 96" in text and "no decoder" in text


# --- encrypted, unsupported ------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", ["", "frag_keyframe+empty_moov"])
def test_encrypted_mp4_is_called_encrypted(tmp_path: Path, flags: str):
    options = {**KEY, **({"movflags": flags} if flags else {})}
    path = write_video(tmp_path / "a.mp4", moving_squares(20, 48, 64), container_options=options)
    with pytest.raises(VideoError, match="it is encrypted") as caught:
        open_video(path)
    assert "damaged" not in str(caught.value)


def test_scrambled_transport_stream_is_called_encrypted(tmp_path: Path):
    path = write_video(tmp_path / "a.ts", moving_squares(40, 48, 64), options=GOOD)
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 188):
        pid = int.from_bytes(data[at + 1 : at + 3], "big") & 0x1FFF
        if pid >= 0x100 and pid < 0x1000:  # the video, not the tables
            data[at + 3] |= 0x80
            data[at + 4 : at + 188] = bytes(byte ^ 0x5A for byte in data[at + 4 : at + 188])
    path.write_bytes(data)
    with pytest.raises(VideoError, match="it is encrypted"):
        open_video(path)


def test_unsupported_codec_is_called_unsupported(tmp_path: Path):
    data = (CASES / "aac.mp4").read_bytes()
    at = data.index(b"avc1", data.index(b"stsd"))
    (tmp_path / "a.mp4").write_bytes(data[:at] + b"zzzz" + data[at + 4 :])
    with pytest.raises(VideoError, match=r"unsupported: its video codec has no decoder here; convert it"):
        open_video(tmp_path / "a.mp4")
