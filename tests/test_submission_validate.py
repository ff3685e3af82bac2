"""`dvis validate`: every way in which a submission can be wrong is reported, all at once."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_vipseg
from small_vipseg import HEIGHT, WIDTH

from dvis_cli.challenge.archive import open_archive
from dvis_cli.challenge.problems import KINDS, ValidationReport
from dvis_cli.challenge.vipseg import VIPSEG
from dvis_cli.datasets.vipseg import VIPSeg
from dvis_cli.errors import DatasetError, UsageError

FIRST, SECOND = small_vipseg.NAMES
FRAME = "pan_pred/12_first/00000001.png"
DATA = Path(__file__).parent / "data" / "metrics"


class Package:
    """The members of a good submission, to be spoiled and written as a zip."""

    def __init__(self, path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            self.files = {name: archive.read(name) for name in archive.namelist()}
        self.document = json.loads(self.files.pop("pred.json"))

    @property
    def frame(self) -> dict[str, Any]:
        """Frame 1 of the first video in pred.json."""
        return self.frames[1]

    @property
    def frames(self) -> list[dict[str, Any]]:
        return self.document["annotations"][0]["annotations"]

    @property
    def segment(self) -> dict[str, Any]:
        return self.frame["segments_info"][0]

    def paint(self, ids: np.ndarray, folder: Path) -> None:
        """Replace the PNG of frame 1."""
        small_vipseg.save_ids(folder / "x.png", ids)
        self.files[FRAME] = (folder / "x.png").read_bytes()

    def write(self, path: Path) -> Path:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in self.files.items():
                archive.writestr(name, data)
            if self.document is not None:
                archive.writestr("pred.json", json.dumps(self.document))
        return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> VIPSeg:
    return small_vipseg.make_dataset(tmp_path_factory.mktemp("vipseg"))


@pytest.fixture(scope="module")
def good(dataset: VIPSeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run = small_vipseg.make_run(folder / "run", dataset, shift=1)
    VIPSEG.export([run], folder / "good.zip")
    return folder / "good.zip"


def kinds(report: ValidationReport) -> list[str]:
    return sorted(problem.kind for problem in report.problems)


def test_a_good_submission_is_valid(good: Path, dataset: VIPSeg) -> None:
    report = VIPSEG.validate(good, dataset)
    assert report.problems == [] and report.ok
    assert (report.videos, report.frames) == (2, 6)
    assert VIPSEG.validate(good.parent / "run", dataset, workers=2).problems == []


def test_the_recorded_submission_is_valid() -> None:
    assert VIPSEG.validate(DATA / "pred", VIPSeg.open(DATA, "val")).problems == []


def paint(**values: int) -> Callable[[Package, Path], None]:
    """Add pixels of some id to the PNG of frame 1."""

    def spoil(package: Package, folder: Path) -> None:
        numbers = {n: place + 1 for place, n in enumerate(small_vipseg.CLASSES)}
        ids = np.vectorize({0: 0, **numbers}.get)(small_vipseg.id_map(1, 1))
        ids[0, 0] = values["value"]
        package.paint(ids, folder)

    return spoil


SPOILT: dict[str, tuple[Callable[[Package, Path], Any], list[str], str]] = {
    "missing video": (
        lambda p, _: p.document["annotations"].pop(),
        ["missing-video"],
        "7_second: has no prediction in pred.json",
    ),
    "missing frame": (
        lambda p, _: p.frames.pop(1),
        ["frame-count"],
        "12_first: has 2 frames, the ground truth 3, missing 00000001",
    ),
    "frames out of order": (
        lambda p, _: p.frames.reverse(),
        ["frame-order"],
        "frame 0 is 00000002, the ground truth has 00000000 there",
    ),
    "frame of another name": (
        lambda p, _: p.frame.update(file_name="00000009.png"),
        ["frame-name"],
        "12_first/00000009: is no frame",
    ),
    "missing PNG": (lambda p, _: p.files.pop(FRAME), ["missing-png"], f"{FRAME} is missing"),
    "wrong size": (
        lambda p, folder: p.paint(np.ones((HEIGHT, WIDTH + 1), int), folder),
        ["size"],
        "is 33x24 pixels, must be 32x24",
    ),
    "id in PNG alone": (paint(value=77), ["id-not-in-json"], "segment 77 is in the PNG and not"),
    "id in json alone": (
        lambda p, _: p.frame["segments_info"].append({**p.segment, "id": 78}),
        ["id-not-in-png"],
        "segment 78 is in pred.json and not",
    ),
    "unknown category": (
        lambda p, _: p.segment.update(category_id=124),
        ["unknown-category"],
        "12_first/00000001: segment 1 has category_id 124",
    ),
    "class changes": (
        lambda p, _: p.frames[2]["segments_info"][0].update(category_id=5),
        ["class-change"],
        "12_first/00000002: segment 1 is of class 5, before of 66",
    ),
    "wrong area": (lambda p, _: p.segment.update(area=3), ["area"], "segment 1 has area 3, not"),
    "wrong box": (
        lambda p, _: p.segment.update(bbox=[0, 0, 4, 4]),
        ["box"],
        "has bbox [0, 0, 4, 4], not [1, 0, 31, 12]",
    ),
    "id twice": (
        lambda p, _: p.frame["segments_info"].append(dict(p.segment)),
        ["bad-id"],
        "segment 1 is listed twice",
    ),
    "damaged PNG": (
        lambda p, _: p.files.update({FRAME: p.files[FRAME][:80]}),
        ["damaged-png"],
        "damaged PNG",
    ),
    "no PNG at all": (lambda p, _: p.files.update({FRAME: b"GIF89a"}), ["damaged-png"], "not a PNG"),
    "no list of segments": (
        lambda p, _: p.frame.pop("segments_info"),
        ["json"],
        "has no list segments_info",
    ),
    "video twice": (
        lambda p, _: p.document["annotations"].append(p.document["annotations"][0]),
        ["json"],
        "12_first: is in pred.json twice",
    ),
    "name that escapes": (
        lambda p, _: p.files.update({"../evil.png": b"x"}),
        ["archive"],
        "'../evil.png' unsafe name",
    ),
    "video id that escapes": (
        lambda p, _: p.document["annotations"].append({"video_id": "../x", "annotations": []}),
        ["json"],
        "annotations[2]: video_id '../x' is not a plain name",
    ),
    "no pred.json": (lambda p, _: setattr(p, "document", None), ["json"], "pred.json is missing"),
    "id out of range": (
        lambda p, _: p.frame["segments_info"].append({**p.segment, "id": 2**24}),
        ["bad-id"],
        "segment id 16777216 is no whole number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_each_corruption_is_reported_rightly(name: str, good: Path, dataset: VIPSeg, tmp_path: Path) -> None:
    spoil, expected, message = SPOILT[name]
    package = Package(good)
    spoil(package, tmp_path)
    report = VIPSEG.validate(package.write(tmp_path / "bad.zip"), dataset)
    assert kinds(report) == expected
    assert message in "\n".join(map(str, report.problems))
    assert not report.ok


def test_all_problems_come_at_once(good: Path, dataset: VIPSeg, tmp_path: Path) -> None:
    package = Package(good)
    for name in ("missing PNG", "wrong area", "class changes", "missing video"):
        SPOILT[name][0](package, tmp_path)
    package.frames[0]["segments_info"][2]["category_id"] = "tree"
    bad = package.write(tmp_path / "bad.zip")
    expected = ["class-change", "missing-png", "missing-video", "unknown-category"]
    assert kinds(VIPSEG.validate(bad, dataset)) == expected  # no PNG: its areas cannot be compared
    assert kinds(VIPSEG.validate(bad, dataset, workers=2)) == expected


def test_what_the_scorer_ignores_is_told_but_valid(good: Path, dataset: VIPSeg, tmp_path: Path) -> None:
    package = Package(good)
    package.document["annotations"].append({"video_id": "99_extra", "annotations": []})
    package.files["notes.txt"] = b"hello"
    report = VIPSEG.validate(package.write(tmp_path / "extra.zip"), dataset)
    assert kinds(report) == ["extra-file", "extra-video"] and report.ok


def test_both_box_conventions_are_taken(good: Path, dataset: VIPSeg, tmp_path: Path) -> None:
    package = Package(good)
    for video in package.document["annotations"]:
        for frame in video["annotations"]:
            for segment in frame["segments_info"]:
                x, y, width, height = segment["bbox"]
                segment["bbox"] = [x, y, width - 1, height - 1]
    assert VIPSEG.validate(package.write(tmp_path / "x.zip"), dataset).problems == []


def test_not_a_zip_is_one_problem(good: Path, dataset: VIPSeg, tmp_path: Path) -> None:
    (tmp_path / "cut.zip").write_bytes(good.read_bytes()[:-200])
    assert kinds(VIPSEG.validate(tmp_path / "cut.zip", dataset)) == ["archive"]
    with pytest.raises(DatasetError, match=r"gone\.zip does not exist"):
        VIPSEG.validate(tmp_path / "gone.zip", dataset)


def test_flipped_bytes_in_the_zip_are_found(good: Path, dataset: VIPSeg, tmp_path: Path) -> None:
    data = bytearray(good.read_bytes())
    place = data.index(b"IDAT") + 12
    data[place] ^= 255
    (tmp_path / "flip.zip").write_bytes(data)
    assert kinds(VIPSEG.validate(tmp_path / "flip.zip", dataset)) == ["damaged-png"]


def test_nested_zip_says_where_pred_json_is(good: Path, dataset: VIPSeg, tmp_path: Path) -> None:
    package = Package(good)
    package.files = {f"run/{name}": data for name, data in package.files.items()}
    package.files["run/pred.json"] = json.dumps(package.document).encode()
    package.document = None
    report = VIPSEG.validate(package.write(tmp_path / "nested.zip"), dataset)
    assert "at the top of the zip (it is at run/pred.json)" in str(report.problems[0])


def test_zip_bombs_are_refused_unread(good: Path, dataset: VIPSeg, tmp_path: Path) -> None:
    package = Package(good)
    package.files[FRAME] = package.files[FRAME] + bytes(50_000_000)
    bomb = package.write(tmp_path / "bomb.zip")
    assert bomb.stat().st_size < 200_000
    report = VIPSEG.validate(bomb, dataset)
    assert "unpacks to 500" in str(report.problems[0])
    with pytest.raises(DatasetError, match="unpacks to"):
        open_archive(bomb).read(FRAME, 1000)


def test_a_huge_picture_is_not_decoded(good: Path, dataset: VIPSeg, tmp_path: Path) -> None:
    package = Package(good)
    data = bytearray(package.files[FRAME])
    data[16:24] = (60000).to_bytes(4, "big") * 2
    package.files[FRAME] = bytes(data)
    report = VIPSEG.validate(package.write(tmp_path / "huge.zip"), dataset)
    assert kinds(report) == ["size"] and "60000x60000" in str(report.problems[0])


def test_command_reports_and_exits_1(good: Path, dataset: VIPSeg, tmp_path: Path) -> None:
    fine = small_vipseg.run("validate", good, "--gt", dataset.json_path)
    assert fine.exit_code == 0 and "valid (2 videos, 6 frames)" in fine.stdout
    package = Package(good)
    for frame in package.frames:
        frame["segments_info"][0]["area"] += 1
    SPOILT["missing video"][0](package, tmp_path)
    bad = package.write(tmp_path / "bad.zip")
    result = small_vipseg.run("validate", bad, "--gt", dataset.root, "--show", "1")
    assert result.exit_code == 1
    assert "and 2 more of these" in result.stdout and KINDS["area"] in result.stdout
    assert "4 problems" in result.stdout
    as_json = small_vipseg.run("validate", bad, "--gt", dataset.root, "--json", "--workers", "1")
    document = json.loads(as_json.stdout)
    assert as_json.exit_code == 1 and document["valid"] is False
    assert sorted(p["kind"] for p in document["problems"]) == ["area", "area", "area", "missing-video"]
    assert not isinstance(as_json.exception, UsageError)
