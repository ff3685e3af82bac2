"""What encodes videos: NVENC where it opens, threads of the CPU, and what happens when a GPU fails."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media import moving_squares, write_video
from writers_media import (
    audio_codec,
    click_track,
    frame,
    info,
    read_pictures,
    read_times,
    video_seconds,
    write_sound,
)

from dvis_cli.errors import OutputError
from dvis_cli.run import settings
from dvis_cli.run.placement import video_encoding
from dvis_cli.writers import video_encoder
from dvis_cli.writers.frame_pipe import FramePipe
from dvis_cli.writers.overlay_video import OverlayVideo
from dvis_cli.writers.video_encoder import Encoding

NO_SUCH_GPU = Encoding(threads=2, gpu=99)


def moving(path: Path, times: list[float], encoding: Encoding) -> OverlayVideo:
    """Noise that moves: pictures of which two threads make other bytes than one."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    video = OverlayVideo(path, info(), encoding=encoding)
    for index, time in enumerate(times):
        video.encode(np.roll(noise, (3 * index, 5 * index), (0, 1)), time)
    return video


def test_without_nvenc_two_threads_make_the_same_film(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 0.4, *(0.5 + i / 20 for i in range(6))]
    one, two = (moving(tmp_path / f"{e.threads}.mp4", times, e) for e in (Encoding(), NO_SUCH_GPU))
    assert one.encoder == two.encoder == "libx264"
    one.close(), two.close()
    assert read_times(two.path) == read_times(one.path) == pytest.approx(times, abs=1e-4)
    assert video_seconds(two.path) == video_seconds(one.path)
    for a, b in zip(read_pictures(one.path), read_pictures(two.path), strict=True):
        assert np.abs(a.astype(int) - b).mean() < 3
    assert one.path.read_bytes() != two.path.read_bytes(), "or --deterministic would be for nothing"


def test_deterministic_films_are_those_of_a_cpu(
    dvis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_video(tmp_path / "clip.mp4", moving_squares(6, 96, 160))
    run = ("segment", clip, "-m", "tiny", "--short-side", 64, "--report", "-q", "-o")
    films = {}

    def films_of(name: str, *options: str) -> None:
        code, _, err = dvis(*run, tmp_path / name, *options)
        assert code == 0, err
        folder = tmp_path / name / "clip"
        assert json.loads((folder / "segments.json").read_text())["encoder"] == "libx264"
        films[name] = [(folder / f"{one}.mp4").read_bytes() for one in ("overlay", "report")]

    films_of("cpu")
    on_gpu = torch.device("cuda:99")
    monkeypatch.setattr(settings, "video_encoding", lambda device, same: video_encoding(on_gpu, same))
    films_of("same", "--deterministic")
    films_of("gpu")
    assert films["cpu"] == films["same"] != films["gpu"]
    for path in (tmp_path / "gpu" / "clip").glob("*.mp4"):
        assert read_times(path) == pytest.approx([i / 25 for i in range(6)], abs=1e-4)


@pytest.mark.skipif("h264_nvenc" not in av.codecs_available, reason="FFmpeg without NVENC")
@pytest.mark.parametrize("live", [False, True])
def test_nvenc_is_refused_for_its_hardware_only(live: bool) -> None:
    """FFmpeg reads names and values of options before it looks for a driver."""
    nvenc = video_encoder._NVENC
    for changes, faults in (
        ({}, False),
        ({"preset": "p9"}, True),
        ({"cq": "99"}, True),
        ({"rc": "crf"}, True),
    ):
        context = av.CodecContext.create(nvenc.name, "w")
        context.options = {**nvenc.options, "gpu": "99", **(nvenc.live if live else {}), **changes}
        video_encoder._configure(context, nvenc, 640, 360, Fraction(25), 1)  # type: ignore[arg-type]
        with pytest.raises(av.FFmpegError) as caught:
            context.open()
        assert isinstance(caught.value, (av.error.ArgumentError, OverflowError)) == faults, changes


@pytest.fixture
def pretended_nvenc(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPEG-4's encoder stands for NVENC: it opens."""
    monkeypatch.setattr(video_encoder, "_NVENC", video_encoder._ENCODERS[-1])


@pytest.mark.usefixtures("pretended_nvenc")
def test_nvenc_goes_first_on_a_gpu_only(tmp_path: Path) -> None:
    for encoding, name in ((Encoding(2, 0), "mpeg4"), (Encoding(2), "libx264"), (Encoding(), "libx264")):
        video = moving(tmp_path / "overlay.mp4", [0.0, 0.1], encoding)
        assert video.encoder == name
        video.close()


@pytest.mark.usefixtures("pretended_nvenc")
def test_a_gpu_without_a_session_left_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    source = write_sound(tmp_path / "source.mp4", click_track(1.0, [0.5]), "aac")
    lost = replace(video_encoder._NVENC, options={"motion_est": "of another planet"})
    choose = video_encoder._choose
    monkeypatch.setattr(video_encoder, "_choose", lambda *a: lost if a[-1].gpu == 0 else choose(*a))
    video = OverlayVideo(tmp_path / "overlay.mp4", info(), audio_from=source, encoding=Encoding(2, 0))
    for index in range(5):
        video.add(frame(index, index / 10))
    assert video.encoder == "libx264"
    video.close()
    assert len(read_times(video.path)) == 5 and audio_codec(video.path) == "aac" and not recwarn.list


class LostGpu:
    """A stream whose encoder fails."""

    def encode(self, frame: object) -> None:
        raise av.error.ExternalError(542398533, "Generic error in an external library")


@pytest.mark.usefixtures("pretended_nvenc")
def test_a_gpu_that_fails_on_the_way_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    video = moving(tmp_path / "overlay.mp4", [0.0, 0.1], Encoding(2, 0))
    assert video._encoder is not None
    video._encoder._stream = LostGpu()  # type: ignore[assignment]
    with pytest.raises(OutputError, match=r"NVENC.*external library; --deterministic encodes on the CPU"):
        video.add(frame(2, 0.2))
    with pytest.raises(OutputError, match="--deterministic"):
        video.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("encoding", [Encoding(), NO_SUCH_GPU])
def test_nothing_waits_in_a_live_pipe(encoding: Encoding) -> None:
    file, sizes = io.BytesIO(), []
    with FramePipe(file, info(), "mpegts", encoding=encoding) as pipe:
        for index in range(5):
            pipe.add(frame(index, index / 10, 65, 49))
            sizes.append(len(file.getvalue()))
    assert min(np.diff([0, *sizes])) > 0
    with av.open(io.BytesIO(file.getvalue())) as container:
        shown = [(one.width, one.height, one.time) for one in container.decode(video=0)]
    assert [one[:2] for one in shown] == [(66, 50)] * 5
    assert [one[2] - shown[0][2] for one in shown] == pytest.approx([i / 10 for i in range(5)], abs=1e-4)
