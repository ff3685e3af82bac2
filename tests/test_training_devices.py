"""What training does on a GPU, without one: precision under autocast, waits for the device, where points come from."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from small_training import MODEL
from torch._subclasses.fake_tensor import FakeTensorMode

from dvis_cli.config import model_config
from dvis_cli.run.model import DvisModel
from dvis_cli.structures import Category
from dvis_cli.training import matcher as matching
from dvis_cli.training import ownership
from dvis_cli.training import points as drawing
from dvis_cli.training.clip_settings import ClipSettings
from dvis_cli.training.losses import Criterion, PointSettings
from dvis_cli.training.matcher import CostWeights, Matcher, MatchingRule
from dvis_cli.training.options import Machine
from dvis_cli.training.run import Share, clip_loader
from dvis_cli.training.settings import TrainSettings
from dvis_cli.training.stages import (
    Layer,
    Outputs,
    RefinerStage,
    SegmenterStage,
    Stage,
    TrackerStage,
)
from dvis_cli.training.targets import ClipTargets, FrozenFeatures

CLIPS, FRAMES, QUERIES, OBJECTS, CHANNELS, SIDE, LAYERS = 2, 3, 8, 3, 32, 16, 2
STAGES = (SegmenterStage, TrackerStage, RefinerStage)
RULES = {
    "report": MatchingRule(),
    "guided": MatchingRule(guided=True),
    "patience": MatchingRule(patience=1),
}


def targets() -> list[ClipTargets]:
    ids = torch.zeros(FRAMES, SIDE, SIDE, dtype=torch.int16)
    for n in range(OBJECTS):
        ids[n:, :, 5 * n : 5 * n + 5] = n + 1  # object n comes in frame n
    return [ClipTargets.of(ids, torch.arange(OBJECTS))] * CLIPS


def stage_of(kind: type[Stage], network: DvisModel | None) -> Stage:
    points = PointSettings(count=20)
    return kind(network, Matcher(CostWeights(), 20), Criterion(CostWeights(), points, empty_dice=False))


@pytest.fixture
def network() -> DvisModel:
    torch.manual_seed(0)
    config = dataclasses.replace(model_config(MODEL, "test"), num_classes=OBJECTS)
    return DvisModel(config, tuple(Category(i, f"class {i}", True, (0, 0, 0)) for i in range(OBJECTS)))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", STAGES)
def test_matching_and_losses_are_fp32_under_autocast(
    kind: type[Stage], rule: str, network: DvisModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()

    def watched(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def watch(*arguments, **options):
            seen.add(name)
            assert not torch.is_autocast_enabled("cpu"), name
            for value in arguments:
                parts = (
                    [getattr(value, f.name) for f in dataclasses.fields(value)]
                    if dataclasses.is_dataclass(value)
                    else [value]
                )
                for part in parts:
                    assert not (
                        isinstance(part, torch.Tensor) and part.dtype in (torch.bfloat16, torch.float16)
                    )
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, watch)

    for owner, name in (
        (Matcher, "_cost"), (Matcher, "costs"), (Criterion, "class_loss"), (Criterion, "mask_losses"),
        (ownership, "overlap_of"),
    ):  # fmt: skip
        watched(owner, name)
    random = torch.Generator().manual_seed(1)
    frames = torch.randn(CLIPS, FRAMES, 3, 4 * SIDE, 4 * SIDE, generator=random)
    queries = torch.randn(CLIPS, FRAMES, QUERIES, CHANNELS, generator=random)
    features = torch.randn(CLIPS, FRAMES, CHANNELS, SIDE, SIDE, generator=random)
    inputs = frames if kind is SegmenterStage else FrozenFeatures(queries, features)
    draws = [drawing.uniform_draw(i, torch.device("cpu")) for i in range(CLIPS)]
    stage = stage_of(kind, network)
    with torch.autocast("cpu", torch.bfloat16):
        losses = stage.losses(inputs, targets(), draws, RULES[rule])
    assert {"_cost", "class_loss", "mask_losses"} <= seen
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", STAGES)
def test_a_layer_waits_for_the_device_once_a_clip(
    kind: type[Stage], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a pretended GPU, where a value that the host looks at would be an error, and so would be mixed devices."""
    waits: list[tuple[int, ...]] = []

    def fetch(values: torch.Tensor) -> np.ndarray:
        assert values.device.type == "cuda"
        waits.append(tuple(values.shape))
        return np.random.default_rng(len(waits)).random(tuple(values.shape)).astype(np.float32)

    monkeypatch.setattr(matching, "fetch", lambda values: _integers(fetch(values), values))
    monkeypatch.setattr(ownership, "fetch", fetch)
    monkeypatch.setattr(kind, "forward", lambda stage, inputs, guided: inputs)
    on_host = targets()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        shape = (CLIPS, 1 if kind is RefinerStage else FRAMES)
        layers = [
            Layer(torch.randn(*shape, QUERIES, OBJECTS + 1), torch.randn(CLIPS, FRAMES, QUERIES, CHANNELS))
            for _ in range(LAYERS)
        ]
        features = torch.randn(CLIPS, FRAMES, CHANNELS, SIDE, SIDE)
        on_device = [target.to("cuda") for target in on_host]
        draws = [lambda masks, points: torch.rand(masks, points, 2)] * CLIPS
        outputs = Outputs(layers, features, layers[0] if RULES[rule].guided else None)
        losses = stage_of(kind, None).losses(outputs, on_device, draws, RULES[rule])
        assert all(loss.device.type == "cuda" for loss in losses.values())
    matched = 1 if RULES[rule].guided and kind is not SegmenterStage else LAYERS
    # Costs; for the tall picture also where its frames begin; with patience what masks cover and what is visible.
    each = 3 if rule == "patience" and kind is not SegmenterStage else 2 if kind is RefinerStage else 1
    if kind is SegmenterStage and rule == "guided":
        matched = 1  # a guide is a guide, whichever stage gets one
    assert len(waits) == matched * each * CLIPS


