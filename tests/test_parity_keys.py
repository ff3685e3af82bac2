"""Files of DVIS++ and VidEoMT: recognised from their tensors alone, at the published sizes and as models of noise."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from goldens import FOLDER, folder_of
from media import moving_squares, write_video
from safetensors.torch import load_file, save_file

from dvis_cli.checkpoints.keymap import is_ignored, to_official, to_ours
from dvis_cli.checkpoints.label_sets import label_set
from dvis_cli.checkpoints.registry import known_model
from dvis_cli.checkpoints.shapes import config_from_shapes
from dvis_cli.config import Mode, ModelConfig, model_config, to_document
from dvis_cli.errors import CheckpointError, ConfigError, DvisWarning, UsageError
from dvis_cli.run.loading import categories_of, inspect_weights, load_model, official_state, save_weights
from dvis_cli.run.model import DvisModel
from dvis_cli.run.noise import random_model

PUBLISHED = {
    "plus_r50": "dvis-plus-offline-r50-vipseg",
    "plus_vitl": "dvis-plus-offline-vitl-vipseg",
    "videomt_s": "videomt-vits-ytvis19",
    "videomt_b": None,
    "videomt_l": "videomt-vitl-vipseg",
}
TINY = ("tiny-plus", "tiny-videomt")
WEIGHTS = {"plus_vit": "weights_offline.safetensors", "videomt": "weights.safetensors"}


def shapes_of(keys: str) -> dict[str, tuple[int, ...]]:
    """Official names and shapes of a published size."""
    lines = (FOLDER / f"keys_{keys}.txt").read_text().splitlines()
    found = [re.match(r"(\S+)\s+\[(.*?)\]", line) for line in lines if not line.startswith("#")]
    return {m[1]: tuple(int(n) for n in m[2].split(",") if n) for m in found if m}


@pytest.mark.parametrize("keys", PUBLISHED)
def test_published_sizes_load_strictly(keys: str) -> None:
    """The sizes read off a published file's shapes make a network with just its tensors, built without memory."""
    shapes = {name: shape for name, shape in shapes_of(keys).items() if not is_ignored(name)}
    config = config_from_shapes(shapes, Path("published.pth"))
    with torch.device("meta"):
        network = DvisModel(config, [])
    assert {to_official(name): tuple(tensor.shape) for name, tensor in network.state_dict().items()} == shapes
    assert all(to_official(to_ours(name)) == name for name in shapes)
    if PUBLISHED[keys] is not None:
        known = known_model(PUBLISHED[keys]).config
        for part in ("mode", "backbone", "num_classes", "family"):
            assert getattr(known, part) == getattr(config, part)
        assert config.family == "videomt" or known.query_decoder == config.query_decoder


@pytest.mark.parametrize("network", WEIGHTS)
def test_names_go_both_ways(network: str) -> None:
    for official in load_file(folder_of(network) / WEIGHTS[network]):
        if not is_ignored(official):
            ours = to_ours(official)
            assert ours is not None and to_official(ours) == official


@pytest.mark.parametrize(
    "without, mode", [((), "offline"), (("refiner.",), "online"), (("tracker.", "refiner."), "minvis")]
)
def test_the_stage_comes_from_the_tensors(tmp_path: Path, without: tuple[str, ...], mode: Mode) -> None:
    state = load_file(folder_of("plus_vit") / WEIGHTS["plus_vit"])
    save_file({n: t for n, t in state.items() if not n.startswith(without)}, tmp_path / "w.safetensors")
    found = inspect_weights(tmp_path / "w.safetensors")
    assert (found["mode"], found["family"], found["unknown"]) == (mode, "dvis++", [])
    assert load_model(tmp_path / "w.safetensors").config.mode == mode


# --- refused by name ----------------------------------------------------------------------------------------


def test_an_adapter_with_injectors_is_another_kind(tmp_path: Path) -> None:
    state = load_file(folder_of("plus_vit") / WEIGHTS["plus_vit"])
    state["backbone.interactions.0.injector.gamma"] = torch.zeros(128)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"injectors \(backbone.interactions.0.injector.gamma\)"):
        load_model(tmp_path / "w.safetensors")


