"""Matching with a memory: objects that are missed for a while, or cross, keep their row."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from goldens import match
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_cli.config import TrackerConfig
from dvis_cli.run.loading import load_model
from dvis_cli.run.model import DvisModel
from dvis_cli.run.settings import RunSettings
from dvis_cli.run.state import QueryState
from dvis_cli.structures import SegmenterOutput
from dvis_cli.tracker.memory import orders_with_memory
from dvis_cli.training.stages import orders_of
from dvis_cli.training.targets import FrozenFeatures

QUERIES, CHANNELS, CLASSES, SIDE = 8, 16, 3, 8


class Scene:
    """What a segmenter says of objects that it finds in some frames, each in a slot of its own there."""

    def __init__(self, frames: int, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.queries = torch.randn(frames, QUERIES, CHANNELS, generator=self.generator)
        self.logits = torch.zeros(frames, QUERIES, CLASSES + 1)
        self.logits[..., -1] = 6.0  # nothing
        # A channel of the mask features for each column of the picture, so an embedding says which columns.
        self.features = torch.eye(SIDE)[None, :, None].repeat(frames, 1, SIDE, 1)
        self.embeds = torch.full((frames, QUERIES, SIDE), -8.0)

    def put(self, frame: int, slot: int, look: torch.Tensor, label: int, column: int) -> None:
        self.queries[frame, slot] = look + 0.1 * torch.randn(CHANNELS, generator=self.generator)
        self.logits[frame, slot] = torch.nn.functional.one_hot(torch.tensor(label), CLASSES + 1) * 6.0
        self.embeds[frame, slot, column : column + 2] = 8.0

    def orders(self, frames: slice = slice(None), memory=None):
        parts = (self.queries, self.logits, self.embeds, self.features)
        return orders_with_memory(*(part[frames] for part in parts), memory)

    def row_of(self, orders: torch.Tensor, frame: int, slot: int) -> int:
        return int((orders[frame] == slot).nonzero())


def look(seed: int) -> torch.Tensor:
    return torch.randn(CHANNELS, generator=torch.Generator().manual_seed(1000 + seed))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), frames=st.integers(1, 6), cut=st.integers(1, 5))
def test_orders_are_permutations_and_go_on_from_call_to_call(seed: int, frames: int, cut: int) -> None:
    scene = Scene(frames, seed)
    for frame in range(frames):
        scene.put(frame, seed % QUERIES, look(1), 0, 1)
    orders, _ = scene.orders()
    assert torch.equal(orders[0], torch.arange(QUERIES))
    assert torch.equal(orders.sort(dim=1).values, torch.arange(QUERIES).expand(frames, -1))
    if cut < frames:
        first, memory = scene.orders(slice(0, cut))
        second, _ = scene.orders(slice(cut, None), memory)
        assert torch.equal(torch.cat((first, second)), orders)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), missed=st.integers(1, 8))
def test_an_object_that_was_missed_gets_its_row_back(seed: int, missed: int) -> None:
    scene = Scene(4 + missed, seed)
    seen = [0, 1, 2, 3 + missed]
    slots = torch.randint(QUERIES, (len(seen),), generator=scene.generator).tolist()
    for frame, slot in zip(seen, slots, strict=True):
        scene.put(frame, slot, look(2), 1, 3)
    orders, _ = scene.orders()
    assert {scene.row_of(orders, frame, slot) for frame, slot in zip(seen, slots, strict=True)} == {slots[0]}


def test_comparing_with_the_last_frame_alone_loses_what_was_missed() -> None:
    """What the memory is for: were this not so, it would be of no use."""
    lost = 0
    for seed in range(20):
        scene = Scene(8, seed)
        for frame in (0, 1, 7):
            scene.put(frame, 2, look(2), 1, 3)
        order = torch.arange(QUERIES)
        for frame in range(1, 8):
            order = match(scene.queries[frame - 1][order], scene.queries[frame])
        lost += int(order[2]) != 2
    assert lost > 10


def test_look_alikes_are_told_apart_by_place_and_by_class() -> None:
    for label in (0, 1):
        scene = Scene(6)
        for frame in range(6):
            swap = frame % 2
            scene.put(frame, 3 + swap, look(5), 0, 0)
            scene.put(frame, 4 - swap, look(5), label, 5)
        orders, _ = scene.orders()
        assert {scene.row_of(orders, frame, 3 + frame % 2) for frame in range(6)} == {3}
        assert {scene.row_of(orders, frame, 4 - frame % 2) for frame in range(6)} == {4}


def test_broken_numbers_are_matched_like_something_of_no_merit() -> None:
    scene = Scene(3)
    scene.queries[1, 2] = float("nan")
    scene.logits[1, 3] = float("nan")
    scene.features[2, 0, 0, 0] = float("inf")
    orders, _ = scene.orders()
    assert torch.equal(orders.sort(dim=1).values, torch.arange(QUERIES).expand(3, -1))


@pytest.fixture(scope="module")
def network() -> DvisModel:
    """The test model, matching with a memory."""
    model = load_model("tiny")
    tracker = dataclasses.replace(model.config.tracker, matching="memory")
    with_memory = DvisModel(dataclasses.replace(model.config, tracker=tracker), model.categories)
    with_memory.load_state_dict(model.state_dict())
    return with_memory.eval()


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_batches_do_not_matter(network: DvisModel, mode) -> None:
    torch.manual_seed(3)
    frames = torch.randn(5, 3, 64, 96)
    results = []
    with torch.inference_mode():
        for batch in (1, 2, 5):
            state = QueryState(network, RunSettings(mode=mode, window=3, horizon=5))
            for part in frames.split(batch):
                state.add(whole_frames(network, part))
            results.append((state.finish_horizon(), torch.stack(state.horizon.queries)))
    for probs, queries in results[1:]:
        assert torch.allclose(probs, results[0][0], atol=1e-4)
        assert torch.allclose(queries, results[0][1], atol=1e-3)


def whole_frames(network: DvisModel, frames: torch.Tensor) -> SegmenterOutput:
    """One by one: a batch of another size may round differently."""
    outputs = [network.segment(frame[None]) for frame in frames]
    return SegmenterOutput(
        torch.cat([output.queries for output in outputs]),
        torch.cat([output.mask_features for output in outputs]),
        torch.cat([output.class_logits for output in outputs]),
    )


def test_the_tracker_does_not_match_by_itself(network: DvisModel) -> None:
    assert network.tracker is not None and network.tracker.needs_orders
    assert not load_model("tiny").tracker.needs_orders
    assert TrackerConfig().matching == "published"
    queries = torch.randn(1, 2, network.config.query_decoder.queries, network.config.query_decoder.channels)
    with pytest.raises(AssertionError, match="memory"):
        network.tracker(queries)


def shuffled(output: SegmenterOutput) -> SegmenterOutput:
    """The same, the queries of every frame in another order."""
    order = torch.rand(output.queries.shape[:2]).argsort(dim=1)[..., None]
    queries, logits = (
        part.gather(1, order.expand_as(part)) for part in (output.queries, output.class_logits)
    )
    return SegmenterOutput(queries, output.mask_features, logits)


def test_training_sees_the_tracks_that_a_run_has(network: DvisModel) -> None:
    torch.manual_seed(4)
    frames = torch.randn(4, 3, 64, 96)
    with torch.inference_mode():
        output = shuffled(network.segment(frames))
        state = QueryState(network, RunSettings(mode="online", window=4))
        state.add(output)
        inputs = FrozenFeatures(output.queries[None], output.mask_features[None])
        orders = orders_of(network, inputs)
        assert network.tracker is not None and orders is not None
        tracks = network.tracker(inputs.queries, None, orders)[0]
    assert not torch.equal(orders[0, 1:], torch.arange(orders.shape[2]).expand(3, -1)), "something is matched"
    assert torch.allclose(torch.stack(state.horizon.queries), tracks.queries[0], atol=1e-5)
    assert orders_of(load_model("tiny"), inputs) is None
