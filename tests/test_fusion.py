"""Queries of several views to one set of tubes: the mathematics, on tensors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dvis_cli.fusion.grid import CoarseGrid, OverlapSums, soft_iou
from dvis_cli.fusion.matching import Candidates, Weights, affinities, finds_most, group
from dvis_cli.fusion.names import TubeNames
from dvis_cli.fusion.tubes import FusedTubes, FusionSettings, agreeing, fuse
from dvis_cli.layers.masks import mean_masks
from dvis_cli.structures import Geometry, View

CLASSES = 6
CELLS = 400
FRAMES = 3


# --- a made-up video of objects, seen by several views ----------------------------------------------------


class Scene:
    """Objects of one class and one place each; a view sees some of them, with noise, in an order of its own."""

    def __init__(self, seed: int, objects: int = 6) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.objects = objects
        self.classes = torch.randint(0, CLASSES, (objects,), generator=self.generator)
        self.embeds = torch.randn(objects, 16, generator=self.generator)
        self.masks = torch.zeros(FRAMES, objects, CELLS)
        for n in range(objects):
            self.masks[:, n, n * CELLS // objects : (n + 1) * CELLS // objects] = 1

    def view(self, seen: list[int], noise: float = 0.1) -> tuple[Candidates, Tensor]:
        """Candidates and their masks (T, N, cells)."""
        sure = 0.85 + 0.1 * torch.rand(len(seen), 1, generator=self.generator)
        probs = (1 - sure).expand(-1, CLASSES + 1) / CLASSES
        probs = probs.scatter(1, self.classes[seen][:, None], sure)
        jitter = torch.randn(len(seen), 16, generator=self.generator) * noise
        masks = self.masks[:, seen] * (
            1 - noise * torch.rand(FRAMES, len(seen), CELLS, generator=self.generator)
        )
        return Candidates(torch.arange(len(seen)), probs, self.embeds[seen] + jitter), masks


def fused(views: list[tuple[Candidates, Tensor]], confident: float | None = 0.8) -> FusedTubes:
    return fuse([candidates for candidates, _ in views], products_of(views), confident)


def products_of(views: list[tuple[Candidates, Tensor]]) -> Tensor:
    sums = OverlapSums([len(candidates.queries) for candidates, _ in views])
    for frame in range(FRAMES):
        sums.add([masks[frame] for _, masks in views])
    return sums.products


def permuted(view: tuple[Candidates, Tensor], order: Tensor) -> tuple[Candidates, Tensor]:
    """The same view with its candidates listed, and numbered, in another order."""
    candidates, masks = view
    return Candidates(
        torch.arange(len(order)), candidates.class_probs[order], candidates.embeds[order]
    ), masks[:, order]


def as_sets(tubes: FusedTubes, names: list[list[int]]) -> dict[tuple, tuple[float, ...]]:
    """Members, spelled with the objects that the queries stand for, to weight and class probabilities."""
    found = {}
    for row, probs, weight in zip(tubes.members, tubes.class_probs, tubes.weights, strict=True):
        key = frozenset((view, names[view][int(q)]) for view, q in enumerate(row) if q >= 0)
        assert key not in found
        found[key] = (float(weight), *probs.tolist())
    return found


subsets = st.lists(st.lists(st.integers(0, 5), unique=True, max_size=6), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), seen=subsets)
def test_every_object_is_found_once_with_the_share_of_views_that_saw_it(seed, seen) -> None:
    scene = Scene(seed)
    tubes = fused([scene.view(one) for one in seen])
    found = {}
    for row, weight in zip(tubes.members.tolist(), tubes.weights.tolist(), strict=True):
        objects = {seen[view][q] for view, q in enumerate(row) if q >= 0}
        assert len(objects) == 1, "different objects in one tube"
        assert found.setdefault(objects.pop(), weight) is weight, "one object in two tubes"
    expected = {n: sum(n in one for one in seen) / len(seen) for n in set().union(*seen)}
    assert found == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 12), copies=st.integers(1, 4), sure=st.booleans())
def test_a_view_with_itself_is_that_view_bit_for_bit(seed, count, copies, sure) -> None:
    """Whatever the candidates are like: nonsense, empty masks and all."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, CLASSES + 1, generator=generator) * 4
    view = Candidates(torch.arange(count) * 3, logits.softmax(1), torch.randn(count, 8, generator=generator))
    masks = (torch.randn(FRAMES, count, CELLS, generator=generator) * 8 - 4).sigmoid()
    masks[:, ::4] = 0
    tubes = fused([(view, masks)] * copies, 0.7 if sure else None)
    scores, labels = view.class_probs.max(dim=1)
    kept = (scores > 0.7) & (labels < CLASSES) if sure else torch.ones(count, dtype=torch.bool)
    assert torch.equal(tubes.members, view.queries[kept][:, None].expand(-1, copies))
    assert torch.equal(tubes.class_probs, view.class_probs[kept])
    assert torch.equal(tubes.weights, torch.ones(int(kept.sum())))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), seen=subsets, data=st.data())
