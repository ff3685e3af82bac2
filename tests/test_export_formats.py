"""Every format of `dvis export`, read back by what reads it: ids, classes and areas are those of the PNGs."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from small_results import CAR, FPS, PERSON, write_result

from dvis_cli.export.result import open_result
from dvis_cli.export.run import ExportOptions, export_result
from dvis_cli.export.yolo import fill, polygons

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'
FRAMES, HEIGHT, WIDTH = 6, 96, 128
Truth = list[dict[int, tuple[str, np.ndarray]]]  # of each frame: id -> class, mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_result(tmp_path_factory.mktemp("formats"), FRAMES, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def truth(folder: Path) -> Truth:
    """What the PNGs and segments.json say, read without the package."""
    document = json.loads((folder / "segments.json").read_text())
    classes = {one["id"]: one["category"] for one in document["segments"]}
    frames = []
    for frame in document["frames"]:
        rgb = np.asarray(Image.open(folder / "panoptic" / frame["file_name"])).astype(np.int32)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        frames.append({int(id): (classes[int(id)], ids == id) for id in np.unique(ids) if id})
    assert {1, 2, 3, 300} == {id for frame in frames for id in frame}
    return frames


def things(truth: Truth) -> Truth:
    return [{id: one for id, one in frame.items() if one[0] != "road"} for frame in truth]


def export(folder: Path, out: Path, *formats: str, **options: object) -> list[Path]:
    return export_result(open_result(folder), ExportOptions(formats, **options), out)  # type: ignore[arg-type]


def pairs(truth: Truth) -> dict[tuple[int, int], tuple[str, int]]:
    """(frame, id) -> class, area."""
    return {
        (n, id): (name, int(mask.sum()))
        for n, frame in enumerate(truth)
        for id, (name, mask) in frame.items()
    }


def test_coco_instances_in_pycocotools(folder: Path, truth: Truth, tmp_path: Path) -> None:
    (made,) = export(folder, tmp_path, "coco", images=True)
    coco = COCO(str(made / "instances.json"))
    names = {one["id"]: one["name"] for one in coco.loadCats(coco.getCatIds())}
    found = {}
    for one in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(one)
        assert one["area"] == mask.sum() == coco_mask.area(one["segmentation"])
        assert one["bbox"] == coco_mask.toBbox(one["segmentation"]).tolist()
        image = coco.loadImgs(one["image_id"])[0]
        key = image["frame"], one["track_id"]
        found[key] = names[one["category_id"]], one["area"]
        assert np.array_equal(mask, truth[key[0]][key[1]][1])
        assert image["time"] == pytest.approx(image["frame"] / FPS)
        with Image.open(made / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (WIDTH, HEIGHT)
    assert found == pairs(things(truth))


def test_coco_panoptic_has_the_maps(folder: Path, truth: Truth, tmp_path: Path) -> None:
    (made,) = export(folder, tmp_path, "coco")
    document = json.loads((made / "panoptic.json").read_text())
    names = {one["id"]: (one["name"], one["isthing"]) for one in document["categories"]}
    assert dict(names.values()) == {
        "road": 0,
        "person": 1,
        "car, automobile": 1,
    }
    found = {}
    for one in document["annotations"]:
        rgb = np.asarray(Image.open(made / "panoptic" / one["file_name"])).astype(np.int32)
        ids = rgb @ np.array([1, 256, 65536])
        assert {int(id) for id in np.unique(ids) if id} == {info["id"] for info in one["segments_info"]}
        for info in one["segments_info"]:
            assert info["area"] == (ids == info["id"]).sum()
            found[one["image_id"] - 1, info["id"]] = names[info["category_id"]][0], info["area"]
    assert found == pairs(truth)


def test_coco_panoptic_in_our_own_reader(folder: Path, tmp_path: Path) -> None:
    from dvis_cli.datasets.coco_panoptic import CocoPanoptic

    (made,) = export(folder, tmp_path, "coco", images=True)
    (made / "panoptic").rename(made / "panoptic_train")
    (made / "panoptic.json").rename(made / "panoptic_train.json")
    (made / "images").rename(made / "train")
    dataset = CocoPanoptic.open(made, "train")
    assert len(dataset.videos) == FRAMES


def test_coco_video_is_a_youtube_vis_data_set(folder: Path, truth: Truth, tmp_path: Path) -> None:
    (made,) = export(folder, tmp_path, "coco-video")
    document = json.loads(made.read_text())
    (video,) = document["videos"]
    assert (video["length"], video["width"], video["height"]) == (FRAMES, WIDTH, HEIGHT)
    assert len(video["file_names"]) == FRAMES
    names = {one["id"]: one["name"] for one in document["categories"]}
    found = {}
    for one in document["annotations"]:
        assert one["video_id"] == video["id"] and len(one["segmentations"]) == FRAMES
        for n, (rle, area, box) in enumerate(
            zip(one["segmentations"], one["areas"], one["bboxes"], strict=True)
        ):
            if rle is None:
                assert area is box is None
                continue
            mask = coco_mask.decode(rle)
            assert area == mask.sum() and box == coco_mask.toBbox(rle).tolist()
            assert np.array_equal(mask, truth[n][one["id"]][1])
            found[n, one["id"]] = names[one["category_id"]], area
    assert found == pairs(things(truth))


def test_coco_video_is_truth_to_our_own_scorer(folder: Path, tmp_path: Path) -> None:
    from dvis_cli.challenge.ytvis_truth import open_instance_truth

    (made,) = export(folder, tmp_path, "coco-video")
    (video,) = open_instance_truth(made, "val").videos
    assert len(video.stems) == FRAMES and video.size == (HEIGHT, WIDTH)


def test_davis_maps_and_seeds(folder: Path, truth: Truth, tmp_path: Path) -> None:
    (made,) = export(folder, tmp_path, "davis", images=True)
    rows = json.loads((made / "objects.json").read_text())
    by_value = {row["value"]: (row["id"], row["class"]) for row in rows}
    assert sorted(by_value) == [1, 2, 3]  # 300 does not fit, so all are numbered
    found, first = {}, {}
    for n in range(FRAMES):
        image = Image.open(made / "Annotations" / "film" / f"{n:05d}.png")
        assert image.mode == "P" and image.getpalette()[3:9] == [128, 0, 0, 0, 128, 0]
        values = np.asarray(image)
        for value in np.unique(values[values > 0]):
            id, name = by_value[int(value)]
            found[n, id] = name, int((values == value).sum())
            first.setdefault(id, n)
        with Image.open(made / "JPEGImages" / "film" / f"{n:05d}.jpg") as picture:
            assert picture.size == (WIDTH, HEIGHT)
    assert found == pairs(things(truth))
    seeded = {}
    for path in (made / "seeds" / "film").iterdir():
        values = np.asarray(Image.open(path))
        seeded |= {by_value[int(value)][0]: int(path.stem) for value in np.unique(values[values > 0])}
    assert seeded == first == {2: 0, 3: 0, 300: 1}


def test_mots_maps_and_text(folder: Path, truth: Truth, tmp_path: Path) -> None:
    (made,) = export(folder, tmp_path, "mots")
    labels = (made / "instances" / "labels.txt").read_text().splitlines()
    found = {}
    for n in range(FRAMES):
        values = np.asarray(Image.open(made / "instances" / f"{n:06d}.png"))
        assert values.dtype == np.uint16 or values.dtype == np.int32
        for value in np.unique(values[values > 0]).tolist():
            found[n, value % 1000] = labels[value // 1000 - 1], int((values == value).sum())
    assert found == pairs(things(truth))
    for line in (made / "instances_txt" / "film.txt").read_text().splitlines():
        n, value, kind, height, width, counts = line.split(" ")
        rle = {"size": [int(height), int(width)], "counts": counts}
        assert found[int(n), int(value) % 1000] == (labels[int(kind) - 1], coco_mask.area(rle))


def test_mots_in_datumaro(folder: Path, truth: Truth, tmp_path: Path) -> None:
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    (made,) = export(folder, tmp_path, "mots")
    dataset = datumaro.Dataset.import_from(str(made), "mots")
    names = dataset.categories()[datumaro.AnnotationType.label]
    found = {}
    for item in dataset:
        for one in item.annotations:
            key = int(item.id), one.attributes["track_id"]
            found[key] = names[one.label].name, int(one.image.sum())
    assert found == pairs(things(truth))


def test_coco_in_datumaro(folder: Path, truth: Truth, tmp_path: Path) -> None:
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    (made,) = export(folder, tmp_path, "coco", images=True)
    (made / "annotations").mkdir()
    (made / "instances.json").rename(made / "annotations" / "instances_train.json")
    (made / "images").rename(made / "train")
    (made / "images").mkdir()
    (made / "train").rename(made / "images" / "train")
    dataset = datumaro.Dataset.import_from(str(made), "coco_instances")
    names = dataset.categories()[datumaro.AnnotationType.label]
    found = {}
    for item in dataset:
        for one in item.annotations:
            if one.type == datumaro.AnnotationType.mask:  # there are boxes, too
                key = int(item.id), one.attributes["track_id"]
                found[key] = names[one.label].name, int(one.image.sum())
    assert found == pairs(things(truth))


def test_cvat_tracks_of_masks(folder: Path, truth: Truth, tmp_path: Path) -> None:
    """By the description of CVAT's own format: run lengths row by row in a box, background first."""
    (made,) = export(folder, tmp_path, "cvat")
    with zipfile.ZipFile(made) as archive:
        assert archive.namelist() == ["annotations.xml"]
        root = ElementTree.fromstring(archive.read("annotations.xml"))
    assert root.findtext("version") == "1.1" and root.findtext("meta/task/mode") == "interpolation"
    assert root.findtext("meta/task/size") == str(FRAMES)
    assert root.findtext("meta/task/original_size/width") == str(WIDTH)
    labels = [one.text for one in root.findall("meta/task/labels/label/name")]
    found = {}
    for track in root.findall("track"):
        assert track.get("label") in labels
        shown = [mask for mask in track.findall("mask") if mask.get("outside") == "0"]
        for mask in shown:
            left, top, width, height = (int(mask.get(key, "")) for key in ("left", "top", "width", "height"))
            runs = [int(run) for run in mask.get("rle", "").split(",")]
            inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
            whole = np.zeros((HEIGHT, WIDTH), bool)
            whole[top : top + height, left : left + width] = inside
            n, id = int(mask.get("frame", "")), int(mask.findtext("attribute[@name='id']") or "")
            assert np.array_equal(whole, truth[n][id][1])
            found[n, id] = track.get("label"), int(whole.sum())
        frames = {int(mask.get("frame", "")) for mask in shown}
        outside = {int(m.get("frame", "")) for m in track.findall("mask") if m.get("outside") == "1"}
        assert outside == {n + 1 for n in frames if n + 1 < FRAMES and n + 1 not in frames}
    assert found == pairs(truth)


