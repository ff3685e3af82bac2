"""The example of docs/training.md with a user's own three classes, as it stands, on generated frames."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_training import MODEL, write_recipe

from dvis_cli.run.loading import load_model

pytest.importorskip("lightning")
PAGE = (Path(__file__).parent.parent / "docs" / "training.md").read_text()
EXAMPLE = PAGE[PAGE.index("## Your own classes") :]


def make_frames(root: Path) -> None:
    """Two videos of a yellow box and a brown box on grey."""
    rng = np.random.default_rng(0)
    for video in ("dock", "hall"):
        for folder in ("frames", "labels"):
            (root / folder / video).mkdir(parents=True)
        for frame in range(24):
            ids = np.full((64, 96), 3, np.uint8)
            ids[10:30, 10 + frame : 35 + frame] = 1
            ids[38:58, 70 - frame : 90 - frame] = 2
            colors = np.array([[0, 0, 0], [230, 150, 20], [150, 90, 40], [120, 120, 120]], float)
            rgb = (colors[ids] + rng.normal(0, 6, (64, 96, 1))).clip(0, 255).astype(np.uint8)
            Image.fromarray(rgb).save(root / "frames" / video / f"{frame:04d}.jpg")
            Image.fromarray(ids).save(root / "labels" / video / f"{frame:04d}.png")
    objects = {"1": "forklift", "2": "pallet", "3": "floor"}
    (root / "objects.json").write_text(json.dumps({"dock": objects, "hall": objects}))


def test_the_example_runs_as_it_stands(tmp_path: Path, dvis, monkeypatch) -> None:
    make_frames(tmp_path / "mine")
    code = re.findall(r"```python\n(.*?)```", EXAMPLE, flags=re.DOTALL)[0]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    code, _, err = dvis("dataset", "info", "mine_720P", "--check", "--quiet")
    assert code == 0, err
    recipe = write_recipe(tmp_path / "recipe.yaml", iterations=2)
    code, _, err = dvis(
        "train", "segmenter", "--data", "mine_720P", "--config", recipe, "-o", "start", "--workers", "0", "-q"
    )
    assert code == 0, err
    # Fine-tuning takes the network from the checkpoint; smaller pictures keep the test short.
    small = tmp_path / "small.yaml"
    small.write_text("common: {points: {count: 64}, batch: 2, clip: {short_sides: [64], crop: null}}\n")
    lines = [
        line
        for block in re.findall(r"```bash\n(.*?)```", EXAMPLE, flags=re.DOTALL)
        for line in block.splitlines()
    ]
    assert [line.split()[2] for line in lines] == ["segmenter", "tracker", "refiner"]
    for line in lines:
        words = shlex.split(line.replace("CHECKPOINT", "start/segmenter.safetensors").replace("3000", "2"))[
            1:
        ]
        code, _, err = dvis(*words, "--config", small, "--workers", "0", "-q")
        assert code == 0, err
    model = load_model(tmp_path / "mine_refiner" / "refiner.safetensors", device="cpu")
    assert [c.name for c in model.categories] == ["forklift", "pallet", "floor"]
    assert (
        model.config.mode == "offline"
        and model.config.query_decoder.queries == MODEL["query_decoder"]["queries"]
    )