def test_videomt_of_dinov3_is_refused(tmp_path: Path) -> None:
    state = load_file(folder_of("videomt") / WEIGHTS["videomt"])
    del state["backbone.encoder.backbone.pos_embed"]
    state["backbone.encoder.backbone.blocks.0.layer_scale1.lambda1"] = torch.zeros(128)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="DINOv3"):
        load_model(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kind": "videomt", "channels": 100}, "channels=100 must be a multiple of 64"),
        ({"kind": "videomt", "blocks": 3}, r"query_blocks=4 must lie in 1\.\.blocks=3"),
        ({"kind": "videomt", "patch": 14}, "patch=14"),
        ({"kind": "vit_adapter", "blocks": 6}, "multiple of 4"),
        ({"kind": "vit_adapter", "extractor_heads": 3}, "extractor_heads=3"),
    ],
)
def test_impossible_sizes(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_config({"backbone": changes})


# --- models of noise ----------------------------------------------------------------------------------------


def tiny(name: str, mode: Mode | None = None) -> ModelConfig:
    document = to_document(known_model(name).config)
    return model_config({**document, "mode": mode or document["mode"]})


@pytest.mark.parametrize(
    "name, mode",
    [
        ("tiny-plus", "minvis"),
        ("tiny-plus", "online"),
        ("tiny-plus", "offline"),
        ("tiny-videomt", "online"),
        ("tiny-videomt", "offline"),
    ],
)
def test_noise_finds_something_and_loads_again(tmp_path: Path, name: str, mode: Mode) -> None:
    config = tiny(name, mode)
    network = random_model(config, categories_of(config))
    save_weights(network, tmp_path / "w.safetensors")
    loaded = load_model(tmp_path / "w.safetensors")
    assert loaded.config == config
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in network.state_dict().items())
    # Without the configuration inside, the tensors tell the same.
    save_file(official_state(network), tmp_path / "bare.safetensors")
    bare = load_model(tmp_path / "bare.safetensors").config
    assert (bare.mode, bare.backbone, bare.queries) == (mode, config.backbone, config.queries)
    probs = network.segment(torch.randn(2, 3, 96, 160)).class_logits.softmax(-1)
    assert (probs[..., :-1].amax(-1) > 0.8).any()


@pytest.mark.parametrize("name", TINY)
def test_noise_runs(dvis, tmp_path: Path, name: str) -> None:
    clip = write_video(tmp_path / "clip.mp4", moving_squares(4, 96, 160))
    code, _, err = dvis("segment", clip, "-o", tmp_path / "out", "--model", name, "--short-side", 96)
    assert code == 0, err
    assert (tmp_path / "out" / "clip" / "segments.json").is_file()
    code, _, err = dvis(
        "segment", clip, "-o", tmp_path / "two", "--model", name, "--scales", "96,128", "--flip"
    )
    assert code == 0, err


def test_offline_says_why_not() -> None:
    with pytest.raises(UsageError, match="VidEoMT is published without one; use --mode online"):
        load_model("tiny-videomt", mode="offline")


# --- class lists of equal length ----------------------------------------------------------------------------


def forty_classes(path: Path) -> Path:
    """A VidEoMT of 40 classes that says nothing of them."""
    config = model_config({**to_document(tiny("tiny-videomt")), "num_classes": 40, "categories": None})
    save_file(official_state(random_model(config, categories_of(config))), path)
    return path


@pytest.mark.parametrize(
    "name, message, first",
    [
        ("w", "a choice, because no tensor tells", "person"),
        ("yt_2019_vit_small_52.8", "as its name says", "person"),
        ("yt_2022_vit_large_42.6", "as its name says", "airplane"),
    ],
)
def test_which_youtube_vis(tmp_path: Path, name: str, message: str, first: str) -> None:
    with pytest.warns(DvisWarning, match=message):
        model = load_model(forty_classes(tmp_path / f"{name}.safetensors"))
    assert model.categories[0].name == first and len(model.categories) == 40
    assert model.config.input.short_side == 448


def test_classes_of_decides(tmp_path: Path) -> None:
    path = forty_classes(tmp_path / "yt_2019.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DvisWarning)
        assert load_model(path, classes_of="youtube_vis_2021").categories[0].name == "airplane"
    with pytest.raises(UsageError, match="has 25 classes, the weights 40"):
        load_model(path, classes_of="ovis")
    with pytest.raises(UsageError, match=r"known: .*vipseg"):
        load_model(path, classes_of="nothing")


def test_vspw_has_vipsegs_order() -> None:
    assert label_set("vspw") == label_set("vipseg")
    assert [c.isthing for c in label_set("vspw")] == [True] * 58 + [False] * 66
