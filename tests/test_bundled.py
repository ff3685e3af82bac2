"""The model and the video that come with the package, and the command that makes such a file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dvis_cli.checkpoints.files import read_tensors
from dvis_cli.checkpoints.registry import bundled_folder, demo_video, known_model
from dvis_cli.errors import CheckpointError
from dvis_cli.run.loading import load_model, save_weights

LITE = bundled_folder() / "dvis-lite.safetensors"


@pytest.fixture()
def no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a fresh machine."""
    monkeypatch.delenv("DVIS_MODEL")


def test_it_is_small_and_says_what_it_is() -> None:
    assert LITE.stat().st_size < 25e6
    tensors, metadata = read_tensors(LITE)
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {torch.float16}
    known = known_model("dvis-lite")
    assert known.bundled and known.ready and known.config.mode == "offline"
    model = load_model(LITE, device="cpu")
    assert model.check_mode(None) == "online" and model.check_mode("offline") == "offline"
    assert load_model(LITE, device="cpu", mode="minvis").check_mode(None) == "minvis"
    names = [category["name"] for category in json.loads(metadata["dvis_categories"])]
    assert {"person", "car", "road", "wall"} <= set(names) and len(names) == known.config.num_classes


def test_the_wheel_takes_it_along() -> None:
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    for file in (LITE, demo_video(), bundled_folder() / "README.md"):
        assert f'"weights/{file.name}" = "dvis_cli/bundled/{file.name}"' in project


def test_the_first_command_finds_people_on_a_street(dvis, tmp_path: Path, no_default: None) -> None:
    code, _, err = dvis("segment", "--demo", "-o", tmp_path, "--max-frames", 5)
    assert code == 0, err
    assert err.count("model dvis-lite:") == 1 and "--model FILE" in err and "untrained" not in err
    folder = tmp_path / demo_video().stem
    document = json.loads((folder / "segments.json").read_text())
    found = [segment["category"] for segment in document["segments"]]
    assert found.count("person") >= 4
    assert {"road", "grass", "building", "car"} <= set(found)
    assert document["model"]["trained"]
    assert (folder / "overlay.mp4").stat().st_size > 10_000


def test_it_is_the_default(dvis, no_default: None) -> None:
    listed = json.loads(dvis("models", "--json")[1])
    assert listed[0]["name"] == "dvis-lite" and listed[0]["default"] and listed[0]["trained"]


def test_a_model_that_is_named_is_not_announced(dvis, tmp_path: Path, no_default: None) -> None:
    code, _, err = dvis("segment", "--demo", "--model", "tiny", "-o", tmp_path, "--max-frames", 1)
    assert code == 0 and "dvis-lite" not in err


def test_demo_and_a_source_are_one_too_many(dvis, tmp_path: Path) -> None:
    code, _, err = dvis("segment", "clip.mp4", "--demo", "-o", tmp_path)
    assert code == 2 and "both clip.mp4 and --demo" in err


def test_half_the_size_and_nearly_the_same(dvis, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    assert dvis("weights", "random", "tiny", "-o", whole)[0] == 0
    assert dvis("weights", "convert", whole, "-o", half, "--half")[0] == 0
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    a, b = (load_model(path, device="cpu").state_dict() for path in (whole, half))
    for name, tensor in a.items():
        assert b[name].dtype == tensor.dtype
        torch.testing.assert_close(b[name], tensor, rtol=2**-10, atol=1e-7)
    code, _, err = dvis("weights", "convert", whole, "-o", half, "--half")
    assert code == 1 and "--overwrite" in err


def test_a_weight_too_large_for_half_is_refused(tmp_path: Path) -> None:
    network = load_model("tiny", device="cpu")
    assert network.tracker is not None
    network.tracker.class_head.bias.data[0] = 1e6
    with pytest.raises(CheckpointError, match="float16 cannot"):
        save_weights(network, tmp_path / "half.safetensors", half=True)
    assert not list(tmp_path.iterdir())


def test_listing_models_needs_no_torch() -> None:
    """A batch's scheduler looks a model up before any worker starts; torch would cost it a second."""
    code = (
        "import sys; from dvis_cli.checkpoints.registry import known_models; known_models(); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
