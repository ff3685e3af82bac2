"""Clips for training: what is drawn, that it is always the same, and how it is batched."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_vipseg import CLASSES, HEIGHT, NAMES, WIDTH, id_map, make_dataset
from torch.utils.data import DataLoader
from training_clips import INDEX, clips, same

from dvis_cli.datasets.vipseg import VIPSeg
from dvis_cli.training.clips import (
    collate,
    draw_frames,
    start_worker,
)
from dvis_cli.training.targets import ClipTargets
from dvis_cli.video.preprocess import plan_geometry, preprocess


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> VIPSeg:
    """Two good videos of six frames; tests that spoil something make their own."""
    return make_dataset(tmp_path_factory.mktemp("vipseg"), frames=6, split="train")


# ---- targets


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_targets_against_brute_force(objects, frames, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, objects + 1, (frames, 2, 3)).astype(np.int16)
    ids[rng.random(ids.shape) < 0.5] = 0
    targets = ClipTargets.of(torch.from_numpy(ids), torch.from_numpy(rng.integers(0, 9, objects)))
    present = [[bool((frame == n + 1).any()) for frame in ids] for n in range(objects)]
    assert (targets.areas > 0).tolist() == present
    assert targets.first().tolist() == [row.index(True) if any(row) else frames for row in present]
    areas = [[int((frame == n + 1).sum()) for frame in ids] for n in range(objects)]
    assert targets.areas.tolist() == areas
    halves = [next((t for t, a in enumerate(row) if a and 2 * a >= max(row)), frames) for row in areas]
    assert targets.first(0.5).tolist() == halves


def test_targets_and_batches_travel(videos):
    batch = collate([clips(videos, frames=2)[0]])
    moved = batch.to("meta")
    assert moved.frames.is_meta
    assert moved.targets[0].ids.is_meta
    assert moved.targets[0].classes.is_meta
    assert moved.names == batch.names
    assert moved.targets[0].areas is batch.targets[0].areas
    again = pickle.loads(pickle.dumps(batch))
    assert torch.equal(again.targets[0].ids, batch.targets[0].ids)


# ---- what is drawn


def test_a_clip_is_what_the_files_say(videos):
    for index in range(6):
        sample = clips(videos, frames=3)[index]
        video, stem = sample.name.split("/")
        assert video in NAMES
        truth = np.stack([id_map(int(stem) + frame) for frame in range(3)])
        numbers = sorted(set(np.unique(truth)) - {0})
        expected = np.searchsorted([0, *numbers], truth)
        np.testing.assert_array_equal(sample.targets.ids.numpy(), expected)
        assert sample.targets.classes.tolist() == [INDEX[CLASSES[number]] for number in numbers]
        folder = videos.root / "images" / video
        for frame, pixels in enumerate(sample.frames):
            path = folder / f"{int(stem) + frame:08d}.jpg"
            np.testing.assert_array_equal(pixels, np.array(Image.open(path).convert("RGB")))


def test_every_video_and_every_start_is_drawn(videos):
    dataset = clips(videos, length=200, frames=4)
    names = Counter(dataset[index].name for index in range(200))
    assert set(names) == {f"{video}/{start:08d}" for video in NAMES for start in range(3)}
    assert min(names.values()) > 15


@given(st.integers(1, 8), st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_frames_of_a_clip_are_consecutive(count, more, seed):
    picked = draw_frames(count + more, count, np.random.default_rng(seed))
    assert picked.stop - picked.start == count
    assert 0 <= picked.start < picked.stop <= count + more


def test_reversed_clips_play_backwards_and_are_named_by_their_first_frame(videos):
    dataset = clips(videos, length=20, frames=6, reverse=True)
    ends = Counter()
    for index in range(20):
        sample = dataset[index]
        stem = int(sample.name.split("/")[1])
        order = range(6) if stem == 0 else range(5, -1, -1)
        truth = np.stack([id_map(frame) for frame in order])
        np.testing.assert_array_equal(sample.targets.ids.numpy() > 0, truth > 0)
        np.testing.assert_array_equal(sample.targets.ids.numpy() == 3, truth == 90000)
        ends[stem] += 1
    assert set(ends) == {0, 5}


def test_flips_happen_half_of_the_time_to_picture_and_ids(videos):
    dataset = clips(videos, length=40, frames=1, flip=True)
    sides = []
    for index in range(40):
        sample = dataset[index]
        left = not sample.targets.ids[:, :, 0].any()  # the void border is at the left
        sides.append(left)
        assert sample.targets.ids[:, :, -1 if left else 0].all()
        border = sample.frames[:, :, 0 if left else -1]
        assert border.mean() < sample.frames[:, :, -1 if left else 0].mean()
    assert 8 < sum(sides) < 32


def test_sizes_follow_the_rule_and_the_crop(videos):
    dataset = clips(videos, length=30, frames=2, short_sides=(12, 24, 48))
    shapes = {dataset[index].frames.shape[1:3] for index in range(30)}
    assert shapes == {plan_geometry(HEIGHT, WIDTH, short).resized for short in (12, 24, 48)}
    cropped = clips(videos, frames=2, short_sides=(48,), crop=(20, 30))[0]
    assert cropped.frames.shape == (2, 20, 30, 3)
    assert cropped.targets.ids.shape == (2, 20, 30)
    assert clips(videos, short_sides=(24,), crop=(100, 100))[0].frames.shape == (1, 24, 32, 3)


def test_objects_that_a_crop_removes_are_no_targets(videos):
    seen = set()
    for index in range(8):
        targets = clips(videos, frames=2, crop=(6, 6))[index].targets
        count = len(targets.classes)
        seen.add(count)
        assert targets.ids.max() == count
        assert targets.areas.any(1).all()
    assert min(seen) < 5


# ---- always the same


def test_clip_i_does_not_depend_on_anything_but_seed_and_i(videos):
    options = {"frames": 2, "flip": True, "reverse": True, "color": 0.3, "crop": (16, 16)}
    first = clips(videos, length=12, **options)
    samples = [first[index] for index in range(12)]
    other = pickle.loads(pickle.dumps(clips(videos, length=12, **options)))
    assert all(same(samples[index], other[index]) for index in reversed(range(12)))
    longer = clips(videos, length=500, **options)
    assert same(samples[7], longer[7])
    elsewhere = clips(videos, length=12, seed=1, **options)
    assert not all(same(samples[index], elsewhere[index]) for index in range(12))
    assert not all(same(samples[0], sample) for sample in samples[1:])


def test_loader_workers_change_nothing(videos):
    dataset = clips(videos, length=8, frames=2, flip=True)
    alone = list(DataLoader(dataset, 2, collate_fn=collate))
    several = list(
        DataLoader(
            dataset,
            2,
            collate_fn=collate,
            num_workers=2,
            worker_init_fn=start_worker,
            multiprocessing_context="spawn",
        )
    )
    assert [batch.names for batch in alone] == [batch.names for batch in several]
    for left, right in zip(alone, several, strict=True):
        assert torch.equal(left.frames, right.frames)
        for one, two in zip(left.targets, right.targets, strict=True):
            assert torch.equal(one.ids, two.ids)


def test_indices_end_with_the_run(videos):
    dataset = clips(videos, length=3)
    assert len(dataset) == 3
    assert len(list(dataset)) == 3
    with pytest.raises(IndexError):
        dataset[3]
    assert len(clips(videos, length=None)) == 2


# ---- batches


def test_a_batch_is_what_inference_would_see(videos):
    samples = [clips(videos, frames=2, short_sides=(side,))[index] for index, side in ((0, 24), (1, 40))]
    batch = collate(samples)
    assert batch.frames.shape == (2, 2, 3, 64, 64)
    assert batch.frames.dtype == torch.float32
    for row, sample in enumerate(samples):
        high, wide = sample.frames.shape[1:3]
        geometry = plan_geometry(high, wide, high, 10_000)
        for frame in range(2):
            alone = preprocess(sample.frames[frame], geometry)
            assert torch.equal(batch.frames[row, frame, :, : alone.shape[1], : alone.shape[2]], alone)
        assert not batch.frames[row, :, :, high:].any()
        assert not batch.frames[row, :, :, :, wide:].any()
        ids = batch.targets[row].ids
        assert ids.shape == (2, 64, 64)
        assert torch.equal(ids[:, :high, :wide], sample.targets.ids)
        assert not ids[:, high:].any()
        assert not ids[:, :, wide:].any()
    assert batch.names == tuple(sample.name for sample in samples)
