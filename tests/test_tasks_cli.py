"""Instance and semantic segmentation as a user runs them: files, submissions, validation, scores."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import av
import cv2
import media
import numpy as np
import pytest
from goldens import FOLDER, NETWORKS, Golden
from PIL import Image
from small_vipseg import NAMES, make_dataset
from test_tasks_goldens import check_tubes, recorded_tubes

from dvis_cli.challenge.vspw import VSPW
from dvis_cli.challenge.ytvis import YTVIS
from dvis_cli.coco_masks import decode
from dvis_cli.export.result import open_result

ALLOWED_PIXELS = 10
FAST = ("--short-side", 64, "--quiet")


def tube_masks(tube, size) -> np.ndarray:
    return np.stack([decode([code], size)[0] if code else np.zeros(size, bool) for code in tube.frames])


# --- recorded results through the public path --------------------------------------------------------------


def segment_golden(dvis, golden: Golden, folder: Path, task: str, config: str, *options) -> Path:
    frames = folder / "frames"
    frames.mkdir()
    for i, rgb in enumerate(golden.frames):
        cv2.imwrite(str(frames / f"{i}.png"), rgb[..., ::-1])
    code, _, err = dvis(
        "segment", frames, "-o", folder / "out", "--model", golden.folder / "weights_offline.safetensors",
        "--config", golden.folder / f"config_{config}.yaml", "--short-side", 90, "--task", task, *options,
    )  # fmt: skip
    assert code == 0, err
    return folder / "out" / "frames"


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("mode", ["online", "offline", "minvis"])
def test_recorded_instances(dvis, tmp_path: Path, network: str, mode: str) -> None:
    golden = Golden.load(network)
    options = ("--top-k", 10) if mode == "minvis" else ()
    result = segment_golden(dvis, golden, tmp_path, "instance", mode, *options)
    document = json.loads((result / "segments.json").read_text())
    assert (document["task"], document["mode"]) == ("instance", mode)
    opened = open_result(result, "instance")
    size, tubes = (opened.info.height, opened.info.width), opened.tubes()
    index = {category.id: i for i, category in enumerate(golden.model.categories)}
    queries = [segment["query"] for segment in document["segments"]]
    ours = [
        (tube.score, index[tube.category_id], query, tube_masks(tube, size))
        for tube, query in zip(tubes, queries, strict=True)
    ]
    check_tubes(ours, recorded_tubes(golden, "minvis" if mode == "minvis" else f"{mode}.vis"))
    for segment, (_, _, _, masks) in zip(document["segments"], ours, strict=True):
        assert segment["area"] == masks.sum()
        for seen in segment["frames"]:
            x, y, w, h = seen["box"]
            assert (
                masks[seen["frame"]].sum() == masks[seen["frame"], y : y + h, x : x + w].sum() == seen["area"]
            )


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_recorded_semantic_maps(dvis, tmp_path: Path, network: str, mode: str) -> None:
    golden = Golden.load(network)
    result = segment_golden(dvis, golden, tmp_path, "semantic", mode)
    maps = np.stack([np.array(Image.open(path)) for path in sorted((result / "semantic").iterdir())])
    assert maps.dtype == np.uint8
    ids = np.array([category.id for category in golden.model.categories])
    assert (maps != ids[golden.final[f"{mode}.vss.sem"]]).sum() <= ALLOWED_PIXELS
    document = json.loads((result / "segments.json").read_text())
    assert {s["id"] for s in document["segments"]} == set(np.unique(maps).tolist())
    for segment in document["segments"]:
        assert segment["id"] == segment["category_id"] and 0 < segment["score"] <= 1
        assert segment["area"] == (maps == segment["id"]).sum()


# --- files -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    media.write_video(path, media.moving_squares(5, 64, 96), fps=10)
    return path


@pytest.mark.parametrize("task, maps", [("instance", "masks.jsonl"), ("semantic", "semantic")])
def test_outputs_of_a_clip(dvis, tmp_path: Path, clip: Path, task: str, maps: str) -> None:
    code, out, err = dvis("segment", clip, "-o", tmp_path, "--task", task, "--json", *FAST)
    assert code == 0, err
    assert json.loads(out)["frames"] == 5
    folder = tmp_path / "clip"
    assert sorted(p.name for p in folder.iterdir()) == sorted([maps, "overlay.mp4", "segments.json"])
    with av.open(str(folder / "overlay.mp4")) as container:
        assert len(list(container.decode(video=0))) == 5
    for name, options in {
        "overlay.mp4": ["--no-maps", "--no-segments"],
        maps: ["--no-segments", "--overlay", "none"],
        "segments.json": ["--no-panoptic", "--overlay", "none"],
    }.items():
        assert dvis("segment", clip, "-o", tmp_path / name, "--task", task, *options, *FAST)[0] == 0
        assert [p.name for p in (tmp_path / name / "clip").iterdir()] == [name]
    assert dvis("segment", clip, "-o", tmp_path, "--task", task, "--overwrite", *FAST)[0] == 0


def test_a_score_threshold_drops_tubes(dvis, tmp_path: Path, clip: Path) -> None:
    assert dvis("segment", clip, "-o", tmp_path / "all", "--task", "instance", *FAST)[0] == 0
    code, _, err = dvis(
        "segment", clip, "-o", tmp_path / "few", "--task", "instance", "--score-threshold", 1, *FAST
    )
    assert code == 0, err
    everything, few = (
        json.loads((tmp_path / name / "clip" / "segments.json").read_text())["segments"] for name in ("all", "few")
    )  # fmt: skip
    assert len(everything) == 20 and few == []


@pytest.mark.parametrize("options", [["--task", "depth"], ["--task", "instance", "--top-k", "0"]])
def test_usage(dvis, tmp_path: Path, clip: Path, options: list[str]) -> None:
    code, _, err = dvis("segment", clip, "-o", tmp_path, *options)
    assert code == 2 and err.startswith("error: ")


def test_a_batch_remembers_its_task(dvis, tmp_path: Path, clip: Path) -> None:
    shutil.copytree(clip.parent, tmp_path / "in")
    shutil.copy(clip, tmp_path / "in" / "other.mp4")
    command = ["segment", tmp_path / "in", "-o", tmp_path / "out", "--jobs", 1, "--overlay", "none", "--json"]
    code, out, _ = dvis(*command, "--task", "semantic", *FAST)
    assert code == 0 and json.loads(out.splitlines()[-1])["done"] == 2
    assert (tmp_path / "out" / "other" / "semantic" / "000004.png").is_file()
    code, out, _ = dvis(*command, "--task", "semantic", *FAST)
    assert json.loads(out.splitlines()[-1])["skipped"] == 2
    code, out, _ = dvis(*command, "--task", "instance", *FAST)
    assert code == 0 and json.loads(out.splitlines()[-1])["done"] == 2
    assert sorted(p.name for p in (tmp_path / "out" / "other").iterdir()) == [
        "batch.json", "masks.jsonl", "segments.json"
    ]  # fmt: skip


# --- datasets: from frames to scores -----------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "VIPSeg_720P"
    make_dataset(root, frames=3)
    return root


@pytest.mark.parametrize("task, result", [("instance", "results.json"), ("semantic", NAMES[0])])
def test_a_split_to_scores(dvis, tmp_path: Path, dataset: Path, task: str, result: str) -> None:
    run, again = tmp_path / "run", ("segment", "--dataset", dataset, "-o", tmp_path / "run", "--task", task)
    code, out, err = dvis(*again, "--json", *FAST)
    assert code == 0, err
    assert json.loads(out)["done"] == list(NAMES) and json.loads(out)["pred_json"] is None
    assert (run / result).exists()
    code, out, _ = dvis("validate", run, "--gt", dataset, "-q")
    assert code == 0 and "valid (2 videos, 6 frames)" in out
    code, out, _ = dvis("evaluate", run, "--gt", dataset, "--task", task, "--json", "-q", "--workers", 1)
    assert code == 0 and json.loads(out)["task"] == task

    shutil.rmtree(run / NAMES[0], ignore_errors=True)
    (run / ".tubes" / f"{NAMES[0]}.json").unlink(missing_ok=True)
    code, out, _ = dvis(*again, "--json", *FAST)
    assert code == 0 and json.loads(out)["done"] == [NAMES[0]] and json.loads(out)["skipped"] == [NAMES[1]]
    code, _, err = dvis("segment", "--dataset", dataset, "-o", run, *FAST)
    assert code == 1 and "begun with task" in err and task in err
    code, _, err = dvis(*again, "--mode", "online", *FAST)
    assert code == 1 and "begun with mode" in err, "all is done, but not so"


def test_every_way_to_a_submission_gives_the_same(dvis, tmp_path: Path, dataset: Path) -> None:
    """Through --dataset, or through image folders and export: the same masks and maps."""
    folders = [dataset / "images" / name for name in NAMES]
    for task in ("instance", "semantic"):
        run, out = tmp_path / f"run-{task}", tmp_path / f"out-{task}"
        assert dvis("segment", "--dataset", dataset, "-o", run, "--task", task, *FAST)[0] == 0
        options = ("--task", task, "--overlay", "none", *FAST)
        assert dvis("segment", *folders, "-o", out, *options)[0] == 0
    runs = [tmp_path / f"{name}-instance" for name in ("run", "out")]
    for run in runs:
        code, _, err = dvis("export", "ytvis", run, "--gt", dataset, "-o", f"{run}.json", "-q")
        assert code == 0, err
    one, other = (json.loads(Path(f"{run}.json").read_text()) for run in runs)
    assert len(one) == 40 and {entry["video_id"] for entry in one} == {1, 2}
    key = lambda entry: (entry["video_id"], -round(entry["score"], 6), json.dumps(entry["segmentations"]))  # noqa: E731
    for a, b in zip(sorted(one, key=key), sorted(other, key=key), strict=True):
        assert a.pop("score") == pytest.approx(b.pop("score"), abs=1e-6) and a == b
    runs = [tmp_path / f"{name}-semantic" for name in ("run", "out")]
    for run in runs:
        assert dvis("export", "vspw", run, "-o", f"{run}.zip", "-q")[0] == 0
    with zipfile.ZipFile(f"{runs[0]}.zip") as first, zipfile.ZipFile(f"{runs[1]}.zip") as second:
        assert first.namelist() == second.namelist() and len(first.namelist()) == 6
        assert all(first.read(name) == second.read(name) for name in first.namelist())
    for made in ("run-instance.json", "run-semantic.zip"):
        code, out, _ = dvis("validate", tmp_path / made, "--gt", dataset, "-q", "--workers", 1)
        assert code == 0, out


def truth_as_predictions(dataset: Path, folder: Path) -> tuple[Path, Path]:
    """Results that repeat the truth: results.json, and maps."""
    truth = YTVIS.open_truth(dataset, "val")
    entries = [
        {
            "video_id": video.number,
            "category_id": tube.category_id,
            "score": 0.5,
            "segmentations": [
                None if code is None else {"size": list(video.size), "counts": code} for code in tube.frames
            ],
        }
        for video in truth.videos
        for tube in video.tubes()
    ]
    (folder / "results.json").write_text(json.dumps(entries))
    from dvis_cli.challenge.vspw_truth import open_semantic_truth

    for video in open_semantic_truth(dataset, "val").videos:
        for place, stem in enumerate(video.stems):
            path = folder / "maps" / video.name / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            classes = video.read(place)
            Image.fromarray(np.where(classes < 0, 66, classes).astype(np.uint8)).save(path)
    return folder / "results.json", folder / "maps"


def test_the_truth_scores_full_marks(dvis, tmp_path: Path, dataset: Path) -> None:
    results, maps = truth_as_predictions(dataset, tmp_path)
    csv = tmp_path / "scores.csv"
    code, out, err = dvis(
        "evaluate", results, results, "--gt", dataset, "--task", "instance", "--per-class", "--per-video", "--csv", csv
    )  # fmt: skip
    assert code == 0, err
    assert "AP50" in out and "100.0" in out and "car" in out and csv.read_text().count("\n") > 4
    code, out, err = dvis("evaluate", maps, "--gt", dataset, "--task", "semantic", "--json", "-q")
    document = json.loads(out)
    assert document["miou"] == document["accuracy"] == 1.0
    assert {row["name"] for row in document["per_class"]} == {"sky", "tree", "person", "car"} or len(
        document["per_class"]
    ) == 4
    code, _, err = dvis("evaluate", maps, "--gt", dataset, "--task", "semantic", "--metric", "vpq")
    assert code == 2 and "--metric" in err


def test_output_folders_can_be_scored(dvis, tmp_path: Path, dataset: Path) -> None:
    folders = [dataset / "images" / name for name in NAMES]
    for task in ("instance", "semantic"):
        out = tmp_path / task
        assert dvis("segment", *folders, "-o", out, "--task", task, "--overlay", "none", *FAST)[0] == 0
        code, _, err = dvis("evaluate", out, "--gt", dataset, "--task", task, "--json", "-q", "--workers", 1)
        assert code == 0, err
        other = {"instance": "semantic", "semantic": "instance"}[task]
        code, _, err = dvis("evaluate", out, "--gt", dataset, "--task", other, "-q", "--workers", 1)
        assert code == 1 and f"--task {task}" in err
    shutil.rmtree(tmp_path / "instance" / NAMES[0])
    code, _, err = dvis("evaluate", tmp_path / "instance", "--gt", dataset, "--task", "instance", "-q")
    assert code == 1 and NAMES[0] in err


def test_exports_refuse_what_does_not_fit(dvis, tmp_path: Path, dataset: Path, clip: Path) -> None:
    assert (
        dvis("segment", clip, "-o", tmp_path / "v", "--task", "instance", "--overlay", "none", *FAST)[0] == 0
    )
    target = tmp_path / "results.json"
    code, _, err = dvis("export", "ytvis", tmp_path / "v", "--gt", dataset, "-o", target)
    assert code == 1 and "clip" in err and not target.exists()
    code, out, err = dvis("export", "ytvis", tmp_path / "v", "-o", target, "--json")
    assert code == 0 and json.loads(out)["videos"] == {"clip": 1} and "--gt" in err
    code, _, err = dvis("export", "ytvis", tmp_path / "v", "-o", target)
    assert code == 1 and "--overwrite" in err
    report = YTVIS.export([target], tmp_path / "again.zip")
    assert report.tubes == 20
    with zipfile.ZipFile(tmp_path / "again.zip") as archive:
        assert json.loads(archive.read("results.json")) == json.loads(target.read_text())
    for command in ("vspw", "vipseg"):
        code, _, err = dvis("export", command, tmp_path / "v", "-o", tmp_path / f"{command}.zip")
        assert code == 1 and not (tmp_path / f"{command}.zip").exists(), command
    assert (
        dvis("segment", clip, "-o", tmp_path / "s", "--task", "semantic", "--overlay", "none", *FAST)[0] == 0
    )
    code, out, err = dvis("export", "vspw", tmp_path / "s", "-o", tmp_path / "maps")
    assert code == 0 and "000000" in err and (tmp_path / "maps" / "clip" / "000004.png").is_file()
    code, _, err = dvis("export", "vspw", tmp_path / "s", "-o", tmp_path / "maps")
    assert code == 1 and "already exists" in err
    assert VSPW.export([tmp_path / "maps"], tmp_path / "maps.zip").frames == 5


def test_recorded_networks_at_another_output_size(dvis, tmp_path: Path, clip: Path) -> None:
    """Masks and maps are made at the size of the video, whatever the network sees."""
    folder = FOLDER / "r50"
    for task in ("instance", "semantic"):
        code, _, err = dvis(
            "segment", clip, "-o", tmp_path / task, "--model", folder / "weights_offline.safetensors", "--config",
            folder / "config_minvis.yaml", "--short-side", 96, "--task", task, "--quiet",
        )  # fmt: skip
        assert code == 0, err
    info = open_result(tmp_path / "instance" / "clip", "instance").info
    picture = np.array(Image.open(tmp_path / "semantic" / "clip" / "semantic" / "000000.png"))
    assert (info.height, info.width) == picture.shape == (64, 96)