def test_the_order_of_queries_does_not_matter(seed, seen, data) -> None:
    scene = Scene(seed)
    views = [scene.view(one) for one in seen]
    number = data.draw(st.integers(0, len(seen) - 1))
    order = torch.tensor(data.draw(st.permutations(range(len(seen[number])))), dtype=torch.int64)
    changed = [permuted(view, order) if n == number else view for n, view in enumerate(views)]
    names = [[one[i] for i in order] if n == number else one for n, one in enumerate(seen)]
    plain, other = fused(views), fused(changed)
    assert as_sets(plain, seen) == as_sets(other, names)
    if number > 0:  # only the first view's order is the order of the result
        assert torch.equal(plain.class_probs, other.class_probs) and torch.equal(plain.weights, other.weights)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), seen=subsets, data=st.data())
def test_the_order_of_views_does_not_matter(seed, seen, data) -> None:
    scene = Scene(seed)
    views = [scene.view(one) for one in seen]
    order = data.draw(st.permutations(range(len(seen))))
    plain = as_sets(fused(views), seen)
    other = as_sets(fused([views[n] for n in order]), [seen[n] for n in order])
    other = {frozenset((order[view], name) for view, name in key): value for key, value in other.items()}
    assert set(plain) == set(other)
    for key, value in plain.items():
        assert other[key] == pytest.approx(value, abs=1e-6)


# --- what a decision would drop ---------------------------------------------------------------------------


def one_object(*rows: list[float]) -> list[tuple[Candidates, Tensor]]:
    """One object seen by as many views as there are class distributions."""
    mask = torch.zeros(FRAMES, 1, CELLS)
    mask[..., :50] = 1
    return [(Candidates(torch.tensor([4]), torch.tensor([row]), torch.ones(1, 8)), mask) for row in rows]


def test_matched_queries_are_averaged() -> None:
    tubes = fused(one_object([0.9, 0.05, 0.05], [0.8, 0.1, 0.1]))
    assert tubes.members.tolist() == [[4, 4]] and tubes.weights.tolist() == [1]
    assert torch.allclose(tubes.class_probs, torch.tensor([[0.85, 0.075, 0.075]]))


def test_a_doubtful_view_does_not_take_an_object_away() -> None:
    """What one view is sure of is at least what it would be if the other had not seen it at all."""
    tubes = fused(one_object([0.9, 0.05, 0.05], [0.3, 0.1, 0.6]))
    assert tubes.members.tolist() == [[4, -1]] and tubes.weights.tolist() == [0.5]
    assert torch.equal(tubes.class_probs, torch.tensor([[0.9, 0.05, 0.05]]))


