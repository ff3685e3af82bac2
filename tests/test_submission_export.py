"""Making submissions: while a split is segmented, and from earlier results."""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import small_vipseg
from small_vipseg import HEIGHT, WIDTH

from dvis_cli.challenge.vipseg import VIPSEG, frame_annotation
from dvis_cli.datasets.categories import vipseg_by_id
from dvis_cli.datasets.vipseg import VIPSeg
from dvis_cli.errors import DatasetError, OutputError
from dvis_cli.structures import PanopticFrame, Segment
from dvis_cli.writers.segments_json import measure_segments

FIRST, SECOND = small_vipseg.NAMES


@pytest.fixture
def dataset(tmp_path: Path) -> VIPSeg:
    return small_vipseg.make_dataset(tmp_path / "vipseg")


def segment_output(out: Path, name: str, frames: int = 3, named: bool = True) -> Path:
    """What `dvis segment` leaves of an image folder, as docs/outputs.md describes it."""
    numbers = {n: place + 1 for place, n in enumerate(small_vipseg.CLASSES)}
    listed = []
    for index in range(frames):
        ids = np.vectorize({0: 0, **numbers}.get)(small_vipseg.id_map(index))
        small_vipseg.save_ids(out / name / "panoptic" / f"{index:06d}.png", ids)
        frame = {"index": index, "pts": index / 25, "file_name": f"{index:06d}.png"}
        listed.append({**frame, "source_name": f"{index:08d}"} if named else frame)
    segments = [
        {
            "id": numbers[n],
            "category_id": c,
            "category": str(c),
            "isthing": c > 40,
            "score": 0.9,
            "frames": [],
        }
        for n, c in small_vipseg.CLASSES.items()
    ]
    source = {"name": name, "path": name, "width": WIDTH, "height": HEIGHT, "fps": 25.0}
    document = {"format": "dvis-segments", "source": source, "frames": listed, "segments": segments}
    (out / name / "segments.json").write_text(json.dumps(document))
    return out / name


def frame(name: str | None, index: int = 0, ids: np.ndarray | None = None) -> PanopticFrame:
    shape = (HEIGHT, WIDTH)
    ids = np.ones(shape, np.int32) if ids is None else ids
    return PanopticFrame(index, 0.0, np.zeros((*shape, 3), np.uint8), ids, name=name)


TREE = Segment(1, vipseg_by_id()[66], 0.5)


def test_annotation_is_measured_on_the_map() -> None:
    ids = np.zeros((4, 6), np.int32)
    ids[1:3, 2:5] = 3
    ids[0, 0] = 1
    segments = frame_annotation("x", measure_segments(ids), {1: 66, 3: 60})["segments_info"]
    assert segments == [
        {"id": 1, "category_id": 66, "iscrowd": 0, "bbox": [0, 0, 1, 1], "area": 1},
        {"id": 3, "category_id": 60, "iscrowd": 0, "bbox": [2, 1, 3, 2], "area": 6},
    ]


def test_a_run_is_a_submission(dataset: VIPSeg, tmp_path: Path) -> None:
    run = small_vipseg.make_run(tmp_path / "run", dataset)
    assert VIPSEG.validate(run, dataset).problems == []
    assert VIPSEG.finished(run) == set(small_vipseg.NAMES)


