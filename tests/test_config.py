"""Configurations: ours and the official code's, read strictly."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml
from goldens import FOLDER
from hypothesis import given
from hypothesis import strategies as st

from dvis_cli.checkpoints.registry import known_models
from dvis_cli.config import ModelConfig, ResNetConfig, SwinConfig, load_yaml, model_config, to_document
from dvis_cli.errors import ConfigError
from dvis_cli.run.loading import read_config


def test_every_registered_configuration_survives_yaml() -> None:
    for known in known_models():
        assert model_config(yaml.safe_load(yaml.safe_dump(to_document(known.config)))) == known.config


@pytest.mark.parametrize(
    "document, message",
    [
        ({"quaries": 3}, "unknown key quaries; known keys: name, "),
        ({"query_decoder": {"queries": "many"}}, r"query_decoder.queries='many': expected int"),
        ({"query_decoder": {"queries": True}}, "expected int"),
        ({"query_decoder": 3}, "expected a mapping"),
        ({"mode": "fast"}, "choose one of minvis, online, offline"),
        ({"backbone": {"kind": "vit"}}, "choose one of resnet, swin"),
        ({"backbone": {}}, "choose one of resnet, swin"),
        ({"query_decoder": {"heads": 7}}, "256 channels cannot be split over heads=7"),
        ({"pixel_decoder": {"channels": 40, "heads": 4}}, "multiple of 32"),
        ({"decision": {"score_threshold": 1.5}}, "must lie in 0..1"),
        ({"refiner": {"blend": -0.5}}, "refiner.blend=-0.5 must lie in 0..1"),
        ({"refiner": {"presence": 2}}, "refiner.presence=2 must be 0 or an odd number of frames"),
        ({"num_classes": 0}, "at least 1"),
        ({"input": {"mean": 3}}, "expected a list"),
    ],
)
def test_mistakes_are_named(document: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_config(document)


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.none(), max_size=3))
def test_junk_never_raises_anything_else(document: dict) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(model_config(document), ModelConfig)


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "does not exist"),
        ("a: [1, 2", "not valid YAML at line"),
        ("- 1\n- 2\n", "holds list, expected a mapping"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_yaml_files(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_yaml(path)


def test_our_yaml(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("backbone: {kind: swin, embed_dim: 128}\ninput: {short_side: 480, std: [1, 2, 3]}\n")
    config = read_config(path)
    assert config.name == "mine"
    assert config.backbone == SwinConfig(embed_dim=128)
    assert config.input.std == (1.0, 2.0, 3.0)


# --- the official code's files ----------------------------------------------------------------------------

BASE = """
MODEL:
  META_ARCHITECTURE: "MinVIS"
  BACKBONE: {NAME: "build_resnet_backbone"}
  RESNETS: {DEPTH: 50, STEM_TYPE: "basic", STRIDE_IN_1X1: False}
  MASK_FORMER: {NUM_OBJECT_QUERIES: 100, DEC_LAYERS: 10}
INPUT:
  MIN_SIZE_TEST: 720
  CROP: {SIZE: "(608, 608)"}
SOLVER: {STEPS: (14000,), BASE_LR: 0.0001}
"""
SWIN = """
_BASE_: base/r50.yaml
MODEL:
  META_ARCHITECTURE: "DVIS_online"
  BACKBONE: {NAME: "D2SwinTransformer"}
  SWIN: {EMBED_DIM: 192, DEPTHS: "(2, 2, 18, 2)", NUM_HEADS: [6, 12, 24, 48], WINDOW_SIZE: 12}
  MASK_FORMER: {NUM_OBJECT_QUERIES: 200}
"""


def write_chain(folder: Path) -> Path:
    (folder / "base").mkdir()
    (folder / "base" / "r50.yaml").write_text(BASE)
    (folder / "swin.yaml").write_text(SWIN)
    (folder / "offline.yaml").write_text("_BASE_: swin.yaml\nMODEL: {META_ARCHITECTURE: DVIS_offline}\n")
    return folder / "offline.yaml"


def test_base_chain(tmp_path: Path) -> None:
    config = read_config(write_chain(tmp_path))
    assert config.mode == "offline"
    assert config.backbone == SwinConfig(
        embed_dim=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12
    )
    assert (config.query_decoder.queries, config.query_decoder.layers) == (200, 9)
    assert config.pixel_decoder.ffn == 1024
    assert config.input.short_side == 720
    base = read_config(tmp_path / "base" / "r50.yaml")
    assert (base.mode, base.backbone, base.query_decoder.queries) == ("minvis", ResNetConfig(), 100)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"META_ARCHITECTURE": "VITA"}, "'VITA' is not supported; known: MinVIS"),
        ({"BACKBONE": {"NAME": "ViT"}}, "backbone ViT"),
        ({"RESNETS": {"DEPTH": 18}}, "depth 18"),
        ({"RESNETS": {"STRIDE_IN_1X1": True}}, "STRIDE_IN_1X1 is on"),
        ({"RESNETS": {"WIDTH_PER_GROUP": 32}}, "four times"),
        ({"MASK_FORMER": {"PRE_NORM": True}}, "PRE_NORM is on"),
        ({"MASK_FORMER": {"NHEADS": "eight"}}, "NHEADS='eight'"),
    ],
)
def test_what_official_files_may_not_say(tmp_path: Path, change: dict, message: str) -> None:
    write_chain(tmp_path)
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump({"_BASE_": "base/r50.yaml", "MODEL": change}))
    with pytest.raises(ConfigError, match=message):
        read_config(path)


def test_broken_chains(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("_BASE_: b.yaml\n")
    (tmp_path / "b.yaml").write_text("_BASE_: a.yaml\n")
    (tmp_path / "c.yaml").write_text("_BASE_: nowhere.yaml\n")
    (tmp_path / "d.yaml").write_text("MODEL: {SEM_SEG_HEAD: {}}\n")
    for name, message in (("a", "comes back"), ("c", "does not exist"), ("d", "META_ARCHITECTURE")):
        with pytest.raises(ConfigError, match=message):
            read_config(tmp_path / f"{name}.yaml")


def test_recorded_configurations_are_read_as_they_are() -> None:
    for network in ("swin", "r50"):
        config = read_config(FOLDER / network / "config_offline.yaml")
        assert (config.input.short_side, config.input.long_side) == (720, 1333)
        assert config.decision.overlap_threshold == 0.8
