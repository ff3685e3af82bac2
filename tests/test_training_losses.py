"""Losses, assignments and gradients of the three stages against the recorded ones, in both id conventions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from goldens import FOLDER, Golden

from dvis_cli.run.loading import to_official
from dvis_cli.run.model import DvisModel
from dvis_cli.structures import Geometry
from dvis_cli.training.losses import Criterion, Losses, MatchedMasks, PointSettings
from dvis_cli.training.matcher import CostWeights, Matcher, MatchingRule
from dvis_cli.training.points import Draw, uniform_draw
from dvis_cli.training.stages import RefinerStage, SegmenterStage, TrackerStage
from dvis_cli.training.targets import ClipTargets, FrozenFeatures
from dvis_cli.video.preprocess import preprocess

RECORDED = json.loads((FOLDER / "loss" / "losses.json").read_text())
ARRAYS = dict(np.load(FOLDER / "loss" / "losses.npz"))
POINTS = 112
SIZE = (96, 160)
PART = {"minvis": "segmenter", "online": "tracker", "offline": "refiner"}


class RecordingMatcher(Matcher):
    """Keeps every assignment it makes."""

    made: list

    def per_frame(self, *arguments, **options):
        pairs = super().per_frame(*arguments, **options)
        self.made.append(pairs)
        return pairs

    def first_appearance(self, *arguments, **options):
        pairs = super().first_appearance(*arguments, **options)
        self.made.append(pairs)
        return pairs

    def whole_clip(self, *arguments, **options):
        pairs = super().whole_clip(*arguments, **options)
        self.made.append([pairs])
        return pairs


def targets() -> ClipTargets:
    ids = torch.zeros((3, *SIZE), dtype=torch.int16)
    for n, mask in enumerate(torch.from_numpy(ARRAYS["masks"])):
        ids[mask] = n + 1
    return ClipTargets.of(ids, torch.from_numpy(ARRAYS["classes"]))


def replay(name: str) -> tuple[Draw, list]:
    """The recorded draws in their order; the list counts them."""
    drawn: list = []

    def draw(masks: int, points: int) -> torch.Tensor:
        recorded = torch.from_numpy(ARRAYS[f"{name}.draw{len(drawn)}"])
        assert recorded.shape == (masks, points, 2)
        drawn.append((masks, points))
        return recorded

    return draw, drawn


def compute(name: str, network: DvisModel) -> tuple[Losses, list, list]:
    stage, convention, guided = name.split(".")
    draw, drawn = replay(name)
    matcher = RecordingMatcher(CostWeights(), POINTS)
    matcher.made = []
    criterion = Criterion(CostWeights(), PointSettings(POINTS))
    rule = MatchingRule(guided == "guided", "official")
    truth = targets()
    if convention == "vps":  # as the official loader of panoptic data: all objects from the first frame on
        truth = replace(truth, areas=np.ones_like(truth.areas))
    geometry = Geometry(SIZE, SIZE, SIZE)
    frames = torch.stack([preprocess(rgb, geometry) for rgb in ARRAYS["frames"]])
    if stage == "minvis":
        losses = SegmenterStage(network, matcher, criterion).losses(frames[None], [truth], [draw], rule)
        return losses, matcher.made, drawn
    with torch.no_grad():
        output = network.segmenter(frames)
    inputs = FrozenFeatures(output.queries[None], output.mask_features[None])
    kind = TrackerStage if stage == "online" else RefinerStage
    losses = kind(network, matcher, criterion).losses(inputs, [truth], [draw], rule)
    return losses, matcher.made, drawn


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_losses(name: str) -> None:
    recorded = RECORDED[name]
    network = Golden.load("swin").model
    part = getattr(network, PART[name.split(".")[0]]).requires_grad_(True)
    try:
        losses, assignments, drawn = compute(name, network)
        assert len(drawn) == recorded["n_draws"]
        assert losses.keys() == recorded["losses"].keys()
        for key, value in recorded["losses"].items():
            assert losses[key].item() == pytest.approx(value, rel=1e-4), key
        found = [[[p.queries.tolist(), p.objects.tolist()] for p in pairs] for pairs in assignments]
        assert found == recorded["matcher_indices"]
        sum(losses.values()).backward()
        norms = {
            to_official(n): p.grad.norm().item() for n, p in network.named_parameters() if p.grad is not None
        }
        assert len(norms) == recorded["n_params_with_grad"]
        for key, value in recorded["grad_norms"].items():
            assert norms[key] == pytest.approx(value, rel=1e-4), key
        total = sum(norm**2 for norm in norms.values()) ** 0.5
        assert total == pytest.approx(recorded["grad_norm_total"], rel=1e-4)
    finally:
        part.zero_grad()
        network.requires_grad_(False)


def test_dice_of_an_absent_object_can_be_left_out() -> None:
    """An object that is not in a frame still counts in the mask loss, which has an empty mask as target."""
    ids = torch.zeros(2, 8, 8, dtype=torch.int16)
    ids[0, 2:6, 2:6] = 1
    masks = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    rows, wanted, present = torch.tensor([0, 1]), torch.tensor([1, 1]), torch.tensor([True, False])

    def losses(n: int, empty_dice: bool) -> tuple[float, float]:
        """Sums over the first n masks."""
        criterion = Criterion(CostWeights(), PointSettings(count=50), empty_dice=empty_dice)
        matched = MatchedMasks(masks[:n], ids, rows[:n], wanted[:n], present[:n], [n])
        mask, dice = criterion.mask_losses(matched, [uniform_draw(1, torch.device("cpu"))])
        return n * mask.item(), n * dice.item()

    assert losses(2, True)[0] == losses(2, False)[0] > losses(1, False)[0]
    assert losses(2, True)[1] > losses(2, False)[1] > 0
    assert losses(1, True) == losses(1, False)
