"""Objects pasted into other pictures, and the loss that tells a picture's segments apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_vipseg import make_dataset
from torch import nn
from training_clips import clips, same

from dvis_cli.config import PixelDecoderConfig
from dvis_cli.errors import ConfigError
from dvis_cli.training.clip_settings import ClipSettings
from dvis_cli.training.dense import ApartHead
from dvis_cli.training.paste import Cutout, cut_out, paste
from dvis_cli.training.targets import ClipTargets


def block(value: int, label: int, size: tuple[int, int] = (40, 20)) -> Cutout:
    return Cutout(np.full((*size, 3), value, np.uint8), np.ones(size, bool), label)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_pasted_is_numbered_and_nothing_else_changes(seed: int) -> None:
    rgb, ids = np.full((90, 120, 3), 10, np.uint8), np.zeros((90, 120), np.int16)
    ids[:30] = 1
    kept = rgb.copy(), ids.copy()
    out, numbers, labels = paste(rgb, ids, [7], [block(200, 4)], np.random.default_rng(seed))
    assert np.array_equal(rgb, kept[0]) and np.array_equal(ids, kept[1])
    assert labels[0] == 7 and set(labels[1:]) == {4} and 1 <= len(labels) - 1 <= 5
    untouched = (numbers == ids) & (numbers < 2)
    assert np.array_equal(out[untouched & (numbers == 1)], rgb[untouched & (numbers == 1)])
    assert (out[numbers > 1] > 100).all()
    assert numbers.max() <= len(labels)


def test_who_is_hidden_is_void_and_who_stands_lower_is_in_front() -> None:
    hidden = front = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        _, ids, labels = paste(np.zeros((90, 120, 3), np.uint8), np.zeros((90, 120), np.int16), [],
                               [block(200, 0, (60, 30))], rng)  # fmt: skip
        seen = np.bincount(ids.ravel(), minlength=len(labels) + 1)[1:]
        hidden += int((seen == 0).sum())
        present = np.flatnonzero(seen) + 1
        bottoms = [np.nonzero(ids == n)[0].max() for n in present]
        front += bottoms == sorted(bottoms)
        assert (seen[seen > 0] > 8).all()
    assert hidden and front > 150


def test_only_whole_objects_are_cut_out() -> None:
    ids = np.zeros((80, 80), np.int16)
    ids[10:50, 10:30] = 1
    ids[0:40, 40:60] = 2  # leaves the picture
    ids[60:66, 10:30] = 3  # too low
    rgb = np.random.default_rng(0).integers(0, 255, (80, 80, 3)).astype(np.uint8)
    (one,) = cut_out(rgb, ids, [5, 6, 7])
    assert one.label == 5 and one.mask.all() and np.array_equal(one.rgb, rgb[10:50, 10:30])


def test_clips_with_pasted_objects_are_always_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("dvis_cli.training.paste.SMALLEST", 4)
    videos = make_dataset(tmp_path, frames=3, split="train")
    more = {"paste": 1.0, "pasted": ("person",)}
    left, right, plain = clips(videos, **more), clips(videos, **more), clips(videos)
    assert all(same(left[i], right[i]) for i in (3, 0))
    person = next(i for i, c in enumerate(videos.categories) if c.name == "person")
    assert left._cutouts and {one.label for one in left._cutouts} == {person}
    counts = [[(c[i].targets.classes == person).sum() for i in range(8)] for c in (left, plain)]
    assert sum(counts[0]) > sum(counts[1])


def test_pasting_is_for_single_frames() -> None:
    with pytest.raises(ConfigError, match="paste"):
        ClipSettings(frames=3, paste=0.5)
    with pytest.raises(ConfigError, match="paste"):
        ClipSettings(paste=1.5)


class Network:
    class config:  # noqa: N801
        pixel_decoder = PixelDecoderConfig(mask_channels=8)


def test_segments_with_features_of_their_own_cost_less() -> None:
    ids = torch.zeros(1, 16, 16, dtype=torch.int16)
    ids[0, :8], ids[0, 8:, :8] = 1, 2
    target = ClipTargets.of(ids, torch.tensor([0, 0]))
    head = ApartHead(Network(), 1.0)
    alike = torch.ones(1, 1, 8, 4, 4, requires_grad=True)
    apart = torch.zeros(1, 1, 8, 4, 4)
    apart[0, 0, 0, :2], apart[0, 0, 1, 2:, :2] = 5, 5
    assert head(alike, [target]).item() == pytest.approx(np.log(2))
    assert head(apart, [target]) < 0.01
    nothing = ClipTargets.of(torch.zeros(1, 16, 16, dtype=torch.int16), torch.zeros(0, dtype=torch.int64))
    assert head(alike, [nothing]) == 0
    head(alike, [target]).backward()
    assert isinstance(head.embed, nn.Linear) and torch.isfinite(alike.grad).all()
