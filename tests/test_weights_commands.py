"""`dvis weights list`, `verify`, `remove`, `add` against a server of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers_models
import yaml
from goldens import FOLDER
from weights_server import DATA, REPO, Server, nothing, pull, register

from dvis_cli.checkpoints.label_sets import label_set

pytest.importorskip("huggingface_hub")


def test_patterns_must_match_one_file(server: Server, tmp_path: Path, dvis) -> None:
    server.repository(REPO, {"DVIS++/online_r50.pth": DATA, "DVIS++/offline_r50.pth": DATA, "README.md": b""})
    register(tmp_path, hub=REPO, file=["dvis++/*", "*R50*"])
    code, _, err = pull(dvis)
    assert code == 2 and "2 files" in err and "DVIS++/offline_r50.pth" in err and "--file" in err
    code, _, err = pull(dvis, "--file", "*vitl*")
    assert code == 2 and "0 files" in err and "DVIS++/online_r50.pth" in err and "README" not in err
    code, out, err = pull(dvis, "--file", "*/online*", "--as", "mine")
    assert code == 0 and out.strip().endswith("mine/online_r50.pth"), err


def test_list_remote(server: Server, tmp_path: Path, dvis) -> None:
    server.repository(REPO, {"a/one.pth": DATA, "notes.txt": b""})
    register(tmp_path, hub=REPO, file="*")
    code, out, _ = dvis("weights", "list", "m", "--remote", "--json")
    assert code == 1 and [row["path"] for row in json.loads(out)] == [
        "a/one.pth"
    ]  # the package's are not there


def test_list_shows_the_users_registry(server: Server, tmp_path: Path, dvis) -> None:
    register(tmp_path, url=server.put("/m.pth", DATA), data="Mine", score="PQ 1.0 (mine)")
    code, out, _ = dvis("weights", "list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and rows["m"]["data"] == "Mine" and len(rows) > 60
    code, out, _ = dvis("weights", "list")
    assert "PQ 1.0" in out and "not supported" in out


def test_verify_finds_changes(place, tmp_path: Path, dvis) -> None:
    place()
    pull(dvis)
    assert dvis("weights", "verify")[0] == 0
    path = Path(dvis("weights", "path", "m")[1].strip())
    path.write_bytes(DATA[:-1] + b"x")
    code, out, err = dvis("weights", "verify", "m")
    assert code == 1 and "m.pth has changed" in out and "1 of 1" in err
    path.unlink()
    assert "m.pth is missing" in dvis("weights", "verify")[1]


def test_verify_remote(place, server: Server, tmp_path: Path, dvis) -> None:
    path = place()
    assert dvis("weights", "verify", "m", "--remote")[:2] == (0, f"{'m':44} ok\n")
    server.files[path].data *= 2
    document = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    document["models"][0]["size_mb"] = 1.0
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))
    code, out, _ = dvis("weights", "verify", "m", "--remote")
    assert code == 1 and "2 MB, the registry has 1" in out
    server.files.clear()
    server.repositories.clear()
    code, out, _ = dvis("weights", "verify", "m", "--remote")
    assert code == 1 and "404" in out
    assert not server.gets(path)


def test_damaged_records_are_said(place, tmp_path: Path, dvis) -> None:
    place()
    pull(dvis)
    record = tmp_path / "home" / "weights" / "m" / "dvis.json"
    good = record.read_text()
    for bad in (
        "{",
        "[]",
        "[" * 100_000,
        good.replace("m.pth", "../m.pth"),
        good.replace("CC0", "").replace('"licence"', '"x"'),
    ):
        record.write_text(bad)
        code, _, err = dvis("weights", "verify", "m")
        assert code == 1 and "is damaged" in err, err
    assert dvis("weights", "remove", "m")[0] == 0 and nothing(tmp_path)


def test_remove_clears_what_was_begun(place, server: Server, tmp_path: Path, dvis) -> None:
    path = place(cuts=[400_000] + [0] * 20)
    pull(dvis)
    assert dvis("weights", "remove", "m")[0] == 0
    assert [p.name for p in (tmp_path / "home" / "weights").iterdir()] == [".m.lock"]
    assert dvis("weights", "remove", "m")[0] == 2
    server.files[path].cuts = []


def test_add_and_use_by_name(server: Server, tmp_path: Path, dvis) -> None:
    register(tmp_path, url="https://example.org/m.pth")
    source = FOLDER / "r50" / "weights_offline.safetensors"
    code, out, err = dvis("weights", "add", source, "--as", "recorded", "--classes", "vipseg")
    assert code == 0 and Path(out.strip()).read_bytes() == source.read_bytes(), err
    assert dvis("weights", "add", source, "--as", "recorded")[0] == 2
    for own in ("dvis-lite", "tiny"):  # it would never be used
        assert "comes with dvis" in dvis("weights", "add", source, "--as", own)[2]
    assert dvis("weights", "add", source, "--as", "tiny-of-mine", "--classes", "vipseg")[0] == 0
    assert dvis("weights", "add", source, "--as", "other", "--classes", "coco")[0] == 2
    assert dvis("weights", "add", source, "--as", "other", "--classes", "cocoa")[0] == 2
    from dvis_cli.run.loading import load_model

    assert load_model("recorded").config.name == "recorded"
    assert load_model("tiny-of-mine").weights is not None
    code, out, _ = dvis("weights", "info", "recorded", "--json")
    assert json.loads(out)["mode"] == "offline"
    code, out, err = dvis("models", "--json")
    assert code == 0, err
    assert {row["name"]: row["ready"] for row in json.loads(out)}["recorded"]


def test_a_folder_of_transformers(server: Server, tmp_path: Path, dvis) -> None:
    """Pulled from the hub and loaded by name; of two forms the safer one is taken."""
    pytest.importorskip("transformers")
    names = [category.name for category in label_set("coco_panoptic")]
    folder = transformers_models.save(transformers_models.make("swin-t"), tmp_path / "f", names)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server.repository(REPO, {**files, "pytorch_model.bin": b"x", "tf_model.h5": b"x", "README.md": b"x"})
    register(tmp_path, hub=REPO, classes="coco_panoptic", short_side=96)
    code, out, err = pull(dvis)
    assert code == 0, err
    assert sorted(p.name for p in Path(out.strip()).iterdir()) == [
        "config.json",
        "dvis.json",
        "model.safetensors",
    ]
    from dvis_cli.run.loading import load_model

    model = load_model("m")
    assert (model.config.name, model.config.input.short_side) == ("m", 96)
    assert [category.name for category in model.categories] == names
    assert dvis("weights", "add", folder, "--as", "again")[0] == 0
    assert load_model("again").categories == model.categories
