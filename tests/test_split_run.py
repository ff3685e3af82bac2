"""A dataset's split from images to a scored submission, with the commands a researcher types."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from small_vipseg import NAMES, make_dataset

FAST = ("--short-side", 64, "--quiet")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "VIPSeg_720P"
    make_dataset(root, frames=8)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_segment_export_validate_evaluate(dvis, tmp_path: Path, dataset: Path) -> None:
    run, zipped = tmp_path / "run", tmp_path / "submission.zip"
    code, out, err = dvis("segment", "--dataset", dataset, "--split", "val", "-o", run, "--json", *FAST)
    assert code == 0, err
    assert json.loads(out)["done"] == list(NAMES)
    assert (run / "pred.json").is_file()
    assert dvis("export", "vipseg", run, "-o", zipped, "-q")[0] == 0
    code, out, _ = dvis("validate", zipped, "--gt", dataset / "panoptic_gt_VIPSeg_val.json", "-q")
    assert code == 0 and "valid (2 videos, 16 frames)" in out
    for prediction in (run, zipped):
        code, out, err = dvis("evaluate", prediction, "--gt", dataset, "--json", "-q", "--workers", 1)
        assert code == 0, err
        assert json.loads(out)


def test_every_way_to_a_submission_gives_the_same(dvis, tmp_path: Path, dataset: Path) -> None:
    """Through --dataset, or through plain image folders and export: the same bytes."""
    assert dvis("segment", "--dataset", dataset, "-o", tmp_path / "run", *FAST)[0] == 0
    folders = [dataset / "images" / name for name in NAMES]
    assert dvis("segment", *folders, "-o", tmp_path / "out", "--overlay", "none", *FAST)[0] == 0
    for name in ("run", "out"):
        assert dvis("export", "vipseg", tmp_path / name, "-o", tmp_path / f"{name}.zip", "-q")[0] == 0
    with zipfile.ZipFile(tmp_path / "run.zip") as one, zipfile.ZipFile(tmp_path / "out.zip") as other:
        assert one.namelist() == other.namelist()
        assert all(one.read(name) == other.read(name) for name in one.namelist())


def test_a_run_is_resumed(dvis, tmp_path: Path, dataset: Path) -> None:
    run = tmp_path / "run"
    assert dvis("segment", "--dataset", dataset, "-o", run, *FAST)[0] == 0
    whole = contents(run)
    (run / "pred.json").unlink()
    shutil.rmtree(run / "pan_pred" / NAMES[1])
    code, out, _ = dvis("segment", "--dataset", dataset, "-o", run, "--json", *FAST)
    assert code == 0
    assert json.loads(out)["skipped"] == [NAMES[0]] and json.loads(out)["done"] == [NAMES[1]]
    assert contents(run) == whole


def test_a_run_keeps_its_settings(dvis, tmp_path: Path, dataset: Path) -> None:
    run = tmp_path / "run"
    assert dvis("segment", "--dataset", dataset, "-o", run, *FAST)[0] == 0
    for _ in range(2):  # complete, and with a video to go
        code, _, err = dvis("segment", "--dataset", dataset, "-o", run, "--mode", "online", *FAST)
        assert code == 1 and "begun with mode" in err and "online" in err
        shutil.rmtree(run / "pan_pred" / NAMES[1], ignore_errors=True)


def test_scales_of_a_run_and_its_ablation(dvis, tmp_path: Path, dataset: Path) -> None:
    """Baseline and several scales through --dataset, then the report's table 3."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert dvis("segment", "--dataset", dataset, "-o", one, *FAST)[0] == 0
    options = ["segment", "--dataset", dataset, "-o", two, "--quiet"]
    assert dvis(*options, "--scales", "64,96")[0] == 0
    whole = contents(two)
    shutil.rmtree(two / "pan_pred" / NAMES[1])
    for other in (["--short-side", 64], ["--scales", "64,80"], ["--scales", "64,96", "--flip"]):
        code, _, err = dvis(*options, *other)
        assert code == 1 and ("begun with scales" in err or "begun with flip" in err)
    assert dvis(*options, "--scales", "96,64")[0] == 0
    assert contents(two) == whole
    code, out, _ = dvis("evaluate", one, "--compare", two, "--gt", dataset, "--workers", 1, "-q")
    rows = [line.split("  ")[0] for line in out.splitlines()]
    assert code == 0 and rows == ["Method", "Baseline", "+ multi scale (64, 96)"]
    assert out.splitlines()[0].split()[2:7] == ["VPQ", "VPQ1", "VPQ2", "VPQ4", "VPQ6"]


def test_a_bad_video_does_not_stop_the_others(dvis, tmp_path: Path, dataset: Path) -> None:
    run, image = tmp_path / "run", dataset / "images" / NAMES[0] / "00000003.jpg"
    data = image.read_bytes()
    image.unlink()
    code, out, err = dvis("segment", "--dataset", dataset, "-o", run, "--json", *FAST)
    assert code == 1 and "00000003" in err and "1 of 2 videos failed" in err
    document = json.loads(out)
    assert document["done"] == [NAMES[1]] and list(document["failed"]) == [NAMES[0]]
    assert document["pred_json"] is None and not (run / "pred.json").exists()
    image.write_bytes(data)
    assert dvis("segment", "--dataset", dataset, "-o", run, *FAST)[0] == 0
    assert (run / "pred.json").is_file()


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--split", "nonsense"], "nonsense"),
        (["some.mp4"], "choose one"),
        (["--window", "0"], "window"),
        (["--start", "1"], "a split is run whole"),
        (["--report"], "a split is run whole"),
        (["--jobs", "2"], "--dataset is one run"),
    ],
)
def test_usage(dvis, tmp_path: Path, dataset: Path, arguments: list[str], word: str) -> None:
    code, _, err = dvis("segment", "--dataset", dataset, "-o", tmp_path / "run", *arguments)
    assert code in (1, 2) and err.startswith("error: ") and word in err
    assert not (tmp_path / "run").exists()


def test_nothing_named(dvis, tmp_path: Path) -> None:
    code, _, err = dvis("segment", "-o", tmp_path)
    assert code == 2 and "name a SOURCE" in err