def test_views_that_disagree_on_the_class_still_agree_on_the_place() -> None:
    tubes = fused(one_object([0.9, 0.05, 0.05], [0.02, 0.95, 0.03]))
    assert tubes.members.tolist() == [[4, 4]] and tubes.weights.tolist() == [1]
    assert torch.equal(tubes.class_probs, torch.tensor([[0.02, 0.95, 0.03]]))


def test_what_nobody_is_sure_of_is_left_out() -> None:
    views = one_object([0.7, 0.1, 0.2], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8])
    assert len(fused(views).members) == 0
    assert fused(views, None).members.tolist() == [[4, 4, 4]]


def candidates(*labels: int) -> Candidates:
    probs = torch.full((len(labels), CLASSES + 1), 0.01).scatter(1, torch.tensor(labels)[:, None], 0.94)
    return Candidates(torch.arange(len(labels)), probs, torch.randn(len(labels), 8).abs())


def stripes(*spans: tuple[int, int]) -> Tensor:
    masks = torch.zeros(FRAMES, len(spans), CELLS)
    for n, (start, stop) in enumerate(spans):
        masks[:, n, start:stop] = 1
    return masks


def test_pieces_of_a_fused_tube_are_dropped() -> None:
    """The second view saw the object, and a piece of it once more."""
    one = (candidates(2), stripes((0, 100)))
    two = (candidates(2, 2), stripes((0, 100), (10, 40)))
    assert fused([one, two]).members.tolist() == [[0, 0]]


def test_an_object_of_another_class_on_a_fused_tube_stays() -> None:
    one = (candidates(2), stripes((0, 100)))
    two = (candidates(2, 3), stripes((0, 100), (10, 40)))
    assert fused([one, two]).members.tolist() == [[0, 0], [-1, 1]]


def test_pieces_that_cover_each_other_over_several_tubes_are_repeats() -> None:
    """The second view mixed two objects up, half of each: what is left are the first view's two."""
    one = (candidates(2, 2), stripes((0, 100), (100, 200)))
    scores = torch.full((1, CLASSES + 1), 0.01).scatter(1, torch.tensor([[2]]), 0.9)
    mixed = Candidates(torch.tensor([0]), scores, -one[0].embeds[:1])
    assert fused([one, (mixed, stripes((50, 150)))]).members.tolist() == [[0, -1], [1, -1]]


def test_a_view_may_repeat_itself() -> None:
    """Two queries of one view on one object: to choose is the decision's business, as without fusion."""
    view = (candidates(2, 2), stripes((0, 100), (0, 98)))
    assert fused([view]).members.tolist() == [[0], [1]]
    assert fused([view, view]).members.tolist() == [[0, 0], [1, 1]]


# --- parts ------------------------------------------------------------------------------------------------


@given(st.integers(0, 100), st.integers(0, 1))
@settings(max_examples=20, deadline=None)
def test_where_views_follow_different_objects_the_masks_of_one_view_count(seed: int, other: int) -> None:
    scene = Scene(seed)
    views = [scene.view([0, 1, 2]), scene.view([0, 1, 2])]
    views[other][1][-1] = views[other][1][-1, [1, 0, 2]]  # in the last frame it has the first two exchanged
    sums = OverlapSums([3, 3], reference := 1 - other, agree=0.4)
    for frame in range(FRAMES):
        sums.add([masks[frame] for _, masks in views])
    method = FusionSettings(accept=0.6)  # two frames of three are enough
    tubes = fuse([candidates for candidates, _ in views], sums.products, 0.8, method)
    rows = [agreeing(tubes, agreement, reference, 3 * reference) for agreement in sums.agreements]
    assert all(torch.equal(row, tubes.members) for row in rows[:-1])
    exchanged = [0, 1]
    assert (rows[-1][exchanged, other] == -1).all()
    assert torch.equal(rows[-1][exchanged, reference], tubes.members[exchanged, reference])
    assert torch.equal(rows[-1][2], tubes.members[2])