def test_yolo_in_supervision(folder: Path, truth: Truth, tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    (made,) = export(folder, tmp_path, "yolo", images=True)
    dataset = supervision.DetectionDataset.from_yolo(
        str(made / "images" / "train"), str(made / "labels" / "train"), str(made / "data.yaml")
    )
    assert dataset.classes == ["person", "car, automobile"]
    seen = 0
    for path, _, detections in dataset:
        want = sorted((name, int(mask.sum())) for name, mask in things(truth)[int(Path(path).stem)].values())
        masks = zip(detections.class_id, detections.mask, strict=True)
        got = sorted((dataset.classes[kind], int(mask.sum())) for kind, mask in masks)
        assert [name for name, _ in got] == [name for name, _ in want]
        for (_, area), (_, exact) in zip(got, want, strict=True):
            assert area == pytest.approx(exact, rel=0.01)
            seen += 1
    assert seen == len(pairs(things(truth)))


@pytest.mark.parametrize("seed", range(12))
def test_polygons_fill_to_the_mask(seed: int) -> None:
    """Random blobs with holes and parts: within 1 %, and exactly where nothing can be simplified."""
    random = np.random.default_rng(seed)
    mask = np.zeros((90, 120), bool)
    yy, xx = np.mgrid[:90, :120]
    for sign in (True, True, True, False, False):
        y, x, r = random.uniform(10, 80), random.uniform(10, 110), random.uniform(3, 18)
        mask[(yy - y) ** 2 + ((xx - x) * random.uniform(0.5, 1.5)) ** 2 < r * r] = sign
    found = polygons(mask)
    filled = sum(fill(one, mask.shape).astype(int) for one in found)
    assert abs(int(filled.sum()) - int(mask.sum())) <= 0.01 * mask.sum()
    assert (np.logical_xor(filled > 0, mask)).sum() <= 0.08 * mask.sum()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2)])
