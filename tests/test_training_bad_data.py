"""Classes that a model lacks, and data that cannot be used: left out, counted, reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_vipseg import CLASSES, HEIGHT, NAMES, WIDTH, id_map, make_dataset, save_ids
from training_clips import INDEX, clips, edit, same

from dvis_cli.datasets.categories import vipseg_categories
from dvis_cli.errors import DatasetError
from dvis_cli.structures import Category
from dvis_cli.training.clip_sources import open_source
from dvis_cli.training.clips import UnusableDataError, collate


@pytest.fixture
def spoilt(tmp_path) -> Path:
    make_dataset(tmp_path, frames=6, split="train")
    return tmp_path


# ---- classes


def test_classes_are_found_by_id_and_name(spoilt):
    videos = open_source(spoilt, "train")
    full = vipseg_categories()
    person = next(c for c in full if c.id == 60)
    tree = next(c for c in full if c.id == 66)
    renamed = Category(48, "somebody else", True, (0, 0, 0))
    dataset = clips(videos, categories=(tree, renamed, person), frames=1)
    sample = dataset[0]
    assert sample.targets.classes.tolist() == [0, 2, 2]  # a tree, two persons
    assert dataset.reports[0].unknown == {c.name: 2 for c in full if c.id in (28, 48)}
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
    assert dataset.reports[0].skipped == {why: 1}
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
    samples = [dataset[index] for index in range(20)]
    assert {sample.name.split("/")[0] for sample in samples} == {NAMES[1]}
    reasons = {line.partition(":")[0] for sample in samples for line in sample.skipped}
    assert reasons == {"frames of different sizes"}


def test_when_nothing_can_be_read_there_is_one_line(spoilt):
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


def test_nothing_in_common_with_the_model_is_an_error(spoilt):
    videos = open_source(spoilt, "train")
    with pytest.raises(DatasetError, match="shares no class with the model, by id and name"):
        clips(videos, categories=(Category(0, "cat", True, (0, 0, 0)),))