def test_the_view_that_finds_most_is_the_same_in_any_order() -> None:
    scene = Scene(0)
    (two, _), (three, _) = scene.view([0, 1]), scene.view([0, 1, 2])
    assert finds_most([two, three]) == 1 and finds_most([three, two]) == 0 and finds_most([two, two]) == 0


def test_a_good_pair_is_not_given_up_for_two_poor_ones() -> None:
    affinity = torch.eye(4, dtype=torch.float64)
    for a, b, value in ((0, 2, 0.95), (0, 3, 0.6), (1, 2, 0.6), (1, 3, 0.0)):
        affinity[a, b] = affinity[b, a] = value
    assert group(affinity, [2, 2], 0.5) == [[0, 2], [1], [3]]


def test_a_chain_of_pairs_is_no_group_unless_its_ends_agree() -> None:
    affinity = torch.tensor([[1, 0.6, 0.0], [0.6, 1, 0.6], [0.0, 0.6, 1]], dtype=torch.float64)
    assert len(group(affinity, [1, 1, 1], 0.5)) == 2
    affinity[0, 2] = affinity[2, 0] = 0.45
    assert group(affinity, [1, 1, 1], 0.5) == [[0, 1, 2]]


def test_affinity_is_symmetric_and_one_for_the_same() -> None:
    view, masks = Scene(3).view([0, 1, 2, 3])
    both = [(view, masks), (view, masks)]
    affinity = affinities([view, view], products_of(both), Weights())
    assert torch.allclose(affinity, affinity.T)
    assert torch.allclose(affinity[:4, 4:].diagonal(), torch.ones(4, dtype=torch.float64), atol=1e-5)
    assert affinity.min() >= 0 and affinity.max() <= 1 + 1e-5


def test_broken_features_match_nothing_and_break_nothing() -> None:
    broken = Candidates(torch.arange(2), torch.zeros(2, CLASSES + 1), torch.full((2, 8), float("nan")))
    masks = torch.zeros(FRAMES, 2, CELLS)
    assert len(fused([(broken, masks), (broken, masks)], None).members) >= 2


def test_soft_iou_is_iou() -> None:
    masks = torch.rand(8, CELLS, generator=torch.Generator().manual_seed(0)) > 0.6
    sums = OverlapSums([5, 3])
    sums.add([masks[:5].float(), masks[5:].float()])
    inside = (masks[:, None] & masks[None]).sum(-1).double()
    either = (masks[:, None] | masks[None]).sum(-1).double()
    assert torch.allclose(soft_iou(sums.products), inside / either, atol=1e-4)


def test_empty_masks_are_equal_to_each_other_and_to_nothing_else() -> None:
    masks = torch.zeros(3, CELLS)
    masks[2, :10] = 1
    sums = OverlapSums([3])
    sums.add([masks])
    assert torch.allclose(
        soft_iou(sums.products), torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1.0]]).double(), atol=1e-3
    )


