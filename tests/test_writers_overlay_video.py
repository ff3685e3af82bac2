"""The overlay file, measured by decoding it."""

from __future__ import annotations

import os
import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from writers_media import (
    audio_codec,
    click_track,
    frame,
    info,
    read_clicks,
    read_pictures,
    read_times,
    video_seconds,
    write_sound,
)

from dvis_cli.errors import DvisWarning, OutputError
from dvis_cli.writers import video_encoder
from dvis_cli.writers.overlay import draw_overlay
from dvis_cli.writers.overlay_video import OverlayVideo

CASES = Path(__file__).parent / "data" / "cases"
CLICKS = [0.1 + 0.5 * index for index in range(6)]


def overlay(
    path: Path, times: list[float], audio_from: Path | None = None, fps: float = 10.0, **options: object
) -> Path:
    style = options.pop("style", "blend")
    video = OverlayVideo(path, info(fps=fps), style, audio_from)  # type: ignore[arg-type]
    for index, time in enumerate(times):
        video.add(frame(index, time, **options))  # type: ignore[arg-type]
    video.close()
    return path


@pytest.mark.parametrize(
    "times",
    [
        [index / 25 for index in range(20)],
        [index * 1001 / 30000 for index in range(20)],
        [5.0, 5.04, 5.1, 5.9, 5.91, 6.5],  # variable, and not from 0
        [index * 0.4 for index in range(10)],  # stride
        [7.5],
    ],
    ids=["25", "29.97", "variable", "stride", "one"],
)
def test_frame_times_are_the_sources(tmp_path: Path, times: list[float]) -> None:
    fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 10.0
    path = overlay(tmp_path / "overlay.mp4", times, fps=fps)
    assert read_times(path) == pytest.approx([time - times[0] for time in times], abs=1e-4)
    assert video_seconds(path) == pytest.approx(times[-1] - times[0] + 1 / fps, abs=2e-3)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
    head = path.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat"), "playable while it loads"


def test_times_that_do_not_grow_are_kept_apart(tmp_path: Path) -> None:
    times = read_times(overlay(tmp_path / "overlay.mp4", [0.0, 0.1, 0.1, 0.05, 0.2]))
    assert len(times) == 5 and times == sorted(set(times))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 9), (9, 1), (65, 49), (64, 48)])
@pytest.mark.parametrize("style", ["blend", "side-by-side"])
def test_odd_sizes_are_padded(tmp_path: Path, width: int, height: int, style: str) -> None:
    path = overlay(tmp_path / "overlay.mp4", [0.0, 0.1], width=width, height=height, style=style)
    pictures = read_pictures(path)
    wide = width * 2 if style == "side-by-side" else width
    assert [picture.shape for picture in pictures] == [(height + height % 2, wide + wide % 2, 3)] * 2


def test_colours_survive_encoding(tmp_path: Path) -> None:
    path = overlay(tmp_path / "overlay.mp4", [0.0, 0.1], width=320, height=240, style="masks")
    one = frame(1, 0.1, 320, 240)
    drawn = draw_overlay(one.rgb, one.ids, one.segments, "masks").astype(int)
    # Away from edges: half resolution chroma softens those.
    decoded = read_pictures(path)[1].astype(int)
    assert np.median(np.abs(decoded - drawn)) <= 4
    assert not decoded[10, 10].max() > 8, "void is black"


def test_a_frame_of_another_size_is_fitted(tmp_path: Path) -> None:
    video = OverlayVideo(tmp_path / "overlay.mp4", info())
    video.add(frame(0, 0.0, 64, 48))
    video.add(frame(1, 0.1, 100, 30))
    video.close()
    assert [picture.shape for picture in read_pictures(video.path)] == [(48, 64, 3)] * 2


@pytest.mark.parametrize(
    ("codec", "ending", "expected"),
    [
        ("aac", "mp4", "aac"),
        ("aac", "ts", "aac"),
        ("libmp3lame", "mp4", "mp3"),
        ("ac3", "mkv", "ac3"),
        ("alac", "mov", "alac"),
        ("pcm_s16le", "mkv", "aac"),
        ("mp2", "mkv", "aac"),
    ],
)
@pytest.mark.parametrize(("start", "step", "count"), [(0.0, 0.1, 25), (1.3, 0.3, 5)])
def test_sound_is_kept_in_sync(
    tmp_path: Path, codec: str, ending: str, expected: str, start: float, step: float, count: int
) -> None:
    source = write_sound(tmp_path / f"source.{ending}", click_track(3.2, CLICKS), codec)
    zero = read_times(source)[0]  # an mpeg transport stream does not begin at 0
    times = [zero + start + index * step for index in range(count)]
    path = overlay(tmp_path / "overlay.mp4", times, source, fps=1 / step)
    assert audio_codec(path) == expected
    clicks, first, last = read_clicks(path)
    true = [click - zero - start for click in read_clicks(source)[0]]
    assert clicks == pytest.approx([click for click in true if 0 <= click < count * step - 0.01], abs=0.003)
    assert first == pytest.approx(0.0, abs=0.001)
    assert last == pytest.approx(count * step, abs=0.1)
    assert read_times(path) == pytest.approx([time - times[0] for time in times], abs=1e-4)


