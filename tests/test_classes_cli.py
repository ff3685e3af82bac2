"""`--classes` and a model that is pulled on first use, through `dvis segment`."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import weights_server
import yaml
from goldens import Golden

GOLDEN = Golden.load("r50")


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, rgb in enumerate(GOLDEN.frames[:3]):
        cv2.imwrite(str(folder / f"{i}.png"), rgb[..., ::-1])
    return folder


def run(dvis, frames: Path, out: Path, *options: object) -> tuple[dict, list[np.ndarray]]:
    """segments.json and the maps, class ids of panoptic ones (-1: void)."""
    weights = GOLDEN.folder / "weights_offline.safetensors"
    limits = {"--score-threshold": 0.1, "--overlap-threshold": 0}
    of_task = {"instance": ["--score-threshold"], "semantic": []}.get(str(options[1]), limits)
    thresholds = [word for name in of_task for word in (name, limits[name])]
    code, _, err = dvis(
        "segment", frames, "-o", out, "--model", weights, "--short-side", 90, *thresholds, *options
    )
    assert code == 0, err
    document = json.loads((out / "frames" / "segments.json").read_text())
    maps = []
    for path in sorted((out / "frames").glob("*/*.png")):
        png = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if png.ndim == 3:
            table = {0: -1, **{one["id"]: one["category_id"] for one in document["segments"]}}
            ids = (png[..., ::-1].astype(int) * (1, 256, 65536)).sum(-1)
            png = np.vectorize(table.get)(ids)
        maps.append(png.astype(int))
    return document, maps


@pytest.mark.parametrize("task, void", [("panoptic", -1), ("semantic", 255)])
def test_the_rest_is_void(dvis, frames: Path, tmp_path: Path, task: str, void: int) -> None:
    """What is shown is where it is among all classes; everything else is void, whatever its id (wall is 0)."""
    document, everything = run(dvis, frames, tmp_path / "all", "--task", task)
    found = [one for one in document["segments"] if any((m == one["category_id"]).any() for m in everything)]
    assert len({one["category_id"] for one in found}) >= 2
    kept = max(found, key=lambda one: sum((m == one["category_id"]).sum() for m in everything))
    for spelled in (kept["category"].upper(), str(kept["category_id"])):
        document, some = run(
            dvis, frames, tmp_path / "some", "--task", task, "--classes", spelled, "--overwrite"
        )
        assert {one["category"] for one in document["segments"]} == {kept["category"]}
        assert document["classes"] == [spelled]
        for one, other in zip(everything, some, strict=True):
            assert np.array_equal(other, np.where(one == kept["category_id"], one, void))


def test_instances_of_some_classes(dvis, frames: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    document, _ = run(dvis, frames, tmp_path / "a", "--task", "instance", "--classes", "things")
    assert document["segments"] and all(one["isthing"] for one in document["segments"])


def test_unknown_classes(dvis, frames: Path, tmp_path: Path) -> None:
    weights = GOLDEN.folder / "weights_offline.safetensors"
    code, _, err = dvis(
        "segment", frames, "-o", tmp_path / "o", "--model", weights, "--classes", "person,perzon"
    )
    assert code == 2 and "'perzon'" in err and "the nearest: person" in err
    assert not (tmp_path / "o").exists()


def test_a_model_is_pulled_on_first_use(dvis, frames: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("DVIS_WEIGHTS")
    monkeypatch.setenv("DVIS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DVIS_REGISTRY", str(tmp_path / "r.yaml"))
    data = (GOLDEN.folder / "weights_offline.safetensors").read_bytes()
    with weights_server.running() as server:
        url = server.put("/w.safetensors", data)
        entry = {
            "name": "remote",
            "licence": "CC0 of the test",
            "url": url,
            "classes": "vipseg",
            "short_side": 90,
        }
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({"models": [entry]}))
        command = ("segment", frames, "-o", tmp_path / "out", "--model", "remote")
        code, _, err = dvis(*command)
        assert code == 2 and "CC0 of the test" in err and "--yes" in err and not server.gets("/w.safetensors")
        code, _, err = dvis(*command, "--yes")
        assert code == 0 and "CC0 of the test" in err and "MB" in err, err
    assert dvis(*command, "--overwrite")[0] == 0, "the second time it is here, and nobody is asked"
    document = json.loads((tmp_path / "out" / "frames" / "segments.json").read_text())
    assert document["model"]["name"] == "remote"
    code, _, err = dvis("segment", frames, "-o", tmp_path / "out2", "--model", "remotely", "--yes")
    assert code == 2 and "the nearest: remote" in err
