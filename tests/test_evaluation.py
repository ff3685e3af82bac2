"""`dvis evaluate`: recorded numbers through the command, tables, comparisons, and early clear failures."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import small_vipseg

from dvis_cli.challenge.scoring import evaluate
from dvis_cli.challenge.tables import methods, score_document
from dvis_cli.datasets.vipseg import VIPSeg
from dvis_cli.errors import DatasetError, OutputError, UsageError

DATA = Path(__file__).parent / "data" / "metrics"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> VIPSeg:
    return small_vipseg.make_dataset(tmp_path_factory.mktemp("vipseg"))


@pytest.fixture(scope="module")
def runs(dataset: VIPSeg, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [small_vipseg.make_run(folder / f"shift{n}", dataset, shift=n) for n in (0, 1, 3)]


def test_json_holds_the_recorded_numbers_and_nothing_else_is_printed() -> None:
    result = small_vipseg.run("evaluate", DATA / "pred", "--gt", DATA, "--split", "val", "--json")
    document = json.loads(result.stdout)
    assert document["vpq"]["windows"]["1"]["all"]["pq"] == pytest.approx(60.668111624606546, abs=1e-6)
    assert document["vpq"]["windows"]["8"]["stuff"]["pq"] == pytest.approx(66.8471102905259, abs=1e-6)
    assert document["vpq"]["means"]["public"]["all"] == pytest.approx(60.4788, abs=5e-5)
    windows = [document["vpq"]["windows"][k]["all"]["pq"] for k in ("1", "2", "4", "6")]
    assert document["vpq"]["means"]["report"]["all"] == pytest.approx(sum(windows) / 4)
    assert document["stq"]["stq"] == pytest.approx(0.634787041073556, abs=1e-9)
    assert [video["aq"] for video in document["stq"]["per_video"]] == pytest.approx(
        [0.78585226, 0.4053768, 0.69740462], abs=1e-8
    )
    tent = next(row for row in document["vpq"]["per_class"] if row["name"] == "tent")
    assert (tent["windows"]["4"]["tp"], tent["windows"]["4"]["fp"], tent["windows"]["4"]["fn"]) == (12, 2, 2)


def test_workers_do_not_change_a_digit(runs: list[Path], dataset: VIPSeg) -> None:
    one, two = (score_document(evaluate(runs[1], dataset, workers=n)) for n in (1, 2))
    assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_scores_fall_with_the_shift(runs: list[Path], dataset: VIPSeg) -> None:
    scores = [evaluate(run, dataset) for run in runs]
    assert scores[0].results["vpq"].mean() == pytest.approx(100)
    assert scores[0].results["stq"].stq == pytest.approx(1)
    means = [score.results["vpq"].mean() for score in scores]
    assert means[0] > means[1] > means[2]


def test_windows_longer_than_the_videos_are_told(runs: list[Path], dataset: VIPSeg) -> None:
    result = small_vipseg.run("evaluate", runs[0], "--gt", dataset.root)
    assert result.exit_code == 0
    assert "VPQ8: no video has 8 frames; left out of the means" in result.stdout
    document = json.loads(small_vipseg.run("evaluate", runs[0], "--gt", dataset.root, "--json").stdout)
    assert document["vpq"]["empty_windows"] == [4, 6, 8]
    assert document["vpq"]["windows"]["4"]["all"]["pq"] is None
    assert document["vpq"]["means"]["report"]["all"] == pytest.approx(100)


def test_tables_read_like_the_reports(runs: list[Path], dataset: VIPSeg) -> None:
    result = small_vipseg.run("evaluate", DATA / "pred", "--gt", DATA, "--per-class", "--per-video", "-q")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["Run", "VPQ", "VPQ1", "VPQ2", "VPQ4", "VPQ6", "STQ"] in lines
    assert ["pred", "60.6", "60.7", "60.5", "60.9", "60.3", "0.635"] in lines
    assert ["PQ", "thing", "55.6", "55.1", "56.1", "55.1", "54.6", "55.5", "55.3"] in lines
    assert "STQ 0.6348  AQ 0.6247  SQ 0.6450" in result.stdout
    assert any(line[:3] == ["person", "60", "thing"] for line in lines)
    assert any(line[:2] == ["001_synth", "29.6"] for line in lines)


def test_methods_are_what_differs_from_the_first_run(tmp_path: Path) -> None:
    base = {"model": {"name": "m", "weights": "a"}, "mode": "offline", "scales": [720], "flip": False}
    others = {
        "+ multi scale (720, 800)": {"scales": [720, 800]},
        "+ multi scale (720, 800), + flip": {"scales": [720, 800], "flip": True},
        "scale 800, mode online": {"scales": [800], "mode": "online"},
        "model weights b": {"model": {"name": "m", "weights": "b"}},
        "same settings": {"dvis_version": "9"},
    }
    runs = [tmp_path / str(n) for n in range(len(others) + 1)]
    for run, change in zip(runs, [{}, *others.values()], strict=True):
        run.mkdir()
        (run / "run.json").write_text(json.dumps({**base, **change}))
    assert methods(runs) == ["Baseline", *others]
    (runs[1] / "run.json").write_text("[")
    assert methods([runs[0], runs[1], tmp_path / "x.zip"]) == ["Baseline", "1", "x.zip"]


@pytest.mark.parametrize("style", ["flag first", "flag between", "no flag"])
def test_compare_puts_runs_side_by_side(style: str, runs: list[Path], dataset: VIPSeg) -> None:
    arguments: list[str | Path] = {
        "flag first": ["--compare", *runs],
        "flag between": [runs[0], "--compare", *runs[1:]],
        "no flag": [*runs],
    }[style]
    result = small_vipseg.run("evaluate", *arguments, "--gt", dataset.root, "-q", "--workers", "1")
    rows = [line.split() for line in result.stdout.splitlines()]
    compared = style != "no flag"
    names = ["Run", "shift0", "shift1", "shift3"]
    assert [row[0] for row in rows] == (["Method", "Baseline", *names[2:]] if compared else names)
    assert [row[compared] for row in rows] == names
    assert rows[1][1 + compared] == "100.0"
    if compared:
        assert rows[2][-1] == f"{float(rows[2][2]) - 100:+.1f}"
    as_json = small_vipseg.run("evaluate", *arguments, "--gt", dataset.root, "-q", "--workers", "1", "--json")
    assert [Path(run["prediction"]).name for run in json.loads(as_json.stdout)["runs"]] == [
        "shift0",
        "shift1",
        "shift3",
    ]


def test_csv_holds_every_number(runs: list[Path], dataset: VIPSeg, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    result = small_vipseg.run("evaluate", DATA / "pred", "--gt", DATA, "--csv", path, "--json")
    document = json.loads(result.stdout)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    classes = [row for row in rows if row["metric"] == "vpq" and row["scope"] == "class"]
    cells = {(int(row["category_id"]), row["window"]): row for row in classes}
    for row in document["vpq"]["per_class"]:
        for window, values in row["windows"].items():
            for key, value in values.items():
                assert float(cells[row["id"], window][key]) == value
    (stq,) = [row for row in rows if row["metric"] == "stq" and row["scope"] == "group"]
    assert float(stq["stq"]) == document["stq"]["stq"]
    assert sum(row["scope"] == "video" and row["metric"] == "stq" for row in rows) == 3
    bad = small_vipseg.run("evaluate", DATA / "pred", "--gt", DATA, "--csv", tmp_path / "no" / "x.csv")
    assert isinstance(bad.exception, OutputError)


def test_one_metric_alone(runs: list[Path], dataset: VIPSeg) -> None:
    for metric, other in (("vpq", "stq"), ("stq", "vpq")):
        result = small_vipseg.run("evaluate", runs[0], "--gt", dataset.root, "--metric", metric, "--json")
        assert other not in json.loads(result.stdout)
        assert small_vipseg.run("evaluate", runs[0], "--gt", dataset.root, "--metric", metric).exit_code == 0
    result = small_vipseg.run("evaluate", runs[0], "--gt", dataset.root, "--metric", "map")
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == "metric 'map' not known; known metrics: vpq, stq"


def test_bad_predictions_fail_before_any_work(runs: list[Path], dataset: VIPSeg, tmp_path: Path) -> None:
    done: list[str] = []
    bad = tmp_path / "bad"
    shutil.copytree(runs[0], bad)
    (bad / "pan_pred" / "7_second" / "00000001.png").unlink()
    (bad / "pan_pred" / "7_second" / "00000002.png").unlink()
    with pytest.raises(DatasetError) as caught:
        evaluate(bad, dataset, on_video=done.append)
    message = str(caught.value)
    assert "7_second/00000001" in message and "cannot be scored, 2 problems, the first: " in message
    assert f"dvis validate {bad} --gt {dataset.json_path}" in message and "\n" not in message
    document = json.loads((bad / "pred.json").read_text())
    document["annotations"].pop()
    (bad / "pred.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match="7_second: has no prediction"):
        evaluate(bad, dataset, on_video=done.append)
    document = json.loads((runs[0] / "pred.json").read_text())
    document["annotations"][0]["annotations"][0]["segments_info"][0]["category_id"] = 500
    shutil.rmtree(bad)
    shutil.copytree(runs[0], bad)
    (bad / "pred.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match="category_id 500"):
        evaluate(bad, dataset, on_video=done.append)
    assert done == []


@pytest.mark.parametrize("workers", [1, 2])
def test_pixels_that_disagree_name_video_and_frame(
    workers: int, runs: list[Path], dataset: VIPSeg, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(runs[0], bad)
    small_vipseg.save_ids(bad / "pan_pred" / "12_first" / "00000001.png", small_vipseg.id_map(1))
    with pytest.raises(DatasetError, match="video '12_first', frame '00000001': ids"):
        evaluate(bad, dataset, workers=workers)


def test_only_json_and_masks_are_needed(runs: list[Path], dataset: VIPSeg, tmp_path: Path) -> None:
    shutil.copytree(dataset.root / "panomasksRGB", tmp_path / "panomasksRGB")
    shutil.copy(dataset.json_path, tmp_path)
    lean = VIPSeg.open(tmp_path, "val")
    assert evaluate(runs[0], lean).videos == 2
    (tmp_path / "panomasksRGB" / "7_second" / "00000000.png").unlink()
    with pytest.raises(DatasetError, match=r"ground truth .*00000000\.png is missing"):
        evaluate(runs[0], lean)


def test_a_test_split_cannot_be_scored(runs: list[Path], dataset: VIPSeg, tmp_path: Path) -> None:
    document = json.loads(dataset.json_path.read_text())
    for video in document["annotations"]:
        for frame in video["annotations"]:
            frame["segments_info"] = []
    path = tmp_path / "panoptic_gt_VIPSeg_test.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match="has no annotations"):
        evaluate(runs[0], VIPSeg(path))
