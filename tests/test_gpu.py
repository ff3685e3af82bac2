"""Recorded numbers on a real GPU, in fp32; skipped where there is none (`tests/benchmarks/gpu.sh`)."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from goldens import GEOMETRY, Golden, error
from writers_media import frame, info, read_pictures, read_times, video_seconds

from dvis_cli.errors import DvisWarning
from dvis_cli.run.compiled import CompiledSegmenter
from dvis_cli.run.placement import forbid_tf32, video_encoding
from dvis_cli.run.settings import RunSettings
from dvis_cli.run.video import SegmentedVideo
from dvis_cli.structures import Frame, VideoInfo, View
from dvis_cli.video.views import preprocess_views
from dvis_cli.writers.overlay_video import OverlayVideo

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NETWORKS = ("r50", "swin", "plus_vit", "videomt")
CUDA = torch.device("cuda")
TOLERANCE = 1e-4  # of the largest value: sums in another order
ALLOWED_PIXELS = 10


@pytest.fixture(params=NETWORKS)
def golden(request: pytest.FixtureRequest) -> Golden:
    forbid_tf32()
    one = Golden.load(request.param)
    return Golden(one.name, copy.deepcopy(one.model).to(CUDA), one.stages, one.final, one.facts)


def video(golden: Golden, settings: RunSettings) -> SegmentedVideo:
    views = [View(GEOMETRY)]
    source = [
        (Frame(i, i / 10, rgb), preprocess_views(rgb, views, device=CUDA))
        for i, rgb in enumerate(golden.frames)
    ]
    info = VideoInfo("golden", "golden", 150, 90, 10.0, None, None, False)
    return SegmentedVideo(info, source, golden.model, views, settings)


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("room", [0, 2**30])
def test_recorded_maps(golden: Golden, mode: str, room: int) -> None:
    name = f"{mode}.vps" if golden.name != "videomt" else "vps"
    if golden.name == "videomt" and mode == "offline":
        pytest.skip("VidEoMT has no refiner")
    one = video(golden, RunSettings(mode, batch=3, device_budget=room, memory_budget=0))
    ids = np.stack([frame.ids for frame in one])
    infos = golden.facts[name]["segments_infos"]
    assert [segment.id for segment in one.segments] == [info["id"] for info in infos]
    assert (ids != golden.final[f"{name}.pan"]).sum() <= ALLOWED_PIXELS


@pytest.mark.slow
def test_recorded_maps_compiled(golden: Golden) -> None:
    """The features of all frames wait on the device: a CUDA graph that was replayed has not written to them."""
    golden.model.compiled = CompiledSegmenter(golden.model.segmenter)
    settings = RunSettings("online", batch=1, device_budget=2**30, memory_budget=0)
    expected = golden.final["vps.pan" if golden.name == "videomt" else "online.vps.pan"]
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error", DvisWarning)
            ids = np.stack([frame.ids for frame in video(golden, settings)])
        assert (ids != expected).sum() <= ALLOWED_PIXELS


def test_recorded_mask_features(golden: Golden) -> None:
    frames = torch.stack([inputs[0] for _, inputs in golden.source()])
    if "mask_features" not in golden.stages:
        pytest.skip("not recorded")
    with torch.inference_mode():
        features = golden.model.segment(frames.to(CUDA)).mask_features.cpu()
    some = golden.stages.get("frames", np.arange(len(golden.frames)))
    assert error(features[some], golden.stages["mask_features"]) < TOLERANCE


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_bf16_runs_every_task(golden: Golden, task: str) -> None:
    golden.model.precision = "bf16"
    settings = RunSettings(golden.model.config.mode, task, batch=2, device_budget=2**30)
    one = video(golden, settings)
    assert len(list(one)) == len(golden.frames) and one.segments


def test_the_overlay_is_whole_with_nvenc_or_without(tmp_path: Path) -> None:
    """An H100 has no NVENC, other GPUs do: both write a film of the right length."""
    video = OverlayVideo(tmp_path / "overlay.mp4", info(fps=25.0), encoding=video_encoding(CUDA, False))
    times = [index / 25 for index in range(60)]
    drawn = [video.draw(frame(index, time, 640, 360)) for index, time in enumerate(times)]
    for picture, time in zip(drawn, times, strict=True):
        video.encode(picture, time)
    assert video.encoder in ("h264_nvenc", "libx264")
    print(video.encoder)
    video.close()
    assert read_times(video.path) == pytest.approx(times, abs=1e-4)
    assert video_seconds(video.path) == pytest.approx(60 / 25, abs=2e-3)
    for shown, picture in zip(read_pictures(video.path), drawn, strict=True):
        assert np.median(np.abs(shown.astype(int) - picture)) <= 4
