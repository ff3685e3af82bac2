"""Recorded numbers on a real GPU, in fp32; skipped where there is none (`tests/benchmarks/gpu.sh`)."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from deformable_cases import LEVELS, PUBLISHED, STRIDES, case, published
from goldens import GEOMETRY, Golden, error

from dvis_cli.layers import deformable
from dvis_cli.layers.deformable import attend, by_rows
from dvis_cli.run.placement import forbid_tf32
from dvis_cli.run.settings import RunSettings
from dvis_cli.run.video import SegmentedVideo
from dvis_cli.structures import Frame, VideoInfo, View
from dvis_cli.video.views import preprocess_views

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


# --- deformable attention ---------------------------------------------------------------------------------


@pytest.fixture
def inference() -> Iterator[None]:
    """No gradients, and after the test no errors of `set_sync_debug_mode`."""
    with torch.inference_mode():
        yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_kernel_gives_what_rows_give(name: str, batch: int, inference: None) -> None:
    one = published(name, batch, CUDA)
    exact = by_rows(one[0].float(), *one[1:])
    ours = attend(*one)
    assert deformable._PROVED and not deformable._REFUSED, "the kernel was not used"
    assert ours.dtype == one[0].dtype
    assert error(ours.float().cpu(), exact.cpu().numpy()) < (
        TOLERANCE if ours.dtype == torch.float32 else 2**-7
    )


@pytest.mark.parametrize("channels", [1, 16, 24, 64])
def test_the_kernel_at_the_border(channels: int, inference: None) -> None:
    *tensors, sizes, heads = case(LEVELS, 3, channels, 3)
    expected = by_rows(*tensors, sizes, heads)
    ours = attend(*(one.to(CUDA) for one in tensors), sizes, heads)
    assert not deformable._REFUSED and error(ours.cpu(), expected.numpy()) < TOLERANCE


def test_the_kernel_makes_nobody_wait_and_can_be_captured(inference: None) -> None:
    one = published("the same in bf16", 2, CUDA)
    expected = attend(*one)
    torch.cuda.set_sync_debug_mode("error")
    again = attend(*one)
    torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = attend(*one)
    graph.replay()
    assert torch.equal(again, expected) and torch.equal(captured, expected)


def test_offsets_beyond_31_bits(inference: None) -> None:
    heads, channels, points, sizes = 8, 1, 4, STRIDES
    samples = heads * points * len(sizes)
    count = 2**31 // (2 * samples) + 100
    if torch.cuda.mem_get_info()[0] < 16e9:
        pytest.skip("needs 16 GB of free memory")
    shapes = (
        (1, sum(h * w for h, w in sizes), heads * channels),
        (1, count, 2 * samples),
        (1, count, samples),
    )
    values, offsets, logits = (torch.randn(shape, dtype=torch.bfloat16, device=CUDA) for shape in shapes)
    reference = torch.rand(count, 1, 2, device=CUDA)
    ours = attend(values, offsets, reference, logits, sizes, heads)[:, -50:]
    last = by_rows(values.float(), offsets[:, -50:], reference[-50:], logits[:, -50:], sizes, heads)
    assert error(ours.float().cpu(), last.cpu().numpy()) < 2**-7
