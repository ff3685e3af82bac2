"""Single images as clips, mixtures of sources, and the settings of clips."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_vipseg import make_dataset, save_ids
from training_clips import clips

from dvis_cli.config import _build, to_document
from dvis_cli.datasets.categories import vipseg_categories
from dvis_cli.datasets.coco_panoptic import CocoPanoptic
from dvis_cli.datasets.vipseg import VIPSeg
from dvis_cli.errors import ConfigError, DatasetError
from dvis_cli.structures import Category
from dvis_cli.training.clip_settings import ClipSettings
from dvis_cli.training.clip_sources import Mixture, check_source, open_source


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> VIPSeg:
    """Two good videos of six frames; tests that spoil something make their own."""
    return make_dataset(tmp_path_factory.mktemp("vipseg"), frames=6, split="train")


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
    assert isinstance(source, CocoPanoptic)
    assert [category.name for category in source.categories] == ["class 1", "class 0", "class 2"]
    dataset = clips(source, length=6, categories=source.categories, frames=4, short_sides=(96,), flip=True)
    for sample in dataset:
        assert sample.frames.shape == (4, 96, 128, 3)
        classes = sample.targets.classes
        for n in range(len(classes)):
            mask = sample.targets.ids.numpy() == n + 1
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
    assert "a whole number" in broken(lambda d: d["images"][0].update(width=10**9))
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
    assert {report.source for report in dataset.reports} == {str(videos.json_path), str(still.json_path)}
    sample = next(s for s in dataset if s.name.startswith("train2017"))
    assert min(sample.targets.classes.tolist()) >= len(vipseg_categories())
    for weights in ((1,), (0, 1), (1, float("nan"))):
        with pytest.raises(DatasetError, match="weights"):
            Mixture((videos, still), weights)


def test_a_good_source_has_nothing_to_report(videos):
    report = check_source(videos, ClipSettings(), vipseg_categories())
    assert report.usable == (0, 1)
    assert report.lines() == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frames": 0}, "clips.frames=0"),
        ({"short_sides": ()}, "short_sides"),
        ({"short_sides": (0,)}, "short_sides"),
        ({"crop": (608,)}, "crop"),
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