def test_the_smallest_masks_are_polygons(shape: tuple[int, int]) -> None:
    (one,) = polygons(np.ones(shape, bool))
    assert len(one) >= 3 and fill(one, shape).all()


def test_tables_agree(folder: Path, truth: Truth, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    made = export(folder, tmp_path, "csv", "parquet")
    with made[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(int(row["frame"]), int(row["id"])): (row["class"], int(row["area"])) for row in rows}
    assert found == pairs(truth)
    table = pandas.read_csv(made[0])
    assert table.equals(pandas.read_parquet(made[1]).astype(table.dtypes.to_dict()))
    for row in table.itertuples():
        mask = truth[row.frame][row.id][1]
        ys, xs = np.nonzero(mask)
        assert (row.center_x, row.center_y) == pytest.approx((xs.mean() + 0.5, ys.mean() + 0.5), abs=2e-3)
        assert (row.x, row.y, row.width, row.height) == (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
        assert row.time == pytest.approx(row.frame / FPS)
    assert set(table.class_id) == {0, PERSON.id, CAR.id} and table.isthing.sum() == len(pairs(things(truth)))


@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_other_tasks_have_every_format_that_fits(tmp_path: Path, task: str) -> None:
    folder = write_result(tmp_path, 4, task=task)  # type: ignore[arg-type]
    made = {path.name: path for path in export(folder, tmp_path / "out", "all")}
    with made["objects.csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    document = json.loads((folder / "segments.json").read_text())
    want = {(f["frame"], one["id"], f["area"]) for one in document["segments"] for f in one["frames"]}
    assert {(int(row["frame"]), int(row["id"]), int(row["area"])) for row in rows} == want
    assert (made["coco"] / "panoptic.json").exists() == (task == "semantic")
    assert COCO(str(made["coco"] / "instances.json")).getAnnIds()
