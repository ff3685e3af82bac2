"""The refiner behind the other families: VidEoMT trained from nothing, then a refiner on it; one on DVIS++."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from small_training import MODEL, make_dataset, write_recipe

from dvis_cli.checkpoints.files import read_tensors
from dvis_cli.config import model_config
from dvis_cli.datasets.vipseg import VIPSeg
from dvis_cli.errors import UsageError
from dvis_cli.run.loading import load_model, save_weights
from dvis_cli.run.noise import random_model
from dvis_cli.training.options import Job, Machine
from dvis_cli.training.train import train

pytest.importorskip("lightning")
VIDEOMT = {"kind": "videomt", "channels": 64, "blocks": 2, "query_blocks": 1, "queries": 8, "grid": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and a recipe whose model is a VidEoMT."""
    folder = tmp_path_factory.mktemp("families")
    make_dataset(folder / "data", videos=2)
    write_recipe(folder / "dvis.yaml")
    document = yaml.safe_load((folder / "dvis.yaml").read_text())
    document["model"] = {
        **{key: MODEL[key] for key in ("mode", "refiner", "input", "decision")},
        "backbone": VIDEOMT,
    }
    document["segmenter"] = {"clip": {"frames": 3}}
    (folder / "videomt.yaml").write_text(yaml.safe_dump(document))
    return folder


def run(
    root: Path, stage: str, out: str, init: Path | None = None, recipe: str = "videomt.yaml", **options
) -> Path:
    job = Job(stage, [root / "data"], recipe=root / recipe, init=init, **options)
    return train(job, root / out, Machine("cpu", workers=0))


@pytest.mark.filterwarnings("ignore::dvis_cli.errors.DvisWarning")
def test_a_refiner_on_videomt(root: Path) -> None:
    online = run(root, "segmenter", "segmenter")
    assert load_model(online).config.mode == "online"
    with pytest.raises(UsageError, match="tracks in its segmenter"):
        run(root, "tracker", "tracker", online)
    direct = run(root, "refiner", "refiner", online)
    cached = run(root, "refiner", "cached", online, cache=root / "cache")
    model = load_model(direct)
    assert model.config.mode == "offline" and model.config.family == "videomt"
    before, after = (read_tensors(path)[0] for path in (online, direct))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items()), (
        "the segmenter was frozen"
    )
    # The cache holds half-precision features; queries come through the memory in the same order.
    half = load_model(cached).refiner.state_dict()
    assert all(torch.allclose(half[n], t, atol=1e-2) for n, t in model.refiner.state_dict().items())


@pytest.mark.filterwarnings("ignore::dvis_cli.errors.DvisWarning")
def test_a_refiner_on_dvis_plus(root: Path) -> None:
    document = {**MODEL, "mode": "online", "num_classes": 3}
    document["query_decoder"] = {**MODEL["query_decoder"], "reid_hidden": 16}
    document["tracker"] = {**MODEL["tracker"], "matching": "published"}
    categories = VIPSeg.open(root / "data", "train").categories
    save_weights(random_model(model_config(document), categories), root / "plus.safetensors")
    recipe = yaml.safe_load((root / "videomt.yaml").read_text())
    del recipe["model"]
    (root / "plus.yaml").write_text(yaml.safe_dump(recipe))
    trained = run(root, "refiner", "plus", root / "plus.safetensors", "plus.yaml")
    assert load_model(trained).config.family == "dvis++"
    with pytest.raises(UsageError, match="only its refiner can"):
        run(root, "tracker", "plus-tracker", root / "plus.safetensors", "plus.yaml")
