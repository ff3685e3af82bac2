"""Ground truth and submissions of instance and semantic segmentation: reading them, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_vipseg import HEIGHT, NAMES, WIDTH, id_map, make_dataset

from dvis_cli.challenge.formats import task_of_submission
from dvis_cli.challenge.problems import KINDS
from dvis_cli.challenge.scoring import evaluate
from dvis_cli.challenge.tables import score_document
from dvis_cli.challenge.vspw import VSPW
from dvis_cli.challenge.ytvis import YTVIS
from dvis_cli.coco_masks import decode, encode
from dvis_cli.errors import DatasetError

SIZE = (6, 8)


def ytvis_json(**changes: Any) -> dict[str, Any]:
    """Two videos of two frames; a box as plain run lengths, and the same as a polygon."""
    box = np.zeros(SIZE, bool)
    box[1:4, 2:6] = True
    plain = np.diff(np.flatnonzero(np.diff(np.concatenate(([2], box.flatten("F"), [2])))))
    runs = {"size": list(SIZE), "counts": plain.tolist()}
    document = {
        "videos": [
            {"id": 5, "width": 8, "height": 6, "length": 2, "file_names": ["b/00.jpg", "b/05.jpg"]},
            {"id": 2, "width": 8, "height": 6, "length": 2, "file_names": ["a/00.jpg", "a/05.jpg"]},
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 4, "name": "fox"}],
        "annotations": [
            {"id": 1, "video_id": 5, "category_id": 4, "iscrowd": 0, "segmentations": [runs, None]},
            {"id": 2, "video_id": 2, "category_id": 1, "segmentations": [[[2, 1, 6, 1, 6, 4, 2, 4]], runs]},
        ],
    }
    return {**document, **changes}


def box_mask() -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[1:4, 2:6] = True
    return mask


@pytest.fixture
def ytvis(tmp_path: Path) -> Path:
    path = tmp_path / "valid.json"
    path.write_text(json.dumps(ytvis_json()))
    return path


def tube(video: int = 5, category: int = 4, score: float = 0.5, **changes: Any) -> dict[str, Any]:
    code = {"size": list(SIZE), "counts": encode(box_mask()[None])[0]}
    entry = {"video_id": video, "category_id": category, "score": score, "segmentations": [code, None]}
    return {**entry, **changes}


def results(tmp_path: Path, *entries: Any) -> Path:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(list(entries)))
    return path


# --- YouTube-VIS ------------------------------------------------------------------------------------------


def test_a_youtube_vis_json(ytvis: Path, tmp_path: Path) -> None:
    truth = YTVIS.open_truth(ytvis, "val")
    assert [(v.number, v.name, v.size, v.stems) for v in truth.videos] == [
        (2, "a", SIZE, ("00", "05")),
        (5, "b", SIZE, ("00", "05")),
    ]
    (first,), (second,) = (video.tubes() for video in truth.videos)
    assert first.category_id == 1 and second.category_id == 4 and second.frames[1] is None
    for code in (*first.frames, second.frames[0]):
        assert np.array_equal(decode([code], SIZE)[0], box_mask()), "polygon and runs are the same box"
    evaluation = evaluate(results(tmp_path, tube()), truth)
    document = score_document(evaluation)
    assert document["ap"] == pytest.approx(50) and document["classes"] == 2
    assert [row["ap"] for row in document["per_class"]] == pytest.approx([0, 100])


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"videos": 3}, "videos"),
        ({"categories": [{"id": 1}, {"id": 1}]}, "twice"),
        ({"annotations": [{"video_id": 9, "category_id": 4}]}, "video_id"),
        ({"annotations": [{"video_id": 5, "category_id": 9}]}, "category_id"),
        ({"videos": [{"id": 5, "width": 8, "height": 10**9, "file_names": ["a"]}]}, "height"),
        ({"videos": [{"id": 5, "width": 8, "height": 6, "file_names": ["../x/0.jpg", "x/1.jpg"], "name": ".."}]}, ".."),
    ],
)  # fmt: skip
def test_damaged_youtube_vis_jsons(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(ytvis_json(**changes)))
    with pytest.raises(DatasetError, match=word):
        YTVIS.open_truth(path, "val")


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [8, 6], "counts": "0"},
        {"size": list(SIZE), "counts": [3, -3, 48]},
        {"size": list(SIZE), "counts": [3, 4]},
        {"size": list(SIZE), "counts": "hello"},
        [[1, 2, 3, 4]],
        [[0, 0, 1e12, 0, 5, 5]],
        "text",
    ],
)
def test_damaged_segmentations(tmp_path: Path, segmentation: Any) -> None:
    annotation = {"id": 1, "video_id": 5, "category_id": 4, "segmentations": [segmentation, None]}
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(ytvis_json(annotations=[annotation])))
    truth = YTVIS.open_truth(path, "val")
    with pytest.raises(DatasetError, match="video 'b'"):
        truth.videos[1].tubes()


def test_a_folder_needs_a_json(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"val\.json"):
        YTVIS.open_truth(tmp_path, "val")
    (tmp_path / "val.json").write_text(json.dumps(ytvis_json(annotations=None)))
    truth = YTVIS.open_truth(tmp_path, "val")
    with pytest.raises(DatasetError, match="no annotations"):
        evaluate(tmp_path, truth)


def test_the_things_of_a_vipseg_split(tmp_path: Path) -> None:
    truth = YTVIS.open_truth(make_dataset(tmp_path, frames=2).root, "val")
    assert [video.number for video in truth.videos] == [1, 2] and truth.videos[0].name == NAMES[0]
    tubes = truth.videos[0].tubes()
    assert len(tubes) == 3 and {category.isthing for category in truth.categories} == {True}
    found = {decode([code], (HEIGHT, WIDTH)).tobytes() for t in tubes for code in t.frames if code}
    true = [id_map(frame) == n for frame in range(2) for n in (90000, 90001, 123456)]
    expected = {mask.tobytes() for mask in true if mask.any()}
    assert found == expected


# --- results.json -----------------------------------------------------------------------------------------

BAD_ENTRIES = [
    ("nothing", "tube"),
    (tube(video=3), "unknown-video"),
    ({"category_id": 4}, "tube"),
    (tube(category=7), "unknown-category"),
    (tube(category=True), "unknown-category"),
    (tube(score="high"), "tube"),
    (tube(segmentations=None), "tube"),
    (tube(segmentations=[None]), "mask-count"),
    (tube(segmentations=[{"size": [8, 6], "counts": "0"}, None]), "mask"),
    (tube(segmentations=[{"size": list(SIZE), "counts": "0000"}, None]), "mask"),
    (tube(segmentations=[[[0, 0, 4, 0, 4, 4]], None]), "mask"),
]


@pytest.mark.parametrize("entry, kind", BAD_ENTRIES)
def test_what_is_wrong_with_an_entry(ytvis: Path, tmp_path: Path, entry: Any, kind: str) -> None:
    truth = YTVIS.open_truth(ytvis, "val")
    path = results(tmp_path, tube(), tube(video=2), entry)
    report = YTVIS.validate(path, truth)
    assert [problem.kind for problem in report.problems] == [kind] and kind in KINDS and not report.ok
    with pytest.raises(DatasetError):
        [predicted.tubes() for predicted in YTVIS.pairs(path, truth)]


def test_valid_results(ytvis: Path, tmp_path: Path) -> None:
    truth = YTVIS.open_truth(ytvis, "val")
    report = YTVIS.validate(results(tmp_path, tube()), truth)
    assert report.ok and [problem.kind for problem in report.problems] == ["no-tubes"]
    many = YTVIS.validate(results(tmp_path, *[tube()] * 101, tube(video=2)), truth)
    assert many.ok and [problem.kind for problem in many.problems] == ["many-tubes"]


@pytest.mark.parametrize("text", ["{", '{"a": 1}', ""])
def test_files_that_are_no_results(ytvis: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    report = YTVIS.validate(path, YTVIS.open_truth(ytvis, "val"))
    assert [problem.kind for problem in report.problems] == ["archive"]
    with pytest.raises(DatasetError, match="does not exist"):
        YTVIS.validate(tmp_path / "nothing", YTVIS.open_truth(ytvis, "val"))


# --- class maps -------------------------------------------------------------------------------------------


def save_map(path: Path, classes: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(classes.astype(np.uint8)).save(path)


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Ground truth in the plain layout."""
    rng = np.random.default_rng(0)
    for stem in ("00", "05"):
        truth = rng.choice([0, 3, 123, 255], (6, 8))
        save_map(tmp_path / "gt" / "a" / f"{stem}.png", truth)
        save_map(tmp_path / "pred" / "a" / f"{stem}.png", np.where(truth == 255, 3, truth))
    return tmp_path / "gt"


