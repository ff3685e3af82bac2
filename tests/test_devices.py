"""What a run does on a GPU, without one: where tensors are, how often the host waits; and its ways give the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from unittest.mock import patch

import numpy as np
import pytest
import torch
from goldens import GEOMETRY, Golden
from pretended import pretended_gpu

from dvis_cli.checkpoints.registry import known_model
from dvis_cli.coco_masks import decode
from dvis_cli.config import ModelConfig, TaskName
from dvis_cli.errors import DvisWarning
from dvis_cli.run.features import Features
from dvis_cli.run.loading import categories_of
from dvis_cli.run.model import DvisModel
from dvis_cli.run.scales import Scales
from dvis_cli.run.settings import RunSettings, task_for
from dvis_cli.segmenter import videomt
from dvis_cli.structures import Frame, Geometry, View
from dvis_cli.tasks import instance, panoptic, semantic
from dvis_cli.video import views
from dvis_cli.video.preprocess import PIXEL_STD, plan_geometry, preprocess, preprocess_there

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ALLOWED_PIXELS = 5
WAITS, BYTES = 4, 12e6  # a frame, at the most
NETWORKS = {
    "R50": "offline-r50",
    "Swin-L": "offline-swinl",
    "MobileNet": "dvis-lite",
    "DVIS++ R50": "dvis-plus-offline-r50-vipseg",
    "DVIS++ ViT-L": "dvis-plus-offline-vitl-vipseg",
    "VidEoMT": "videomt-vits-ytvis19",
    "MinVIS": "minvis-r50",
}
PRECISIONS = ("fp32", "bf16")


def shallow(config: ModelConfig) -> ModelConfig:
    """The same kinds of layers, fewer of each."""
    backbone = {"depths": (2, 2, 2, 2), "blocks": 4, "query_blocks": 2}
    if hasattr(config.backbone, "kind") and config.backbone.kind == "resnet":
        backbone["blocks"] = (1, 1, 1, 1)
    known = {name: value for name, value in backbone.items() if hasattr(config.backbone, name)}
    layers = {"pixel_decoder": 1, "query_decoder": 3, "tracker": 1, "refiner": 1}
    parts = {name: dataclasses.replace(getattr(config, name), layers=n) for name, n in layers.items()}
    return dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, **known), **parts)


def model_there(config: ModelConfig, precision: str) -> DvisModel:
    # The initialisation of transformers looks at numbers, and there are none.
    with torch.device("cuda"), patch.object(torch.nn.init, "trunc_normal_", lambda tensor, **_: tensor):
        model = DvisModel(config, categories_of(config))
    model.precision = precision
    return model.eval().requires_grad_(False)


def run(
    model: DvisModel, geometry: Geometry, settings: RunSettings, horizons: int = 2, more: Sequence[View] = ()
) -> int:
    """Segment, decide and finish; returns the number of frames."""
    seen = [View(geometry), *more]
    scales, task = Scales(model, seen, settings), task_for(model, settings, geometry.output)
    rgb = np.zeros((*geometry.output, 3), np.uint8)
    for _ in range(horizons):
        for _ in range(settings.horizon // settings.batch):
            scales.add([views.preprocess_views(rgb, seen, device=CUDA) for _ in range(settings.batch)])
        with torch.inference_mode():
            decision = task.decide(scales.tubes())
            decided = [decision.frame(index) for index in range(settings.horizon)]
        decision.close()
        scales.start_horizon()
        for frame in decided:
            decision.finish(Frame(0, 0.0, rgb), frame)
    return horizons * settings.horizon


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_and_decisions_stay_on_the_device(
    name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = shallow(known_model(NETWORKS[name]).configured)
    geometry = Geometry(output=(90, 150), resized=(96, 160), padded=(96, 160))
    with pretended_gpu(monkeypatch) as traffic:
        model = model_there(config, precision)
        settings = RunSettings(
            config.mode, window=2, horizon=2, batch=2, device_budget=2**40, score_threshold=0.5
        )
        run(model, geometry, settings, horizons=1)  # tables that are copied once a size
        traffic.clear()
        for task in ("panoptic", "instance", "semantic") if precision == "fp32" else ("panoptic",):
            run(model, geometry, dataclasses.replace(settings, task=task), horizons=1)
    assert not traffic.uncounted


def test_several_views_stay_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry(output=(90, 150), resized=(96, 160), padded=(96, 160))
    more = [View(geometry, mirrored=True), View(Geometry((90, 150), (58, 96), (64, 96)))]
    with pretended_gpu(monkeypatch) as traffic:
        model = model_there(known_model("tiny").config, "bf16")
        settings = RunSettings(
            model.config.mode, window=2, horizon=2, batch=2, device_budget=2**40, score_threshold=0.5
        )
        run(model, geometry, settings, horizons=1, more=more)
        traffic.clear()
        for task in ("panoptic", "instance", "semantic"):
            run(model, geometry, dataclasses.replace(settings, task=task), horizons=1, more=more)
    assert not traffic.uncounted


@pytest.mark.parametrize("precision", PRECISIONS)
def test_waits_and_copies_of_a_frame(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """R50 at 720p with its mask features on the device, offline: everything between two decoded and finished frames."""
    config = known_model("offline-r50").configured
    geometry = plan_geometry(720, 1280, 720)
    with pretended_gpu(monkeypatch) as traffic:
        model = model_there(config, precision)
        settings = RunSettings(
            "offline", window=8, horizon=8, batch=4, device_budget=2**40, score_threshold=0.9
        )
        run(model, geometry, settings, horizons=1)  # tables that are copied once a size
        traffic.clear()
        frames = run(model, geometry, settings)
    print(f"{traffic.waits / frames} waits, {traffic.bytes / frames / 1e6:.2f} MB a frame")
    assert traffic.waits / frames <= WAITS and traffic.bytes / frames <= BYTES, traffic
    assert traffic.bytes / frames > 720 * 1280 * (3 + 1), "the picture goes up, and a map comes down"


@pytest.fixture
def exact_products() -> Iterator[None]:
    """As `--precision fp32` sets it. Not by `monkeypatch`, which takes it for an attribute."""
    before, torch.backends.cuda.matmul.fp32_precision = torch.backends.cuda.matmul.fp32_precision, "ieee"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tf32_is_for_bf16_alone(precision: str, exact_products, monkeypatch: pytest.MonkeyPatch) -> None:
    product, seen = torch.backends.cuda.matmul, []
    with pretended_gpu(monkeypatch):
        model = model_there(known_model("tiny").config, precision)
        model.segmenter.pixel_decoder.register_forward_pre_hook(
            lambda *_: seen.append(product.fp32_precision)
        )
        with torch.inference_mode():
            features = model.segment(torch.zeros(1, 3, 64, 96, device="cuda")).mask_features
    assert seen == [{"fp32": "ieee", "bf16": "tf32"}[precision]] and product.fp32_precision == "ieee"
    assert features.dtype == torch.float32


# --- a GPU's ways, on the CPU -----------------------------------------------------------------------------


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> RunSettings:
    """Pictures resized by torch, features kept, all masks at once, bits of masks; settings that make use of it."""
    for module in (instance, panoptic, semantic, videomt, views):
        monkeypatch.setattr(module, "accelerated", lambda device: True)
    return RunSettings("online", batch=3, device_budget=2**30, memory_budget=0)


@pytest.fixture(params=["r50", "swin", "videomt"])
def recorded(request: pytest.FixtureRequest) -> Golden:
    return Golden.load(request.param)


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_recorded_maps(recorded: Golden, mode: str, forced: RunSettings) -> None:
    if recorded.name == "videomt" and mode == "offline":
        pytest.skip("VidEoMT has no refiner")
    video = recorded.video(dataclasses.replace(forced, mode=mode))
    ids = np.stack([frame.ids for frame in video])
    name = "vps" if recorded.name == "videomt" else f"{mode}.vps"
    expected = recorded.final[f"{name}.pan"]
    assert (ids != expected).sum() <= ALLOWED_PIXELS and len(np.unique(expected)) > 3
    infos = recorded.facts[name]["segments_infos"]
    assert [segment.id for segment in video.segments] == [info["id"] for info in infos]


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
@pytest.mark.parametrize("several", [False, True])
def test_all_tasks_and_views(task: TaskName, several: bool, monkeypatch: pytest.MonkeyPatch, request) -> None:
    """With several views a tube is a mean of masks; one of the two here is mirrored."""
    golden, small = Golden.load("swin"), Geometry((90, 150), (58, 96), (64, 96))
    seen = [View(GEOMETRY), View(small, mirrored=True)] if several else [View(GEOMETRY)]
    settings = RunSettings("online", task, score_threshold=0.0 if task == "instance" else 0.5)
    source = golden.source(seen)
    expected = list(golden.video(settings, source, seen))
    forced = request.getfixturevalue("forced")
    ours = golden.video(
        dataclasses.replace(settings, batch=3, device_budget=forced.device_budget, memory_budget=0),
        source,
        seen,
    )
    total = different = 0
    for one, other in zip(ours, expected, strict=True):
        if task == "instance":
            one, other = (decode(list(frame.masks.values()), (90, 150)) for frame in (one, other))
        else:
            one, other = one.ids, other.ids
        assert one.shape == other.shape and one.any()
        different += int((one != other).sum())
        total += one.size
    assert different <= total * 1e-4


def test_counts_of_more_masks_than_fit(golden: Golden, forced, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of one mask each give what all at once give."""
    maps = {}
    for limit in (2**28, 1):
        monkeypatch.setattr(panoptic, "DENSE_BYTES", limit)
        maps[limit] = np.stack([frame.ids for frame in golden.video(forced)])
    assert np.array_equal(maps[1], maps[2**28])