@pytest.mark.parametrize(("codec", "ending"), [("aac", "mp4"), ("pcm_s16le", "mkv")])
def test_late_sound_and_gaps_stay_in_place(tmp_path: Path, codec: str, ending: str) -> None:
    times = [index / 10 for index in range(30)]
    late = write_sound(tmp_path / f"late.{ending}", click_track(2.2, CLICKS), codec, start=0.7)
    clicks, _, _ = read_clicks(overlay(tmp_path / "late_overlay.mp4", times, late))
    assert clicks == pytest.approx([0.8, 1.3, 1.8, 2.3, 2.8], abs=0.003)
    gap = write_sound(tmp_path / f"gap.{ending}", click_track(3.2, CLICKS), codec, skip=(1.2, 2.2))
    clicks, _, _ = read_clicks(overlay(tmp_path / "gap_overlay.mp4", times, gap))
    assert clicks == pytest.approx([0.1, 0.6, 1.1, 2.6], abs=0.003)


def test_a_source_without_sound_gives_none_and_no_warning(tmp_path: Path) -> None:
    silent = overlay(tmp_path / "silent.mp4", [0.0, 0.1])
    assert audio_codec(overlay(tmp_path / "overlay.mp4", [0.0, 0.1], silent)) is None


@pytest.mark.parametrize(
    ("codec", "ending"), [("aac", "ts"), ("mp2", "ts"), ("libmp3lame", "avi"), ("aac", "mp4")]
)
@pytest.mark.parametrize("damage", ["noise", "cut", "gone"])
def test_broken_sound_does_not_stop_the_picture(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, codec: str, ending: str, damage: str
) -> None:
    source = write_sound(tmp_path / f"source.{ending}", click_track(3.0, CLICKS), codec)
    data = bytearray(source.read_bytes())
    if damage == "noise":
        dice = random.Random(1)
        for _ in range(len(data) // 100):
            data[dice.randrange(len(data))] = dice.randrange(256)
    source.write_bytes({"noise": data, "cut": data[: len(data) // 2], "gone": b""}[damage])
    messages: list[str] = []
    video = OverlayVideo(tmp_path / "overlay.mp4", info(), "blend", source, messages.append)
    for index in range(25):
        video.add(frame(index, index / 10))
    video.close()
    assert len(read_times(video.path)) == 25 and video_seconds(video.path) == pytest.approx(2.5, abs=0.01)
    assert len(messages) <= 1 and (damage != "gone" or len(messages) == 1)
    assert not recwarn.list


def test_dropped_sound_warns_by_default(tmp_path: Path) -> None:
    with pytest.warns(DvisWarning, match="sound of clip"):
        overlay(tmp_path / "overlay.mp4", [0.0], tmp_path / "missing.mp4")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux takes cores away")
def test_the_same_bytes_on_any_number_of_cores(tmp_path: Path) -> None:
    all_cores = os.sched_getaffinity(0)
    try:
        overlay(tmp_path / "many.mp4", [i / 10 for i in range(5)], width=512, height=384)
        os.sched_setaffinity(0, {min(all_cores)})
        overlay(tmp_path / "one.mp4", [i / 10 for i in range(5)], width=512, height=384)
    finally:
        os.sched_setaffinity(0, all_cores)
    assert (tmp_path / "many.mp4").read_bytes() == (tmp_path / "one.mp4").read_bytes()


def test_without_h264_the_next_encoder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_encoder, "_ENCODERS", video_encoder._ENCODERS[-1:])
    times = [0.0, 0.1, 0.15, 0.9]
    path = overlay(tmp_path / "overlay.mp4", times)
    assert read_times(path) == pytest.approx(times, abs=1e-3)
    monkeypatch.setattr(video_encoder, "_ENCODERS", ())
    with pytest.raises(OutputError, match="turn the overlay off"):
        overlay(tmp_path / "none.mp4", times)


def test_what_cannot_be_encoded_or_written_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="20000x2"):
        overlay(tmp_path / "overlay.mp4", [0.0], width=20000, height=2)
    with pytest.raises(OutputError, match="cannot write"):
        overlay(tmp_path / "missing" / "overlay.mp4", [0.0])


def test_abort_leaves_no_file(tmp_path: Path) -> None:
    source = write_sound(tmp_path / "source.mp4", click_track(1.0, [0.5]), "aac")
    video = OverlayVideo(tmp_path / "overlay.mp4", info(), "blend", source)
    for index in range(5):
        video.add(frame(index, index / 10))
    video.abort()
    video.abort()
    assert [path.name for path in tmp_path.iterdir()] == ["source.mp4"]
    OverlayVideo(tmp_path / "overlay.mp4", info()).close()  # no frames: no file
    assert [path.name for path in tmp_path.iterdir()] == ["source.mp4"]


# --- tracks that cannot be read, and hostile names ---------------------------------------------------------


def overlay_with_warnings(
    folder: Path, source: Path, name: str = "overlay.mp4"
) -> tuple[str | None, list[str]]:
    """(codec of the sound in the overlay of a few frames of `source`, warnings)."""
    told: list[str] = []
    video = OverlayVideo(folder / name, info(), "blend", source, told.append)
    for index in range(5):
        video.add(frame(index, index / 10))
    video.close()
    return audio_codec(folder / name), told


@pytest.mark.parametrize("codec", [b"ac-4", b"mhm1", b"zzzz"])
def test_sound_without_a_decoder_leaves_the_overlay_silent(tmp_path: Path, codec: bytes) -> None:
    data = bytearray((CASES / "aac.mp4").read_bytes())
    entry = data.index(b"mp4a", data.index(b"soun"))
    data[entry : entry + 4] = codec
    configuration = data.index(b"esds", entry)
    data[configuration : configuration + 4] = b"free"
    (tmp_path / "a.mp4").write_bytes(data)
    sound, told = overlay_with_warnings(tmp_path, tmp_path / "a.mp4")
    assert sound is None and len(told) == 1
    assert "there is none in the overlay" in told[0] and "no decoder" in told[0]


def test_another_track_is_taken_when_the_best_has_no_decoder(tmp_path: Path) -> None:
    sound, told = overlay_with_warnings(tmp_path, CASES / "two_audio.mp4")
    assert sound == "aac" and len(told) == 1 and "audio track 1 (from 0) of 2" in told[0]


@pytest.mark.parametrize("default", [0, 1])
def test_the_best_of_several_audio_tracks_is_taken(tmp_path: Path, default: int) -> None:
    """By FFmpeg's rule: a default track before others."""
    source = tmp_path / "two.mkv"
    with av.open(str(source), "w") as output:
        streams = [output.add_stream(name, rate=48000, layout="mono") for name in ("aac", "flac")]
        for stream in streams:
            stream.disposition = 1 if stream is streams[default] else 0
        for first in range(0, 24576, 1024):
            for stream in streams:
                kind = stream.codec_context.format.name
                samples = np.zeros((1, 1024), np.float32 if kind == "fltp" else np.int16)
                block = av.AudioFrame.from_ndarray(samples, format=kind, layout="mono")
                block.sample_rate, block.pts, block.time_base = 48000, first, Fraction(1, 48000)
                output.mux(stream.encode(block))
        for stream in streams:
            output.mux(stream.encode(None))
    sound, told = overlay_with_warnings(tmp_path, source)
    assert sound == ("aac", "flac")[default]
    assert len(told) == 1 and f"audio track {default} (from 0) of 2" in told[0]


def test_encrypted_sound_is_left_out_and_called_so(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "01" * 16, "encryption_kid": "23" * 16}
    with av.open(str(source), "w", container_options=key) as output, av.open(str(CASES / "aac.mp4")) as plain:
        stream = output.add_stream_from_template(plain.streams.audio[0])
        for packet in plain.demux(audio=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    sound, told = overlay_with_warnings(tmp_path, source)
    assert sound is None and len(told) == 1 and "encrypted" in told[0]


@pytest.mark.parametrize(
    "name", ["2024-05-01T12:30:45.mp4", "file:a.mp4", "a%03d?*.mp4", "-i.mp4", "con.mp4", "x|y.mp4"]
)
def test_sound_of_any_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare relative name is a name: no protocol, no pattern, no option; for the overlay, too."""
    (tmp_path / name).write_bytes((CASES / "aac.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    for source in (Path(name), tmp_path / name):
        assert overlay_with_warnings(Path(), source, f"o:{name}") == ("aac", [])