def test_three_layouts_of_one_truth(maps: Path, tmp_path: Path) -> None:
    plain = VSPW.open_truth(maps, "val")
    for stem in ("00", "05"):
        classes = np.array(Image.open(maps / "a" / f"{stem}.png")).astype(int)
        shifted = np.where(classes == 255, 0, classes + 1)
        shifted[0, 0] = 255 if classes[0, 0] == 255 else shifted[0, 0]
        save_map(tmp_path / "vspw" / "data" / "a" / "mask" / f"{stem}.png", shifted)
    (tmp_path / "vspw" / "val.txt").write_text("a\n")
    published = VSPW.open_truth(tmp_path / "vspw", "val")
    assert published.class_ids == tuple(range(124))
    for place in range(2):
        ours, theirs = plain.videos[0].read(place), published.videos[0].read(place)
        assert np.array_equal(ours, theirs) and ours.min() == -1
    with pytest.raises(DatasetError, match="train"):
        VSPW.open_truth(tmp_path / "vspw", "train")
    result = evaluate(tmp_path / "pred", published).results["semantic"]
    assert result.miou == result.accuracy == 1.0


def test_the_classes_of_a_vipseg_split(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, frames=1)
    classes = VSPW.open_truth(tmp_path, "val").videos[0].read(0)
    ids = id_map(0)
    table = {255: 66, 700: 28, 90000: 60, 90001: 60, 123456: 48, 0: -1}
    assert np.array_equal(classes, np.vectorize(table.get)(ids))
    assert VSPW.open_truth(dataset.json_path, "").class_ids == tuple(range(124))