def test_a_run_resumes_per_video(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with VIPSEG.writer(run, "a") as writer:
        writer.add(frame("0"))
        writer.finish([TREE])
    with pytest.raises(RuntimeError), VIPSEG.writer(run, "b") as writer:
        writer.add(frame("0"))
        raise RuntimeError
    assert VIPSEG.finished(run) == {"a"}
    assert [path.name for path in (run / "pan_pred").iterdir()] == ["a"]
    with pytest.raises(OutputError, match=r"1 videos are not finished in .*: b"):
        VIPSEG.complete(run, ["a", "b"])
    with pytest.raises(OutputError, match="already exists"), VIPSEG.writer(run, "a"):
        pass
    with VIPSEG.writer(run, "b") as writer:
        writer.add(frame("0"))
        writer.finish([TREE])
    written = VIPSEG.complete(run, ["b", "a"])
    assert [v["video_id"] for v in json.loads(written.read_text())["annotations"]] == ["b", "a"]
    assert json.loads(VIPSEG.complete(run, []).read_text()) == {"annotations": []}


def test_a_video_whose_part_is_lost_is_done_again(tmp_path: Path) -> None:
    for _ in range(2):
        with VIPSEG.writer(tmp_path, "a") as writer:
            writer.add(frame("0"))
            writer.finish([TREE])
        (tmp_path / ".videos" / "a.json").unlink()
    assert VIPSEG.finished(tmp_path) == set()
    (tmp_path / "pan_pred" / "a" / "mine.txt").write_text("")
    with pytest.raises(OutputError, match="not ours"), VIPSEG.writer(tmp_path, "a"):
        pass


def test_names_stay_in_the_folder(tmp_path: Path) -> None:
    for name in ("../a", "", "..", "/a"):
        with pytest.raises(OutputError, match="cannot be the name"):
            VIPSEG.writer(tmp_path, name)
    with VIPSEG.writer(tmp_path, "a") as writer:
        for stem in ("../0", "x/0"):
            with pytest.raises(OutputError):
                writer.add(frame(stem))
        writer.add(frame(None, index=7))
        with pytest.raises(OutputError, match="two frames are called '000007'"):
            writer.add(frame("000007"))
    assert not (tmp_path / "pan_pred").exists()


def test_export_of_segment_outputs_is_valid(dataset: VIPSeg, tmp_path: Path) -> None:
    for name in small_vipseg.NAMES:
        segment_output(tmp_path / "out", name)
    report = VIPSEG.export([tmp_path / "out"], tmp_path / "s.zip", workers=2)
    assert (report.videos, report.frames, report.unnamed) == (2, 6, [])
    assert VIPSEG.validate(tmp_path / "s.zip", dataset).problems == []


def test_bytes_do_not_depend_on_time_order_or_workers(tmp_path: Path) -> None:
    for name in small_vipseg.NAMES:
        segment_output(tmp_path / "out", name)
    runs = [tmp_path / "out" / name for name in small_vipseg.NAMES]
    VIPSEG.export(runs, tmp_path / "a.zip")
    for path in (tmp_path / "out").rglob("*"):
        os.utime(path, (time.time() + 1e6,) * 2)
    VIPSEG.export(runs[::-1], tmp_path / "b.zip", workers=2)
    VIPSEG.export([tmp_path / "a.zip"], tmp_path / "c.zip")  # a submission is a run too
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "c.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist()[-1] == "pred.json"
        assert all(info.date_time == (1980, 1, 1, 0, 0, 0) for info in archive.infolist())


def test_run_folders_and_outputs_mix(dataset: VIPSeg, tmp_path: Path) -> None:
    run = small_vipseg.make_run(tmp_path / "run", dataset)
    with pytest.raises(DatasetError, match=r"video '12_first' is in .* and in "):
        VIPSEG.export([run, segment_output(tmp_path / "out", FIRST)], tmp_path / "s.zip")
    report = VIPSEG.export([run, segment_output(tmp_path / "out", "extra")], tmp_path / "s.zip")
    assert report.videos == 3


def test_bad_runs_are_named_and_leave_nothing(tmp_path: Path) -> None:
    good = segment_output(tmp_path / "out", FIRST)
    target = tmp_path / "zips" / "s.zip"
    target.parent.mkdir()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty holds no results: expected segments\.json"):
        VIPSEG.export([tmp_path / "empty"], target)
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        VIPSEG.export([tmp_path / "nowhere"], target)

    def spoil(key: str, value: object, message: str) -> None:
        bad = tmp_path / "bad" / SECOND
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(good, bad)
        document = json.loads((bad / "segments.json").read_text())
        document["frames"][1][key] = value
        (bad / "segments.json").write_text(json.dumps(document))
        with pytest.raises(DatasetError, match=message):
            VIPSEG.export([good, bad], target)

    spoil("source_name", "../../evil", "not a plain name")
    spoil("source_name", "00000000", "two frames have the same source name")
    spoil("file_name", "/etc/passwd", "not a plain name")
    spoil("file_name", "000009.png", r"000009\.png is missing")
    spoil("file_name", None, "made without PNGs")
    (tmp_path / "bad" / SECOND / "segments.json").write_text('{"frames": 3}')
    with pytest.raises(DatasetError, match="not one of dvis segment"):
        VIPSEG.export([tmp_path / "bad"], target)
    small_vipseg.save_ids(good / "panoptic" / "000001.png", np.full((4, 4), 99))
    with pytest.raises(DatasetError, match="frame 00000001: id 99 is in the PNG and not in the json"):
        VIPSEG.export([good], target)
    assert list(target.parent.iterdir()) == []


def test_command(tmp_path: Path) -> None:
    out = segment_output(tmp_path / "out", "clip", named=False)
    result = small_vipseg.run("export", "vipseg", out, "-o", tmp_path / "s.zip", "--json")
    document = json.loads(result.stdout)
    assert (document["videos"], document["frames"], document["numbered_videos"]) == (1, 3, ["clip"])
    assert "do not come from image folders" in result.stderr
    again = small_vipseg.run("export", "vipseg", out, "-o", tmp_path / "s.zip")
    assert isinstance(again.exception, OutputError) and "--overwrite" in str(again.exception)
    forced = small_vipseg.run("export", "vipseg", out, "-o", tmp_path / "s.zip", "--overwrite", "-q")
    assert forced.exit_code == 0 and forced.stderr == ""
