"""Raw VIPSeg to the 720P layout: sizes, resampling, ids and json of the official conversion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import small_vipseg
from PIL import Image

from dvis_cli.datasets.categories import vipseg_by_id
from dvis_cli.datasets.prepare import prepare_vipseg
from dvis_cli.datasets.segment_ids import SegmentIds, color_id
from dvis_cli.datasets.vipseg import VIPSeg
from dvis_cli.errors import DatasetError, OutputError

HEIGHT, WIDTH = 90, 131  # 720 * 131 / 90 = 1048
RAW = {67: 66, 7: 6, 6101: 60, 6102: 60, 4901: 48, 4902: 48, 61: 60}  # raw mask value -> category id


def raw_mask() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint16)
    for place, value in enumerate(RAW):
        mask[10 * place : 10 * place + 9, place : 40 + 9 * place] = value
    return mask


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    random = np.random.default_rng(0)
    for name in ("9_b", "10_a", "3_test"):
        for frame in range(2):
            picture = Image.fromarray(random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
            for folder, image in (("imgs", picture), ("panomasks", Image.fromarray(raw_mask()))):
                if folder == "imgs" or name != "3_test":
                    (root / folder / name).mkdir(parents=True, exist_ok=True)
                    suffix = "jpg" if folder == "imgs" else "png"
                    image.save(root / folder / name / f"{frame:08d}.{suffix}")
    (root / "train.txt").write_text("9_b\n10_a\n")
    (root / "val.txt").write_text("9_b\r\n\r\n")
    (root / "test.txt").write_text("3_test")
    return root


@pytest.fixture(scope="module")
def prepared(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    report = prepare_vipseg(raw, out, workers=2)
    assert report.splits == {"train": 2, "val": 1, "test": 1}
    return out


def test_sizes_and_resampling(raw: Path, prepared: Path) -> None:
    source = Image.open(raw / "imgs" / "9_b" / "00000000.jpg")
    expected = source.resize((1048, 720), Image.Resampling.BILINEAR)
    expected.save(prepared / "expected.jpg")
    written = (prepared / "images" / "9_b" / "00000000.jpg").read_bytes()
    assert written == (prepared / "expected.jpg").read_bytes()
    dataset = VIPSeg.open(prepared, "val")
    first = dataset.videos[0].frames[0]
    ids, segments = dataset.read_ids(dataset.videos[0], first), first.segments
    mask = np.asarray(Image.fromarray(raw_mask()).resize((1048, 720), Image.Resampling.NEAREST))
    categories = {segment["id"]: segment["category_id"] for segment in segments}
    for value, category in RAW.items():
        (number,) = set(ids[mask == value].tolist())
        assert categories[number] == category
    assert set(ids[mask == 0].tolist()) == {0}
    assert len(set(categories)) == len(RAW)
    for segment in segments:
        assert segment["area"] == (ids == segment["id"]).sum() and segment["iscrowd"] == 0


def test_json_is_the_official_one(prepared: Path) -> None:
    train = json.loads((prepared / "panoptic_gt_VIPSeg_train.json").read_text())
    assert list(train) == ["videos", "annotations", "categories"]
    assert [video["video_id"] for video in train["videos"]] == ["10_a", "9_b"]  # sorted, as text
    image = {"id": "00000000", "width": 1048, "height": 720, "file_name": "00000000.png"}
    assert train["videos"][0]["images"][0] == image
    frame = train["annotations"][0]["annotations"][0]
    assert list(frame) == ["image_id", "file_name", "segments_info"]
    order = [segment["category_id"] for segment in frame["segments_info"]]
    assert order == [RAW[value] for value in sorted(RAW)]
    assert [category["id"] for category in train["categories"]] == list(range(124))
    assert train["categories"][2]["isthing"] == 1
    test = json.loads((prepared / "panoptic_gt_VIPSeg_test.json").read_text())
    assert test["annotations"][0]["annotations"] == [
        {"image_id": f"{n:08d}", "file_name": f"{n:08d}.jpg", "segments_info": []} for n in range(2)
    ]
    assert test["videos"][0]["images"][1]["file_name"] == "00000001.jpg"
    assert not VIPSeg.open(prepared, "test").annotated
    assert not (prepared / "panomasksRGB" / "3_test").exists()


def test_ids_follow_colours_and_never_collide() -> None:
    by_id = vipseg_by_id()
    ids = SegmentIds(by_id)
    tree, slide = ids.id_of(67), ids.id_of(7)
    assert (tree, slide) == (color_id(by_id[66].color), color_id(by_id[6].color))
    first_person = ids.id_of(6101)
    assert first_person == color_id(by_id[60].color)
    cars = [ids.id_of(4900 + instance) for instance in range(60)]  # a car's colour is the slide's
    people = [ids.id_of(6102 + instance) for instance in range(60)]
    everything = [tree, slide, first_person, *cars, *people]
    assert len(set(everything)) == len(everything) and 0 not in everything
    again = SegmentIds(by_id)
    assert [again.id_of(v) for v in (67, 7, 6101)] + [again.id_of(4900 + i) for i in range(60)] == everything[
        :63
    ]
    with pytest.raises(DatasetError, match="mask value 12500 means category 124"):
        ids.id_of(12500)


def test_resumes_per_video(raw: Path, prepared: Path) -> None:
    kept = prepared / "images" / "10_a" / "00000000.jpg"
    lost = prepared / "panomasksRGB" / "9_b" / "00000001.png"
    before, whole = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    seen = {report.video_id: report.resumed for report in prepare_vipseg(raw, prepared).videos}
    assert seen == {"9_b": False, "10_a": True, "3_test": True}
    assert kept.stat().st_mtime_ns == before and lost.read_bytes() == whole


def test_one_split_and_one_worker_give_the_same(raw: Path, prepared: Path, tmp_path: Path) -> None:
    result = small_vipseg.run(
        "dataset", "prepare-vipseg", raw, tmp_path, "--split", "val", "--workers", "1", "--json"
    )
    assert json.loads(result.stdout)["splits"] == {"val": 1}
    for name in ("panoptic_gt_VIPSeg_val.json", "panomasksRGB/9_b/00000001.png", "images/9_b/00000001.jpg"):
        assert (tmp_path / name).read_bytes() == (prepared / name).read_bytes()
    assert not (tmp_path / "panoptic_gt_VIPSeg_train.json").exists()


def raw_copy(raw: Path, to: Path) -> Path:
    for path in raw.rglob("*"):
        if path.is_file():
            target = to / path.relative_to(raw)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return to


def test_frames_without_mask_are_left_out(raw: Path, tmp_path: Path) -> None:
    copy = raw_copy(raw, tmp_path / "raw")
    (copy / "panomasks" / "9_b" / "00000000.png").unlink()
    Image.fromarray(raw_mask()[:40]).save(copy / "panomasks" / "9_b" / "00000001.png")
    result = small_vipseg.run(
        "dataset", "prepare-vipseg", copy, tmp_path / "out", "--split", "val", "--workers", "1"
    )
    assert "1 images of train and val have no mask" in result.stderr
    assert "1 masks are not of their image's size" in result.stderr
    assert [f.stem for f in VIPSeg.open(tmp_path / "out", "val").videos[0].frames] == ["00000001"]


def test_bad_raw_data_is_named(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        prepare_vipseg(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DatasetError, match=r"none of train\.txt"):
        prepare_vipseg(tmp_path, tmp_path / "out")
    copy = raw_copy(raw, tmp_path / "raw")
    (copy / "val.txt").write_text("../../x\n")
    with pytest.raises(DatasetError, match="not a plain name"):
        prepare_vipseg(copy, tmp_path / "out")
    (copy / "val.txt").write_text("missing_video\n9_b\n")
    with pytest.raises(DatasetError, match=r"imgs lacks 1 of .* missing_video"):
        prepare_vipseg(copy, tmp_path / "out")
    (copy / "val.txt").write_text("3_test\n")
    with pytest.raises(DatasetError, match=r"in test\.txt and in another list"):
        prepare_vipseg(copy, tmp_path / "out")
    (copy / "val.txt").write_text("9_b\n")
    wrong = raw_mask()
    wrong[:] = 20000
    Image.fromarray(wrong).save(copy / "panomasks" / "9_b" / "00000001.png")
    with pytest.raises(DatasetError, match=r"00000001\.png: mask value 20000 means category 199"):
        prepare_vipseg(copy, tmp_path / "out", ["val"])
    (copy / "panomasks" / "9_b" / "00000001.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"00000001\.png cannot be read"):
        prepare_vipseg(copy, tmp_path / "out", ["val"])
    assert not (tmp_path / "out" / "panoptic_gt_VIPSeg_val.json").exists()


def test_unwritable_output_is_an_output_error(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        prepare_vipseg(raw, tmp_path / "file", ["val"])