GEOMETRIES = [
    Geometry((24, 40), (24, 40), (32, 64)),
    Geometry((50, 31), (25, 30), (32, 32)),
    Geometry((720, 1280), (90, 160), (96, 160)),
    Geometry((1, 1), (1, 1), (32, 32)),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_grid_averages_the_picture_and_not_the_padding(geometry: Geometry) -> None:
    grid = CoarseGrid([View(geometry)])
    h, w = geometry.padded[0] // 4, geometry.padded[1] // 4
    features = torch.full((2, h, w), 3.0)
    features[:, -(-geometry.resized[0] // 4) :] = 1e6
    features[:, :, -(-geometry.resized[1] // 4) :] = 1e6
    masks = grid.masks(0, torch.tensor([[1.0, 0.0], [-0.5, 0.0]]), features)
    assert masks.shape == (2, grid.rows * grid.columns)
    assert torch.allclose(masks, torch.tensor([[3.0], [-1.5]]).sigmoid().expand_as(masks), atol=1e-5)


def test_the_grid_sees_the_same_in_every_view() -> None:
    """A smooth picture at two sizes, and mirrored."""
    sizes = [Geometry((60, 100), (60, 100), (64, 128)), Geometry((60, 100), (96, 160), (96, 160))]
    views = [View(sizes[0]), View(sizes[1]), View(sizes[0], True), View(sizes[1], True)]
    grid = CoarseGrid(views)
    seen = []
    for number, view in enumerate(views):
        h, w = view.geometry.padded[0] // 4, view.geometry.padded[1] // 4
        y = (torch.arange(h) + 0.5) * 4 / view.geometry.resized[0]
        x = (torch.arange(w) + 0.5) * 4 / view.geometry.resized[1]
        x = 1 - x if view.mirrored else x
        features = torch.stack([y[:, None].expand(h, w), x[None].expand(h, w)])
        seen.append(grid.masks(number, torch.tensor([[4.0, 0.0], [0.0, 4.0], [3.0, -5.0]]), features))
    for other in seen[1:]:
        assert torch.allclose(seen[0], other, atol=5e-3)


@pytest.mark.parametrize("shape", [(7, 9), (1, 1)])
def test_mean_masks(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(5)
    members = torch.tensor([[0, 3, 5], [2, -1, -1], [-1, 4, 6], [-1, -1, 7], [1, 1, -1]])
    parts = [torch.rand(int((members[:, s] >= 0).sum()), *shape, generator=generator) for s in range(3)]
    mean = mean_masks(members, parts)
    for n, row in enumerate(members):
        own = [parts[s][int((members[:n, s] >= 0).sum())] for s in range(3) if row[s] >= 0]
        assert torch.allclose(mean[n], torch.stack(own).mean(0), atol=1e-6)
    assert torch.equal(mean[1], parts[0][1]), "of one member it is that member's, bit for bit"
    for order in itertools.permutations(range(3)):
        other = mean_masks(members[:, list(order)], [parts[s] for s in order])
        assert torch.allclose(mean, other, atol=1e-6)


@pytest.mark.parametrize("copies", [1, 2, 3, 5])
def test_the_mean_of_equal_masks_is_the_mask_bit_for_bit(copies: int) -> None:
    masks = torch.rand(4, 8, 8)
    members = torch.arange(4)[:, None].expand(-1, copies)
    assert torch.equal(mean_masks(members, [masks] * copies), masks)
    assert mean_masks(members[:0], [masks[:0]] * copies).shape == (0, 8, 8)


# --- names over horizons ----------------------------------------------------------------------------------


def test_a_tube_keeps_its_name_through_any_member() -> None:
    names = TubeNames(10)
    assert names.of(torch.tensor([[5, 9], [6, -1], [-1, 2]])) == [5, 6, 10]
    assert names.of(torch.tensor([[-1, 9], [6, 2]])) == [5, 6], "the first view's word counts first"
    assert names.of(torch.tensor([[5, -1], [-1, 9]])) == [11, 5], "who left the tube has left its name"
    assert names.of(torch.tensor([[6, 2], [8, 8]])) == [6, 8]


def test_a_name_is_given_once_a_horizon() -> None:
    for members in itertools.permutations([[0, -1], [-1, 0], [1, -1], [-1, 1], [-1, 3]]):
        names = TubeNames(2)
        names.of(torch.tensor([[0, 0], [1, 1]]))
        given = names.of(torch.tensor(members))
        assert len(set(given)) == 5
        assert given[members.index([0, -1])] == 0 and given[members.index([1, -1])] == 1


def test_one_view_s_names_are_its_queries() -> None:
    names = TubeNames(10)
    generator = np.random.default_rng(0)
    for _ in range(6):
        queries = generator.permutation(10)[:5]
        assert names.of(torch.from_numpy(queries[:, None])) == queries.tolist()