@pytest.mark.parametrize("size", [(216, 384), (90, 150), (45, 67)])
def test_pictures_resized_there_are_pillows(size: tuple[int, int]) -> None:
    """Recorded tolerance: one level of 255, in one pixel of a hundred: sums that end in a half, rounded up or down."""
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (12, 20, 3)), np.ones((-(-size[0] // 12), -(-size[1] // 20), 1)))
    rgb = (smooth[: size[0], : size[1]] + rng.integers(-20, 20, (*size, 3))).clip(0, 255).astype(np.uint8)
    geometry = plan_geometry(*size, 96)
    here = preprocess(rgb, geometry)
    there = preprocess_there(torch.from_numpy(rgb), geometry)
    assert here.shape == there.shape
    levels = (here - there).abs() * torch.tensor(PIXEL_STD)[:, None, None]
    assert levels.max() < 1.001
    assert (levels > 0.01).float().mean() < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_leave_the_device_when_there_is_no_room(dtype: torch.dtype) -> None:
    frames = torch.randn(4, 3, 5, 6).to(dtype)
    features = Features(CPU, on_device=2 * frames[0].nbytes, in_memory=frames[0].nbytes)
    for index, frame in enumerate(frames):
        features.put(index, frame)
    assert (
        features.get(1).data_ptr() == frames[1].data_ptr()
        and features.get(2).data_ptr() != frames[2].data_ptr()
    )
    with pytest.warns(DvisWarning, match="2 frames wait in RAM"):
        assert features.leave_device()
    assert not features.leave_device() and not features.any_on_device
    for index, frame in enumerate(frames):
        assert torch.equal(features.get(index), frame)
    features.clear()


def test_out_of_memory_moves_features_first(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RunSettings("online", batch=2, device_budget=2**30)
    expected = np.stack([frame.ids for frame in golden.video(settings)])
    tried, segment = [], DvisModel.segment

    def small(network: DvisModel, frames: torch.Tensor, memory: torch.Tensor | None = None):
        tried.append(len(frames))
        if len(tried) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return segment(network, frames, memory)

    monkeypatch.setattr(DvisModel, "segment", small)
    with pytest.warns(DvisWarning, match="wait in RAM"):
        ours = np.stack([f.ids for f in golden.video(settings)])
    assert np.array_equal(ours, expected) and tried[:3] == [2, 2, 2]
