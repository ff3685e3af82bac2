"""Properties of the instance and the semantic decision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from goldens import Golden
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_cli.coco_masks import decode, encode
from dvis_cli.datasets.categories import vipseg_categories
from dvis_cli.layers.masks import FrameMasks, ViewMasks
from dvis_cli.run.settings import RunSettings
from dvis_cli.structures import Frame, Geometry, InstanceFrame, Segment
from dvis_cli.tasks import semantic
from dvis_cli.tasks.chosen import Chosen
from dvis_cli.tasks.instance import InstanceTask, TubeIdentities, choose_tubes
from dvis_cli.tasks.semantic import SemanticTask
from dvis_cli.writers.instance_picture import shown_map

CATEGORIES = vipseg_categories()
CLASSES = len(CATEGORIES)
GEOMETRIES = [Geometry((24, 40), (24, 40), (32, 64)), Geometry((50, 31), (25, 30), (32, 32))]


class RandomTubes:
    """A horizon of random queries: a `Tubes`."""

    def __init__(self, seed: int, frames: int, queries: int, geometry: Geometry) -> None:
        generator = torch.Generator().manual_seed(seed)
        h, w = geometry.padded[0] // 4, geometry.padded[1] // 4
        self.class_probs = torch.randn(queries, CLASSES + 1, generator=generator).mul(3).softmax(dim=1)
        self.embeds = torch.randn(frames, queries, 6, generator=generator)
        self.features = torch.randn(frames, 6, h, w, generator=generator)
        self.geometry = geometry

    @property
    def weights(self) -> torch.Tensor:
        return torch.ones(len(self.class_probs))

    def numbers(self, queries: torch.Tensor) -> list[int]:
        return queries.tolist()

    def masks(self, index: int, queries: torch.Tensor) -> FrameMasks:
        return FrameMasks([ViewMasks(self.embeds[index][queries], self.features[index], self.geometry)])


def decide(task, tubes: RandomTubes, frames: int) -> list:
    """The finished frames of one horizon."""
    decision = task.decide(tubes)
    stored = [decision.frame(place) for place in range(frames)]
    decision.close()
    rgb = np.zeros((*tubes.geometry.output, 3), np.uint8)
    return [decision.finish(Frame(i, i / 25, rgb), one) for i, one in enumerate(stored)]


# --- instances --------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(1, 20),
    top_k=st.integers(1, 30),
    geometry=st.sampled_from(GEOMETRIES),
)
def test_instances_against_a_plain_choice(seed, queries, top_k, geometry) -> None:
    tubes = RandomTubes(seed, 2, queries, geometry)
    task = InstanceTask(CATEGORIES, geometry.output, top_k, 0.0)
    frames = decide(task, tubes, 2)
    ranked = sorted(
        ((float(tubes.class_probs[q, k]), q, k) for q in range(queries) for k in range(CLASSES)), reverse=True
    )[:top_k]
    assert [(s.query, s.category) for s in task.segments] == [(q, CATEGORIES[k]) for _, q, k in ranked]
    assert [s.score for s in task.segments] == pytest.approx([score for score, _, _ in ranked])
    for place, frame in enumerate(frames):
        for segment in task.segments:
            row = torch.tensor([segment.query])
            expected = (tubes.masks(place, row).logits(slice(0, 1)) > 0)[0].numpy()
            assert (segment.id in frame.masks) == expected.any()
            if expected.any():
                assert np.array_equal(decode([frame.masks[segment.id]], geometry.output)[0], expected)
        assert frame.segments.keys() == frame.masks.keys()


def test_choose_tubes() -> None:
    probs = torch.tensor([[0.5, 0.3, 0.2], [0.05, 0.05, 0.9]])
    chosen = choose_tubes(probs, 3)
    assert chosen.queries.tolist()[:2] == [0, 0] and chosen.classes.tolist()[:2] == [0, 1]
    assert len(choose_tubes(probs, 10).queries) == 4, "no object is no class"
    assert choose_tubes(probs, 10, 0.3).queries.tolist() == [0], "0.3 itself is not above 0.3"


def chosen(*tubes: tuple[int, int, float]) -> Chosen:
    queries, classes, scores = zip(*tubes, strict=True)
    return Chosen(torch.tensor(queries), torch.tensor(classes), torch.tensor(scores))


def test_tubes_over_horizons() -> None:
    """A (query, class) pair is the same tube in every horizon; its score is the mean over its frames."""
    identities = TubeIdentities(CATEGORIES)
    first = identities.name(chosen((3, 7, 0.9), (3, 8, 0.4)), frames=10)
    second = identities.name(chosen((5, 7, 0.8), (3, 7, 0.6)), frames=30)
    assert [s.id for s in first] == [1, 2] and [s.id for s in second] == [3, 1]
    assert identities.segments[0].score == pytest.approx((0.9 * 10 + 0.6 * 30) / 40)
    assert identities.segments[1].score == pytest.approx(0.4)


def test_instances_of_a_long_video(golden: Golden) -> None:
    """Cut into horizons: frames in order, at most top_k tubes in a frame, ids that keep query and class."""
    run = golden.video(
        RunSettings(mode="offline", task="instance", top_k=5, window=2, horizon=2, score_threshold=0.0)
    )
    frames = list(run)
    assert [frame.index for frame in frames] == list(range(len(golden.frames)))
    known = {}
    for frame in frames:
        assert len(frame.masks) <= 5
        for id, segment in frame.segments.items():
            assert known.setdefault(id, (segment.query, segment.category.id)) == (
                segment.query,
                segment.category.id,
            )
    assert [s.id for s in run.segments] == list(range(1, len(run.segments) + 1))
    assert len(set(known.values())) == len(known)


def test_no_frames(golden: Golden) -> None:
    for task in ("instance", "semantic"):
        run = golden.video(RunSettings(mode="online", task=task), [])
        assert list(run) == [] and run.segments == []


def test_the_picture_of_instances() -> None:
    """Likelier things in front; what is doubtful, stuff, or the same once more is left out."""
    person, sky = next(c for c in CATEGORIES if c.isthing), next(c for c in CATEGORIES if not c.isthing)
    masks = np.zeros((5, 10, 10), bool)
    masks[0, :6], masks[1, 4:], masks[2, :5] = True, True, True
    masks[3, :, :3] = masks[4] = True
    categories = [person, person, person, person, sky]
    scores = [0.9, 0.8, 0.7, 0.3, 0.95]
    segments = {
        i: Segment(i, category, score)
        for i, (category, score) in enumerate(zip(categories, scores, strict=True), start=1)
    }
    codes = dict(enumerate(encode(masks), start=1))
    frame = InstanceFrame(0, 0.0, np.zeros((10, 10, 3), np.uint8), codes, segments)
    ids, shown = shown_map(frame)
    assert set(shown) == {1, 2} and (ids[:6] == 1).all() and (ids[6:] == 2).all()
    assert set(shown_map(frame, 0.85)[1]) == {1}


# --- semantics --------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(1, 12),
    geometry=st.sampled_from(GEOMETRIES),
    rows=st.integers(1, 60),
)
def test_maps_against_whole_sums(seed, queries, geometry, rows) -> None:
    """In bands of any height, the classes that the formula gives."""
    tubes = RandomTubes(seed, 2, queries, geometry)
    task = SemanticTask(CATEGORIES, geometry.output)
    whole = semantic.BAND_BYTES
    semantic.BAND_BYTES = rows * 4 * geometry.output[1] * (queries + CLASSES)
    try:
        frames = decide(task, tubes, 2)
    finally:
        semantic.BAND_BYTES = whole
    shares = np.zeros(CLASSES)
    for place, frame in enumerate(frames):
        masks = tubes.masks(place, torch.arange(queries)).probabilities(slice(None))
        sums = torch.einsum("qk,qhw->khw", tubes.class_probs[:, :-1], masks)
        assert (frame.ids != sums.argmax(dim=0).numpy() + 1).mean() < 5e-3, (
            "only ties in the last bits may differ"
        )
        assert set(np.unique(frame.ids).tolist()) == frame.segments.keys()
        share = (sums.max(dim=0).values / sums.sum(dim=0)).numpy()
        np.add.at(shares, frame.ids - 1, share)
    for segment in task.segments:
        assert segment.category is CATEGORIES[segment.id - 1]
        pixels = sum((frame.ids == segment.id).sum() for frame in frames)
        assert segment.score == pytest.approx(shares[segment.id - 1] / pixels, rel=1e-3)


def test_maps_do_not_depend_on_batches(golden: Golden) -> None:
    def maps(**settings) -> np.ndarray:
        run = golden.video(RunSettings(mode="online", task="semantic", **settings))
        return np.stack([frame.ids for frame in run])

    assert (maps(batch=1) != maps(batch=3, memory_budget=0)).sum() <= 10


def test_permuting_queries_changes_nothing() -> None:
    geometry = GEOMETRIES[0]
    tubes = RandomTubes(3, 1, 9, geometry)
    (first,) = decide(SemanticTask(CATEGORIES, geometry.output), tubes, 1)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    tubes.class_probs, tubes.embeds = tubes.class_probs[order], tubes.embeds[:, order]
    (second,) = decide(SemanticTask(CATEGORIES, geometry.output), tubes, 1)
    assert (first.ids != second.ids).mean() < 1e-3