def _integers(array: np.ndarray, values: torch.Tensor) -> np.ndarray:
    """Bounds of slices are whole numbers."""
    return array if values.dtype.is_floating_point else (array * 5).astype(np.int64)


def test_points_are_drawn_on_the_device_from_its_own_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    class Generator:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def manual_seed(self, seed: int) -> Generator:
            self.seed = seed
            return self

    made: list[dict] = []
    monkeypatch.setattr(drawing.torch, "Generator", Generator)
    monkeypatch.setattr(
        drawing.torch, "rand", lambda *size, **options: made.append({"size": size, **options})
    )
    device = torch.device("cuda", 1)
    draw = drawing.uniform_draw(7, device)
    draw(3, 5)
    draw(1, 2)
    assert [one["size"] for one in made] == [(3, 5, 2), (1, 2, 2)]
    assert all(one["device"] == device for one in made)
    assert made[0]["generator"] is made[1]["generator"]
    assert (made[0]["generator"].device, made[0]["generator"].seed) == (device, 7)


def test_points_depend_on_the_seed_alone() -> None:
    def points(seed: int) -> torch.Tensor:
        return drawing.uniform_draw(seed, torch.device("cpu"))(2, 9)

    first = points(3)
    torch.rand(5)
    assert torch.equal(first, points(3))
    assert not torch.equal(first, points(4))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a small machine
def test_a_gpu_gets_pinned_clips_from_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dvis_cli.training.run.usable_cores", lambda: 16)
    settings = TrainSettings(ClipSettings())
    share = Share(settings, 0, 1, lambda: 0, None)

    def loader(device: str, **options: int) -> torch.utils.data.DataLoader:
        return clip_loader(range(99), share, Machine(**options), device)

    assert loader("cuda").pin_memory
    assert loader("cuda").num_workers == 8
    assert loader("cuda", devices=4).num_workers == 3
    assert loader("cuda", devices=16).num_workers == 2
    assert loader("cuda", workers=0).num_workers == 0
    assert not loader("cpu").pin_memory
    assert loader("cpu").num_workers == 1
    assert list(_indices(loader("cuda").sampler, 10)) == list(range(10))


def _indices(sampler: Share, count: int) -> Iterator[int]:
    return (index for index, _ in zip(sampler, range(count), strict=False))


def test_no_loop_of_training_reads_a_device_value() -> None:
    """Nothing in matching and losses calls what makes the host wait, except `fetch`."""
    from dvis_cli.training import losses, stages

    for module in (losses, stages, ownership, drawing, matching):
        source = inspect.getsource(module).replace(inspect.getsource(matching.fetch), "")
        for call in (".item()", ".cpu()", ".nonzero()", "bincount"):
            assert call not in source, (module.__name__, call)
