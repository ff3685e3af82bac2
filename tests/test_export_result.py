"""A result folder is read back as the frames that it was written from, and nothing in it is trusted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_results import FPS, frames, segments, write_result

from dvis_cli.errors import DatasetError
from dvis_cli.export.result import open_result, result_folders
from dvis_cli.structures import InstanceFrame, PanopticFrame


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_result(tmp_path_factory.mktemp("result"), film=False)


@pytest.fixture
def damaged(panoptic: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(panoptic, tmp_path / "film"))


def test_panoptic_frames_come_back(panoptic: Path) -> None:
    result = open_result(panoptic)
    assert (result.task, len(result), result.info.fps, result.info.frames) == ("panoptic", 6, FPS, 6)
    assert result.facts == {"mode": "online", "task": "panoptic", "model": {"name": "tiny"}}
    known = segments()
    for id, segment in zip(sorted(known), result.segments, strict=True):
        assert (segment.id, segment.category.name, segment.category.id) == (
            id, known[id].category.name, known[id].category.id)  # fmt: skip
        assert segment.score == pytest.approx(known[id].score) and result.file_id(segment) == id
    for _ in range(2):  # as often as needed
        for made, read in zip(frames(6), result, strict=True):
            assert isinstance(made, PanopticFrame) and isinstance(read, PanopticFrame)
            assert np.array_equal(made.ids, read.ids) and read.ids.dtype == np.int32
            assert read.pts == pytest.approx(made.pts) and read.segments.keys() == made.segments.keys()
            assert read.rgb.shape == made.rgb.shape


def test_instances_come_back(tmp_path: Path) -> None:
    result = open_result(write_result(tmp_path, task="instance", film=False))
    for made, read in zip(frames(6, task="instance"), result, strict=True):
        assert isinstance(made, InstanceFrame) and isinstance(read, InstanceFrame)
        assert made.masks == read.masks and read.segments.keys() == made.masks.keys()


def test_classes_come_back_with_void_0(tmp_path: Path) -> None:
    result = open_result(write_result(tmp_path, task="semantic", film=False))
    assert [result.file_id(one) for one in result.segments] == [0, 7, 9]
    by_index = np.array([0, 1, 8, 10])  # contiguous class + 1 -> dataset's class + 1
    for made, read in zip(frames(6, task="semantic"), result, strict=True):
        assert isinstance(made, PanopticFrame) and isinstance(read, PanopticFrame)
        assert np.array_equal(by_index[made.ids], read.ids)


@pytest.mark.parametrize("indent", [None, 2])
def test_any_layout_of_the_json_reads_the_same(damaged: Path, indent: int | None) -> None:
    before = open_result(damaged)
    path = damaged / "segments.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=indent))
    after = open_result(damaged)
    assert (after.segments, after.pts, after.files) == (before.segments, before.pts, before.files)


def test_folders_of_results(panoptic: Path, tmp_path: Path) -> None:
    assert result_folders(panoptic) == [panoptic] and result_folders(panoptic.parent) == [panoptic]
    with pytest.raises(DatasetError, match="no result of dvis segment"):
        result_folders(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["frames"][2].update(file_name="../../secret.png"), "not a plain name"),
        (lambda d: d["source"].update(width=10**6), "1..16384"),
        (lambda d: d["source"].update(width=64), "must be 64x96"),
        (lambda d: d["source"].update(fps=0), "fps"),
        (lambda d: d["segments"].pop(), "300, which segments.json does not list"),
        (lambda d: d["segments"][0].update(id=2), "positive and different"),
        (lambda d: d.update(task="other"), "tasks: panoptic"),
        (lambda d: d.update(format="coco"), "not a dvis-segments file"),
        (lambda d: d.update(version=2), "version 2, this dvis reads 1"),
        (lambda d: d.update(frames=[]), "must be frames"),
        (lambda d: d["frames"][1].update(index=5), "numbered 0, 1, 2"),
        (lambda d: d["frames"][0].update(file_name=None), "made without PNGs"),
        (lambda d: d["frames"][0].update(file_name="000099.png"), "is missing"),
        (lambda d: d.update(segments=7), "not one of dvis segment"),
    ],
)
def test_what_does_not_fit_is_one_line(damaged: Path, change, message: str) -> None:
    document = json.loads((damaged / "segments.json").read_text())
    change(document)
    (damaged / "segments.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=message) as caught:
        list(open_result(damaged))
    assert "\n" not in str(caught.value)


def test_damaged_files_are_one_line(damaged: Path, tmp_path: Path) -> None:
    png = damaged / "panoptic" / "000003.png"
    png.write_bytes(png.read_bytes()[:90])
    with pytest.raises(DatasetError, match="damaged PNG"):
        list(open_result(damaged))
    (damaged / "segments.json").write_text("{")
    with pytest.raises(DatasetError, match="not json"):
        open_result(damaged)
    with pytest.raises(DatasetError, match="no result of dvis segment"):
        open_result(tmp_path / "nothing")


@pytest.mark.parametrize("line", ['{"frame": 0}', "[]", '{"size": [96, 128], "masks": {"9": "00"}}', "x"])
def test_damaged_masks_are_one_line(tmp_path: Path, line: str) -> None:
    folder = write_result(tmp_path, task="instance", film=False)
    (folder / "masks.jsonl").write_text(line + "\n")
    with pytest.raises(DatasetError, match=r"masks\.jsonl"):
        list(open_result(folder))
