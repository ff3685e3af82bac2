"""Which query is assigned to which object when tracks lose theirs: scripted tracks, whose masks are exact."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_training import MODEL

from dvis_cli.config import model_config
from dvis_cli.errors import ConfigError
from dvis_cli.run.model import DvisModel
from dvis_cli.structures import Category
from dvis_cli.training.clip_settings import ClipSettings
from dvis_cli.training.losses import Criterion, PointSettings
from dvis_cli.training.matcher import ClipAssignment, CostWeights, Matcher, MatchingRule, Predicted
from dvis_cli.training.ownership import handed_over
from dvis_cli.training.points import Draw, uniform_draw
from dvis_cli.training.settings import TrainSettings
from dvis_cli.training.stages import RefinerStage, TrackerStage
from dvis_cli.training.targets import ClipTargets, FrozenFeatures

OBJECTS, QUERIES, SIDE = 3, 5, 16
NOTHING = -1


def clip_of(
    script: list[list[int]], hidden: tuple[tuple[int, int], ...] = ()
) -> tuple[Predicted, ClipTargets]:
    """A clip whose queries cover, in frame t, the objects `script[t]` (NOTHING: no mask).

    Args:
        hidden: (frame, object) pairs in which an object is not to be seen.
    """
    frames = len(script)
    ids = torch.zeros(frames, SIDE, SIDE, dtype=torch.int16)
    for n in range(OBJECTS):
        ids[:, :, 5 * n : 5 * n + 5] = n + 1
    for frame, n in hidden:
        ids[frame][ids[frame] == n + 1] = 0
    areas = torch.stack([ids == n + 1 for n in range(OBJECTS)], dim=1)  # (T, N, H, W)
    features = torch.where(areas, 9.0, -9.0)
    embeds = torch.zeros(frames, QUERIES, OBJECTS)
    for frame, row in enumerate(script):
        for query, n in enumerate(row):
            if n != NOTHING:
                embeds[frame, query, n] = 1.0
    targets = ClipTargets.of(ids, torch.arange(OBJECTS))
    logits = torch.zeros(frames, QUERIES, OBJECTS + 1)
    return Predicted(logits, embeds, features), targets


def matching() -> tuple[Matcher, Draw]:
    return Matcher(CostWeights(), points=64), uniform_draw(0, torch.device("cpu"))


def assigned_of(
    script: list[list[int]], patience: int, hidden: tuple[tuple[int, int], ...] = ()
) -> ClipAssignment:
    matcher, draw = matching()
    return handed_over(matcher, *clip_of(script, hidden), draw, MatchingRule(patience=patience))


def owners(assigned: ClipAssignment) -> list[dict[int, int]]:
    """Of each frame, object -> query; empty masks left out."""
    return [
        {n: q for q, n in zip(pair.queries.tolist(), pair.objects.tolist(), strict=True) if n < OBJECTS}
        for pair in assigned.masks
    ]


def emptied(assigned: ClipAssignment) -> list[set[int]]:
    """Of each frame, the queries whose target is an empty mask."""
    return [set(pair.queries[pair.objects == OBJECTS].tolist()) for pair in assigned.masks]


def classes(assigned: ClipAssignment) -> dict[int, int]:
    assert assigned.classes is not None
    return dict(zip(assigned.classes.queries.tolist(), assigned.classes.objects.tolist(), strict=True))


def test_steady_tracks_keep_their_objects() -> None:
    assigned = assigned_of([[0, 1, 2, NOTHING, NOTHING]] * 6, patience=1)
    assert owners(assigned) == [{0: 0, 1: 1, 2: 2}] * 6
    assert emptied(assigned) == [set()] * 6
    assert classes(assigned) == {0: 0, 1: 1, 2: 2}


@pytest.mark.parametrize("patience", [0, 1, 2, 9])
def test_an_object_goes_over_after_so_many_misses(patience: int) -> None:
    before, after = [0, 1, 2, NOTHING, NOTHING], [NOTHING, 1, 2, 0, NOTHING]
    assigned = assigned_of([before] * 3 + [after] * 5, patience)
    keeps = min(3 + patience, 8)
    assert [frame[0] for frame in owners(assigned)] == [0] * keeps + [3] * (8 - keeps)
    # The one that takes over has no empty mask as target, nor to hide what it alone sees while the owner misses it.
    assert 3 not in set().union(*emptied(assigned)[3:])
    assert (3 in classes(assigned)) == (keeps < 8)


def test_two_that_swap_keep_their_objects_at_first() -> None:
    assigned = assigned_of([[0, 1, 2, NOTHING, NOTHING]] * 2 + [[1, 0, 2, NOTHING, NOTHING]] * 3, patience=1)
    assert [(frame[0], frame[1]) for frame in owners(assigned)] == [(0, 1)] * 3 + [(1, 0)] * 2


def test_a_second_mask_of_a_covered_object_is_to_be_empty_only_for_owners() -> None:
    lost = [[0, 1, 2, NOTHING, NOTHING]] * 2 + [[NOTHING, 1, 2, 0, NOTHING]] * 4
    assigned = assigned_of([*lost, [0, 1, 2, 0, 0]], patience=0)
    assert owners(assigned)[-1][0] == 3
    assert emptied(assigned)[-1] == {
        0
    }  # it owned the object once; query 4 never did, and its class is no-object


def test_absence_is_no_miss_and_nobody_owns_before_the_first_sight() -> None:
    hidden = tuple((frame, 0) for frame in (0, 3, 4))
    script = [[NOTHING, 1, 2, NOTHING, NOTHING]] + [[0, 1, 2, NOTHING, NOTHING]] * 2
    script += [[NOTHING, 1, 2, NOTHING, NOTHING]] * 2 + [[0, 1, 2, NOTHING, NOTHING]]
    found = owners(assigned_of(script, 0, hidden))
    assert 0 not in found[0]
    assert [frame[0] for frame in found[1:]] == [0] * 5


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.permutations([0, 1, 2, NOTHING, NOTHING]), min_size=1, max_size=6),
    st.integers(0, 3),
)
def test_owners_are_one_to_one(script: list[list[int]], patience: int) -> None:
    assigned = assigned_of(script, patience)
    for pair in assigned.masks:
        assert len(set(pair.queries.tolist())) == len(pair.queries)
        seen = [n for n in pair.objects.tolist() if n < OBJECTS]
        assert len(set(seen)) == len(seen)
    ever = {q for frame in owners(assigned) for q in frame.values()}
    assert set(classes(assigned)) == ever


def test_endless_patience_is_equation_4() -> None:
    generator = torch.Generator().manual_seed(3)
    script = [torch.randperm(QUERIES, generator=generator).clamp(max=OBJECTS).tolist() for _ in range(5)]
    script = [[n if n < OBJECTS else NOTHING for n in row] for row in script]
    matcher, draw = matching()
    equation = owners(ClipAssignment(matcher.first_appearance(*clip_of(script), draw, MatchingRule())))
    assert owners(assigned_of(script, patience=99)) == equation


@pytest.mark.parametrize("stage", ["tracker", "refiner"])
def test_both_stages_learn_from_it(stage: str) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(
        model_config(MODEL, "test"), num_classes=OBJECTS, mode="offline" if stage == "refiner" else "online"
    )
    network = DvisModel(config, tuple(Category(i, f"class {i}", True, (0, 0, 0)) for i in range(OBJECTS)))
    _, targets = clip_of([[0, 1, 2, NOTHING, NOTHING]] * 3)
    inputs = FrozenFeatures(torch.randn(1, 3, 8, 32), torch.randn(1, 3, 32, 4, 4))
    matcher, draw = matching()
    rules = (TrackerStage if stage == "tracker" else RefinerStage)(
        network, matcher, Criterion(CostWeights(), PointSettings(count=20), empty_dice=False)
    )
    losses = rules.losses(inputs, [targets], [draw], MatchingRule(guided=False, patience=1))
    assert len(losses) == 3 * 2  # class, mask and dice of each of two blocks
    torch.stack(list(losses.values())).sum().backward()
    grads = {name: p.grad for name, p in getattr(network, stage).named_parameters()}
    for name in ("class_head.weight", "mask_head.layers.0.weight", "blocks.0.ffn.linear1.weight"):
        assert grads[name] is not None and grads[name].abs().max() > 0, name


@pytest.mark.parametrize("patience, guided", [(-1, 0.0), (1, 0.5)])
def test_a_patience_that_makes_no_sense_is_refused(patience: int, guided: float) -> None:
    with pytest.raises(ConfigError, match=f"patience={patience}"):
        TrainSettings(ClipSettings(), patience=patience, guided=guided)
