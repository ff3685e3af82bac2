"""Clips for training: what is drawn, that it is always the same, and what is left out."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_vipseg import CLASSES, HEIGHT, NAMES, WIDTH, id_map, make_dataset, save_ids
from torch.utils.data import DataLoader

from dvis_cli.config import InputConfig, _build, to_document
from dvis_cli.datasets.categories import vipseg_categories
from dvis_cli.datasets.coco_panoptic import CocoPanoptic
from dvis_cli.errors import ConfigError, DatasetError
from dvis_cli.structures import Category
from dvis_cli.training.clip_sources import Mixture, StillSource, VIPSegSource, check_source, open_source
from dvis_cli.training.clips import (
    ClipDataset,
    ClipSample,
    ClipSettings,
    UnusableDataError,
    collate,
    draw_frames,
    start_worker,
)
from dvis_cli.training.targets import ClipTargets
from dvis_cli.video.preprocess import plan_geometry, preprocess

PLAIN = {"short_sides": (HEIGHT,), "flip": False}
INDEX = {category.id: index for index, category in enumerate(vipseg_categories())}


def clips(source, length=8, seed=0, categories=None, **options) -> ClipDataset:
    clip = ClipSettings(**{**PLAIN, **options})
    return ClipDataset(source, categories or vipseg_categories(), clip, InputConfig(), seed, length)


def same(left: ClipSample, right: ClipSample) -> bool:
    return (
        left.name == right.name
        and np.array_equal(left.frames, right.frames)
        and torch.equal(left.targets.ids, right.targets.ids)
        and torch.equal(left.targets.classes, right.targets.classes)
    )


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> VIPSegSource:
    """Two good videos of six frames; tests that spoil something make their own."""
    return VIPSegSource(make_dataset(tmp_path_factory.mktemp("vipseg"), frames=6, split="train"))


@pytest.fixture
def spoilt(tmp_path) -> Path:
    make_dataset(tmp_path, frames=6, split="train")
    return tmp_path


def edit(root: Path, change) -> VIPSegSource:
    """Rewrite the json of a dataset."""
    path = root / "panoptic_gt_VIPSeg_train.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return open_source(root, "train")


# ---- targets


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_targets_against_brute_force(objects, frames, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, objects + 1, (frames, 2, 3)).astype(np.int16)
    ids[rng.random(ids.shape) < 0.5] = 0
    targets = ClipTargets(torch.from_numpy(ids), torch.from_numpy(rng.integers(0, 9, objects)))
    present = [[bool((frame == n + 1).any()) for frame in ids] for n in range(objects)]
    assert targets.present().tolist() == present
    assert targets.first().tolist() == [row.index(True) if any(row) else frames for row in present]
    assert targets.masks(slice(None)).shape == (objects, frames, 2, 3)
    for n in range(objects):
        np.testing.assert_array_equal(targets.masks(torch.tensor([n]))[0].numpy(), ids == n + 1)


def test_targets_and_batches_travel(videos):
    batch = collate([clips(videos, frames=2)[0]])
    moved = batch.to("meta")
    assert moved.frames.is_meta
    assert moved.targets[0].ids.is_meta
    assert moved.targets[0].classes.is_meta
    assert moved.names == batch.names
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
        folder = videos.dataset.root / "images" / video
        for frame, pixels in enumerate(sample.frames):
            path = folder / f"{int(stem) + frame:08d}.jpg"
            np.testing.assert_array_equal(pixels, np.array(Image.open(path).convert("RGB")))


def test_every_video_and_every_start_is_drawn(videos):
    dataset = clips(videos, length=200, frames=4)
    names = Counter(dataset[index].name for index in range(200))
    assert set(names) == {f"{video}/{start:08d}" for video in NAMES for start in range(3)}
    assert min(names.values()) > 15


@given(st.integers(1, 8), st.integers(0, 12), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_frames_of_a_clip_are_in_order_and_near(count, more, spread, seed):
    picked = draw_frames(count + more, ClipSettings(frames=count, spread=spread), np.random.default_rng(seed))
    assert len(picked) == count
    assert 0 <= picked[0] <= picked[-1] < count + more
    assert all(1 <= b - a <= spread for a, b in pairwise(picked))


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
        assert targets.present().any(1).all()
    assert min(seen) < 5


# ---- always the same


def test_clip_i_does_not_depend_on_anything_but_seed_and_i(videos):
    options = {"frames": 2, "flip": True, "reverse": True, "color": 0.3, "crop": (16, 16), "spread": 2}
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


# ---- classes


def test_classes_are_found_by_id_and_name(videos):
    full = vipseg_categories()
    person = next(c for c in full if c.id == 60)
    tree = next(c for c in full if c.id == 66)
    renamed = Category(48, "somebody else", True, (0, 0, 0))
    dataset = clips(videos, categories=(tree, renamed, person), frames=1)
    sample = dataset[0]
    assert sample.targets.classes.tolist() == [
        0,
        2,
        2,
    ]  # 255 is the first of the model's classes, 90000/1 the last
    assert dataset.reports[0].unknown == dict.fromkeys(
        (next(c.name for c in full if c.id == k) for k in (28, 48)), 2
    )
    stem = int(sample.name.split("/")[1])
    void = np.isin(id_map(stem), [0, 700, 123456])
    np.testing.assert_array_equal(sample.targets.ids[0].numpy() == 0, void)
    (line,) = dataset.reports[0].lines()
    assert "4 segments of classes that the model does not have" in line


def test_crowds_are_void(spoilt):
    def crowd(document):
        for video in document["annotations"]:
            for frame in video["annotations"]:
                frame["segments_info"][0]["iscrowd"] = 1

    sample = clips(edit(spoilt, crowd))[0]
    assert INDEX[CLASSES[255]] not in sample.targets.classes.tolist()
    truth = id_map(int(sample.name.split("/")[1]))
    np.testing.assert_array_equal(sample.targets.ids[0].numpy() == 0, np.isin(truth, [0, 255]))


def test_an_id_that_only_the_picture_has_is_void(spoilt):
    def forget(document):
        for video in document["annotations"]:
            for frame in video["annotations"]:
                frame["segments_info"] = [s for s in frame["segments_info"] if s["id"] != 700]

    sample = clips(edit(spoilt, forget))[0]
    truth = id_map(int(sample.name.split("/")[1]))
    np.testing.assert_array_equal(sample.targets.ids[0].numpy() == 0, np.isin(truth, [0, 700]))


# ---- bad data


def drop_segments(document, video: int) -> None:
    for frame in document["annotations"][video]["annotations"]:
        frame["segments_info"] = []


def cut_short(document, video: int) -> None:
    document["videos"][video]["images"] = document["videos"][video]["images"][:2]
    document["annotations"][video]["annotations"] = document["annotations"][video]["annotations"][:2]


def only_grass(document, video: int) -> None:
    for frame in document["annotations"][video]["annotations"]:
        frame["segments_info"] = [s for s in frame["segments_info"] if s["id"] == 700]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (drop_segments, "no segments"),
        (cut_short, "fewer frames than a clip (3)"),
        (only_grass, "no segment of the model's classes"),
    ],
)
def test_videos_that_the_json_shows_to_be_useless_are_left_out_and_counted(spoilt, spoil, why):
    categories = [category for category in vipseg_categories() if category.id != 28]
    dataset = clips(edit(spoilt, lambda d: spoil(d, 0)), length=12, frames=3, categories=categories)
    assert dataset.skipped == {why: 1}
    assert dataset.reports[0].usable == (1,)
    assert any(f"1 videos skipped: {why}" in line for line in dataset.reports[0].lines())
    assert {dataset[index].name.split("/")[0] for index in range(12)} == {NAMES[1]}
    with pytest.raises(DatasetError, match=r"no video to train on: 2 videos have") as caught:
        clips(edit(spoilt, lambda d: spoil(d, 1)), frames=3, categories=categories)
    assert why in str(caught.value)


def remove(root: Path, stem: str) -> None:
    (root / "images" / NAMES[0] / f"{stem}.jpg").unlink()


def damage_image(root: Path, stem: str) -> None:
    path = root / "images" / NAMES[0] / f"{stem}.jpg"
    path.write_bytes(path.read_bytes()[:200])


def other_size(root: Path, stem: str) -> None:
    Image.new("RGB", (8, 8)).save(root / "images" / NAMES[0] / f"{stem}.jpg")


def damage_mask(root: Path, stem: str) -> None:
    path = root / "panomasksRGB" / NAMES[0] / f"{stem}.png"
    path.write_bytes(path.read_bytes()[:60])


def remove_mask(root: Path, stem: str) -> None:
    (root / "panomasksRGB" / NAMES[0] / f"{stem}.png").unlink()


def empty_mask(root: Path, stem: str) -> None:
    save_ids(root / "panomasksRGB" / NAMES[0] / f"{stem}.png", np.zeros((HEIGHT, WIDTH), np.int64))


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (remove, "unreadable image"),
        (damage_image, "unreadable image"),
        (other_size, "unreadable image"),
        (damage_mask, "unreadable mask"),
        (remove_mask, "unreadable mask"),
        (empty_mask, "no object in the clip"),
    ],
)
def test_what_cannot_be_used_is_replaced_by_the_next_draw_and_counted(spoilt, spoil, kind):
    for frame in range(6):
        spoil(spoilt, f"{frame:08d}")
    source = open_source(spoilt, "train")
    dataset = clips(source, length=20, frames=2)
    samples = [dataset[index] for index in range(20)]
    assert {sample.name.split("/")[0] for sample in samples} == {NAMES[1]}
    lines = [line for sample in samples for line in sample.skipped]
    assert dataset.skipped == {kind: len(lines)}
    assert len(lines) >= 5
    assert all(line.startswith(f"{kind}: ") and NAMES[0] in line and "\n" not in line for line in lines)
    assert collate(samples).skipped == tuple(lines)
    again = clips(source, length=20, frames=2)
    assert all(same(again[index], samples[index]) for index in reversed(range(20)))


def test_frames_of_different_sizes_make_no_clip(spoilt):
    def grow(document):
        for entry in document["videos"][0]["images"][1::2]:
            entry["width"], entry["height"] = 2 * WIDTH, 2 * HEIGHT

    for frame in range(1, 6, 2):
        large = np.kron(id_map(frame), np.ones((2, 2), np.int64))
        save_ids(spoilt / "panomasksRGB" / NAMES[0] / f"{frame:08d}.png", large)
        picture = Image.new("RGB", (2 * WIDTH, 2 * HEIGHT))
        picture.save(spoilt / "images" / NAMES[0] / f"{frame:08d}.jpg")
    dataset = clips(edit(spoilt, grow), length=20, frames=2)
    assert {dataset[index].name.split("/")[0] for index in range(20)} == {NAMES[1]}
    assert set(dataset.skipped) == {"frames of different sizes"}


def test_when_nothing_can_be_read_one_sentence_says_so(spoilt):
    for path in spoilt.rglob("*.jpg"):
        path.unlink()
    dataset = clips(open_source(spoilt, "train"))
    with pytest.raises(DatasetError, match=r"no clip could be made in 100 draws; .* is missing$") as caught:
        dataset[0]
    # What a loader makes of it that runs the dataset in another process.
    message = (
        f"Caught UnusableDataError in DataLoader worker process 0.\nOriginal Traceback:\n  x\n{__name__}."
    )
    told = UnusableDataError(f"{message}UnusableDataError: {caught.value}\n")
    assert str(told) == str(caught.value)


def test_nothing_in_common_with_the_model_is_said(videos):
    with pytest.raises(DatasetError, match="shares no class with the model, by id and name"):
        clips(videos, categories=(Category(0, "cat", True, (0, 0, 0)),))


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


# ---- single images


@pytest.fixture
def stills(tmp_path) -> Path:
    """Two images in COCO's layout whose pixels tell their ids."""
    masks = tmp_path / "annotations" / "panoptic_train2017"
    (tmp_path / "train2017").mkdir()
    images, truths = [], []
    for number in (7, 8):
        ids = np.kron(np.arange(12).reshape(3, 4) * 1000 + number, np.ones((32, 32), np.int64))
        name = f"{number:012d}"
        save_ids(masks / f"{name}.png", ids)
        shown = (ids // 1000 * 20).astype(np.uint8)
        Image.fromarray(shown).convert("RGB").save(tmp_path / "train2017" / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.png", "width": 128, "height": 96})
        segments = [{"id": int(i), "category_id": int(i) // 1000 % 3, "iscrowd": 0} for i in np.unique(ids)]
        truths.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
    categories = [{"id": k, "name": f"class {k}", "isthing": k % 2, "supercategory": "x"} for k in range(3)]
    document = {"images": images, "annotations": truths, "categories": categories}
    (tmp_path / "annotations" / "panoptic_train2017.json").write_text(json.dumps(document))
    return tmp_path


def test_single_images_become_clips_whose_ids_follow_the_picture(stills):
    source = open_source(stills, "train2017")
    assert isinstance(source, StillSource)
    assert [category.name for category in source.categories] == ["class 1", "class 0", "class 2"]
    dataset = clips(source, length=6, categories=source.categories, frames=4, short_sides=(96,), flip=True)
    for sample in dataset:
        assert sample.frames.shape == (4, 96, 128, 3)
        classes = sample.targets.classes
        for n, mask in enumerate(sample.targets.masks(slice(None)).numpy()):
            values = sample.frames[..., 0][mask]
            if len(values) > 200:
                shown = round(float(np.median(values)) / 20)
                assert np.abs(np.median(values) - 20 * shown) <= 2
                assert classes[n] == [1, 0, 2][shown % 3]
        assert (sample.targets.ids[0] != sample.targets.ids[3]).any()


def test_single_images_stand_still_for_clips_of_one_frame(stills):
    source = open_source(stills, "train2017")
    sample = clips(source, categories=source.categories, short_sides=(96,))[0]
    path = stills / "train2017" / f"{sample.name.split('/')[1]}.png"
    np.testing.assert_array_equal(sample.frames[0], np.array(Image.open(path)))
    assert len(sample.targets.classes) == 12


def test_coco_json_is_checked(stills):
    path = stills / "annotations" / "panoptic_train2017.json"
    good = json.loads(path.read_text())

    def broken(change) -> str:
        document = json.loads(json.dumps(good))
        change(document)
        path.write_text(json.dumps(document))
        with pytest.raises(DatasetError) as caught:
            CocoPanoptic.open(stills, "train2017")
        assert str(path) in str(caught.value)
        return str(caught.value)

    assert "categories" in broken(lambda d: d.pop("categories"))
    assert "lead elsewhere" in broken(lambda d: d["images"][0].update(file_name="../secret.jpg"))
    assert "whole numbers" in broken(lambda d: d["images"][0].update(width=10**9))
    assert "category_id 99" in broken(
        lambda d: d["annotations"][0]["segments_info"][0].update(category_id=99)
    )
    assert "listed twice" in broken(
        lambda d: d["annotations"][0]["segments_info"].append(d["annotations"][0]["segments_info"][0])
    )
    assert "image 7" in broken(lambda d: d["annotations"][0].pop("segments_info"))
    with pytest.raises(DatasetError, match="does not exist"):
        open_source(stills, "val2017")


# ---- mixtures and settings


def test_a_mixture_draws_by_weight_and_maps_each_source(videos, stills):
    still = open_source(stills, "train2017")
    categories = (
        *vipseg_categories(),
        *(Category(c.id + 0, c.name, c.isthing, c.color) for c in still.categories),
    )
    dataset = clips(Mixture((videos, still), (1, 3)), length=200, categories=categories, frames=2)
    names = Counter(dataset[index].name.split("/")[0] == "train2017" for index in range(200))
    assert 125 < names[True] < 175
    assert {report.source for report in dataset.reports} == {videos.name, still.name}
    sample = next(s for s in dataset if s.name.startswith("train2017"))
    assert min(sample.targets.classes.tolist()) >= len(vipseg_categories())
    for weights in ((1,), (0, 1), (1, float("nan"))):
        with pytest.raises(DatasetError, match="weights"):
            Mixture((videos, still), weights)


def test_check_source_reports_progress(videos):
    calls = []
    report = check_source(videos, ClipSettings(), vipseg_categories(), lambda: calls.append(1))
    assert len(calls) == len(NAMES)
    assert report.usable == (0, 1)
    assert report.lines() == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frames": 0}, "clips.frames=0"),
        ({"short_sides": ()}, "short_sides"),
        ({"short_sides": (0,)}, "short_sides"),
        ({"crop": (608,)}, "crop"),
        ({"spread": 0}, "spread"),
        ({"color": 1.5}, "color"),
        ({"motion": -1.0}, "motion"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        ClipSettings(**values)


def test_settings_come_from_yaml():
    document = {"frames": 5, "short_sides": [96, 128], "crop": [64, 64], "color": 0}
    built = _build(ClipSettings, document, "clips")
    assert built == ClipSettings(5, (96, 128), crop=(64, 64))
    assert _build(ClipSettings, to_document(built), "clips") == built
