"""`dvis export FORMAT` and `dvis segment --format` as commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import media
import pytest
from small_results import write_result

from dvis_cli.errors import UsageError
from dvis_cli.run.options import SegmentOptions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_result(tmp_path_factory.mktemp("cli"), 3)


def test_a_list_of_formats_goes_into_the_result(dvis, folder: Path) -> None:
    code, out, err = dvis("export", "csv,masks:png", folder)
    assert code == 0, err
    assert out.split() == [str(folder / "exports" / name) for name in ("objects.csv", "masks")]
    code, out, err = dvis("export", "csv", folder)
    assert (
        code == 1
        and err == f"error: {folder}/exports/objects.csv already exists; add --overwrite to replace it\n"
    )


def test_several_results_and_json(dvis, folder: Path, tmp_path: Path) -> None:
    other = write_result(tmp_path / "other", 2).rename(tmp_path / "other" / "second")
    code, out, err = dvis(
        "export", "coco", folder, other, "-o", tmp_path / "two", "--only", "things", "--json", "-q"
    )
    assert (code, err) == (0, "") and not json.loads(out)["warnings"]
    assert json.loads(out)["files"] == [str(tmp_path / "two" / name / "coco") for name in ("film", "second")]


def test_edges_are_spoken_of(dvis, folder: Path, tmp_path: Path) -> None:
    code, _, err = dvis("export", "matte:png", folder, "-o", tmp_path)
    assert code == 0 and "edges are antialiased from the map" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["matte:mp4"], 2, "an .mp4 holds no alpha"),
        (["matte", "-o", "x.mp4"], 2, "an .mp4 holds no alpha"),
        (["xyz"], 2, "format 'xyz' not known; formats: coco,"),
        (["csv", "--only", "99"], 2, "no segment has this id"),
        (["csv", "--only", "²"], 2, "class '²' is none of the result's 3"),
    ],
)
def test_mistakes_are_one_line(dvis, folder: Path, arguments: list[str], code: int, message: str) -> None:
    found, out, err = dvis("export", arguments[0], folder, *arguments[1:], "-q")
    assert found == code and not out and message in err and err.count("\n") == 1


def test_results_of_one_call_do_not_mix(dvis, folder: Path, tmp_path: Path) -> None:
    """Two of one name, or one film for both, are refused; a class that one of them lacks is a warning."""
    other = write_result(tmp_path / "other", 1)
    code, _, err = dvis("export", "csv", folder, other, "-o", tmp_path / "x", "--overwrite")
    assert code == 2 and "two results are called film" in err and not (tmp_path / "x").exists()
    code, _, err = dvis("export", "csv", folder, other, "--source", "film.mp4")
    assert code == 2 and "--source film.mp4 is one film" in err
    document = json.loads((other / "segments.json").read_text())
    document["segments"] = [one for one in document["segments"] if one["category"] != "car, automobile"]
    (other / "segments.json").write_text(json.dumps(document))
    other = other.rename(other.with_name("carless"))
    code, out, err = dvis(
        "export", "masks:png", folder, other, "-o", tmp_path / "y", "--only", "car,99", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["warnings"] == [
        "film: --only 99: no segment has such an id",
        "film: --only 99: no segment has such an id",
        "film: there is nothing to export of car,99: masks will be empty",
    ]


def test_what_will_be_empty_is_told_once(dvis, folder: Path, tmp_path: Path) -> None:
    other = write_result(tmp_path, 1)
    document = json.loads((other / "segments.json").read_text())
    document["segments"] = [one | {"isthing": False} for one in document["segments"]]
    (other / "segments.json").write_text(json.dumps(document))
    code, out, err = dvis("export", "csv,masks:png,yolo", other, "--json")
    assert code == 0, err
    assert json.loads(out)["warnings"] == [
        "film: there is nothing to export of things: masks, yolo will be empty"
    ]


def test_submissions_keep_their_names(dvis, folder: Path, tmp_path: Path) -> None:
    code, out, err = dvis("export", "vipseg", folder, "-o", tmp_path / "sub.zip", "--workers", 1)
    assert code == 0 and "1 videos, 3 frames" in out, err


def test_segment_makes_exports_with_the_result(dvis, tmp_path: Path) -> None:
    media.write_video(tmp_path / "clip.mp4", media.moving_squares(3, 64, 96), fps=10)
    code, _, err = dvis("segment", tmp_path / "clip.mp4", "-o", tmp_path / "out", "--score-threshold", "0",
                          "--overlap-threshold", "0", "--format", "csv,matte:png,coco", "--images", "--only", "things",
                          "--json")  # fmt: skip
    assert code == 0, err
    made = tmp_path / "out" / "clip"
    assert sorted(one.name for one in made.iterdir()) == [
        "exports",
        "overlay.mp4",
        "panoptic",
        "segments.json",
    ]
    assert sorted(one.name for one in (made / "exports").iterdir()) == ["coco", "matte", "objects.csv"]
    assert len(list((made / "exports" / "coco" / "images").iterdir())) == 3
    code, _, err = dvis("segment", tmp_path / "clip.mp4", "-o", tmp_path / "out", "--overwrite", "-q")
    assert code == 0, err  # exports are the result's own
    assert not (made / "exports").exists()


def test_what_does_not_fit_is_left_out_and_the_result_stays(dvis, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("dvis_cli.export.indexed.DAVIS_OBJECTS", -1)
    media.write_video(tmp_path / "clip.mp4", media.moving_squares(2, 64, 96), fps=10)
    code, out, err = dvis(
        "segment", tmp_path / "clip.mp4", "-o", tmp_path / "out", "--format", "csv,davis", "--json"
    )
    assert code == 0, err
    assert any(one.startswith("davis was left out") for one in json.loads(out)["warnings"])
    assert [one.name for one in (tmp_path / "out" / "clip" / "exports").iterdir()] == ["objects.csv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": ("coco",), "maps": False}, "needs the maps"),
        ({"only": ("person",)}, "are for --format"),
        ({"format": ("matte:mp4",)}, "holds no alpha"),
        ({"top_k": 3}, "--task instance"),
        ({"task": "instance", "overlap_threshold": 0.5}, "--task panoptic"),
        ({"task": "semantic", "score_threshold": 0.5}, "no pixel is void"),
    ],
)
def test_options_are_checked_before_anything_runs(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SegmentOptions(**options)


def test_a_class_that_the_model_lacks_is_named_at_once(dvis, tmp_path: Path) -> None:
    media.write_video(tmp_path / "clip.mp4", media.moving_squares(2, 64, 96), fps=10)
    code, _, err = dvis(
        "segment", tmp_path / "clip.mp4", "-o", tmp_path / "out", "--format", "csv", "--only", "persn"
    )
    assert code == 2 and "persn" in err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_film(tmp_path: Path) -> None:
    """1,000 frames in the memory of 100, and 100 MB."""
    script = Path(__file__).parent / "benchmarks" / "exports.py"
    done = subprocess.run([sys.executable, script, "360", "640"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    short, long = (json.loads(line)["peak_mib"] for line in done.stdout.splitlines())
    assert long - short < 100