def spoil(pred: Path, how: str) -> None:
    path = pred / "a" / "05.png"
    if how == "missing-png":
        path.unlink()
    elif how == "missing-video":
        (pred / "a").rename(pred / "b")
    elif how == "damaged-png":
        path.write_bytes(path.read_bytes()[:60])
    elif how == "size":
        save_map(path, np.zeros((6, 9)))
    elif how == "png-channels":
        Image.new("RGB", (8, 6)).save(path)
    else:
        save_map(path, np.full((6, 8), 255))


@pytest.mark.parametrize(
    "how", ["missing-png", "missing-video", "damaged-png", "size", "png-channels", "unknown-class"]
)
def test_what_is_wrong_with_maps(maps: Path, tmp_path: Path, how: str) -> None:
    truth, pred = VSPW.open_truth(maps, "val"), tmp_path / "pred"
    assert VSPW.validate(pred, truth).problems == []
    spoil(pred, how)
    report = VSPW.validate(pred, truth)
    assert how in {problem.kind for problem in report.problems} and not report.ok and how in KINDS
    if how != "unknown-class":
        with pytest.raises(DatasetError):
            [list(pair.frames()) for pair in VSPW.pairs(pred, truth)]
            evaluate(pred, truth)


def test_extra_maps_are_harmless(maps: Path, tmp_path: Path) -> None:
    save_map(tmp_path / "pred" / "a" / "07.png", np.zeros((6, 8)))
    save_map(tmp_path / "pred" / "z" / "07.png", np.zeros((6, 8)))
    report = VSPW.validate(tmp_path / "pred", VSPW.open_truth(maps, "val"))
    assert report.ok and {problem.kind for problem in report.problems} == {"extra-video", "extra-file"}


def test_kinds_of_submissions(maps: Path, tmp_path: Path) -> None:
    assert task_of_submission(tmp_path / "pred") == "semantic"
    assert task_of_submission(results(tmp_path, tube())) == "instance"
    (tmp_path / "run").mkdir()
    results(tmp_path / "run", tube())
    assert task_of_submission(tmp_path / "run") == "instance"
    (tmp_path / "vip" / "pan_pred" / "a").mkdir(parents=True)
    for folder in ("vip", "nothing"):
        assert task_of_submission(tmp_path / folder) == "panoptic"
