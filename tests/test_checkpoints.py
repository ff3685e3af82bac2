"""Weight files: every format, nothing executed, mismatches said in full."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from goldens import FOLDER, NETWORKS
from safetensors.torch import load_file, save_file

from dvis_cli.checkpoints.files import read_tensors
from dvis_cli.checkpoints.keymap import is_ignored, to_official, to_ours
from dvis_cli.checkpoints.registry import known_model, known_models
from dvis_cli.checkpoints.shapes import config_from_shapes
from dvis_cli.errors import CheckpointError, UsageError
from dvis_cli.run.loading import (
    categories_of,
    inspect_weights,
    load_model,
    official_state,
    read_config,
    save_weights,
)
from dvis_cli.run.model import DvisModel
from dvis_cli.run.noise import random_model

GOLDEN = FOLDER / "r50" / "weights_offline.safetensors"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A real state dict under the official names."""
    return load_file(GOLDEN)


def tiny(seed: int = 7) -> DvisModel:
    config = known_model("tiny").config
    return random_model(config, categories_of(config), seed)


def only(state: dict[str, torch.Tensor], *without: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith(without)}


def same_as_golden(path: Path) -> None:
    loaded, reference = load_model(path).state_dict(), load_model(GOLDEN).state_dict()
    assert loaded.keys() == reference.keys()
    assert all(torch.equal(loaded[name], reference[name]) for name in reference)


# --- names and kinds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys, model", [("keys_r50.txt", "offline-r50"), ("keys_swinl.txt", "offline-swinl")]
)
def test_published_sizes_have_the_published_tensors(keys: str, model: str) -> None:
    """Names (numbers blanked), shapes and counts of the published models, built without memory."""
    with torch.device("meta"):
        network = DvisModel(known_model(model).config, [])
    ours: dict[tuple[str, str], int] = {}
    for name, tensor in network.state_dict().items():
        official = re.sub(r"\.\d+(?=\.)", ".N", to_official(name))
        key = (official, str(list(tensor.shape)))
        ours[key] = ours.get(key, 0) + 1
    recorded = {}
    for line in (FOLDER / keys).read_text().splitlines():
        if line and not line.startswith("#"):
            name, shape, count, _ = re.match(r"(\S+)\s+(\[.*?\])\s+x(\d+)\s+(\S+)", line).groups()
            if not is_ignored(name):
                recorded[name, shape] = int(count)
    assert ours == recorded


@pytest.mark.parametrize("network", NETWORKS)
def test_names_go_both_ways(network: str) -> None:
    for official in load_file(FOLDER / network / "weights_offline.safetensors"):
        if not is_ignored(official):
            ours = to_ours(official)
            assert ours is not None, official
            assert to_official(ours) == official


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("mode", ["minvis", "online", "offline"])
def test_inferred_equals_the_official_configuration(network: str, mode: str, state) -> None:
    tensors = load_file(FOLDER / network / "weights_offline.safetensors")
    without = {"minvis": ("tracker.", "refiner."), "online": ("refiner.",), "offline": ()}[mode]
    shapes = {name: tuple(tensor.shape) for name, tensor in only(tensors, *without).items()}
    inferred = config_from_shapes(shapes, Path("x.pth"))
    written = read_config(FOLDER / network / f"config_{mode}.yaml")
    assert inferred.mode == written.mode == mode
    assert inferred.backbone == written.backbone
    assert inferred.pixel_decoder == written.pixel_decoder
    assert inferred.query_decoder == written.query_decoder
    if mode != "minvis":
        assert inferred.tracker == written.tracker
    if mode == "offline":
        assert inferred.refiner == written.refiner
    assert inferred.num_classes == written.num_classes == 124


def test_parameter_counts() -> None:
    for name, millions in (("offline-r50", 68.1), ("offline-swinl", 239.7)):
        with torch.device("meta"):
            network = DvisModel(known_model(name).config, [])
        parameters = sum(p.numel() for p in network.parameters())
        assert parameters / 1e6 == pytest.approx(millions, abs=0.05)


# --- formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [None, "model", "state_dict"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files(tmp_path: Path, state, nested: str | None, zipped: bool) -> None:
    document = {nested: state, "iteration": 19999, "optimizer": {"lr": 1e-4}} if nested else state
    torch.save(document, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    same_as_golden(tmp_path / "w.pth")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_detectron2_pickle(tmp_path: Path, state, protocol: int) -> None:
    arrays = OrderedDict((name, tensor.numpy()) for name, tensor in state.items())
    document = {"model": arrays, "__author__": "somebody", "matching_heuristics": True, "n": np.float64(3)}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(document, protocol=protocol))
    same_as_golden(tmp_path / "w.pkl")


@pytest.mark.parametrize("protocol", [2, 5])
def test_pickle_keeps_byte_order_and_layout(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "big": np.arange(6, dtype=">f4").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float32),
    }
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(arrays, protocol=protocol))
    tensors, _ = read_tensors(tmp_path / "w.pkl")
    for name, array in arrays.items():
        assert np.array_equal(tensors[name].numpy(), array.astype(array.dtype.newbyteorder("=")))
    assert np.dtype("f4").isnative, "a file must not change numpy's own types"


def test_old_names_of_the_refiner(tmp_path: Path, state) -> None:
    renamed = {re.sub(r"^refiner\.", "offline_tracker.", name): tensor for name, tensor in state.items()}
    save_file(renamed, tmp_path / "w.safetensors")
    same_as_golden(tmp_path / "w.safetensors")


def test_half_precision_weights_become_fp32(tmp_path: Path, state) -> None:
    save_file(
        {n: t.half() if t.is_floating_point() else t for n, t in state.items()}, tmp_path / "w.safetensors"
    )
    model = load_model(tmp_path / "w.safetensors")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


# --- what a mode needs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "without, mode", [((), "offline"), (("refiner.",), "online"), (("tracker.", "refiner."), "minvis")]
)
def test_mode_comes_from_the_tensors(tmp_path: Path, state, without, mode) -> None:
    save_file(only(state, *without), tmp_path / "w.safetensors")
    model = load_model(tmp_path / "w.safetensors")
    assert model.config.mode == mode
    assert (model.tracker is None) == (mode == "minvis")
    assert (model.refiner is None) == (mode != "offline")


def test_offline_from_an_online_checkpoint_says_so(tmp_path: Path, state) -> None:
    save_file(only(state, "refiner."), tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"'offline' needs a temporal refiner.*--mode online"):
        load_model(tmp_path / "w.safetensors", mode="offline")
    with pytest.raises(UsageError, match="temporal refiner"):
        load_model(tmp_path / "w.safetensors", config=FOLDER / "r50" / "config_offline.yaml")


@pytest.mark.parametrize("mode", ["minvis", "online", "offline"])
def test_official_configuration_with_the_whole_state(mode: str) -> None:
    model = load_model(GOLDEN, config=FOLDER / "r50" / f"config_{mode}.yaml")
    assert model.config.mode == mode
    assert model.config.decision.score_threshold == 0.8


# --- refusals ---------------------------------------------------------------------------------------------


class _Evil:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def evil_zip(path: Path, document: object) -> None:
    """A file that looks like PyTorch's and holds any pickle."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for item in source.infolist():
            data = pickle.dumps(document, 2) if item.filename.endswith("data.pkl") else source.read(item)
            target.writestr(item.filename, data)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    document = {"model": {"weight": np.zeros(3, np.float32), "x": _Evil(mark)}}
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(document, 2))
    torch.save(document, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    evil_zip(tmp_path / "new.pth", document)
    for name in ("plain.pkl", "old.pth", "new.pth"):
        with pytest.raises(CheckpointError, match="would execute code"):
            load_model(tmp_path / name)
    assert not mark.exists()


def test_arrays_in_a_pickle_cannot_lie_about_their_size(tmp_path: Path) -> None:
    raw = pickle.dumps({"w": np.zeros((2, 3), np.float32)}, protocol=2)
    assert raw.count(b"K\x02K\x03\x86") == 1  # the shape, (2, 3)
    (tmp_path / "w.pkl").write_bytes(raw.replace(b"K\x02K\x03\x86", b"K\xffK\xff\x86"))
    with pytest.raises(CheckpointError):
        read_tensors(tmp_path / "w.pkl")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs"),
        (b"hello, this is not a weight file at all", "no weight file"),
        (b"PK\x03\x04 but no zip", "damaged|not a PyTorch"),
        (b"\x80\x02}q\x00(X", "damaged pickle"),
        (pickle.dumps([1, 2, 3]), "expected tensors"),
        (pickle.dumps({"a": 1}), "no tensors"),
        ((2**60).to_bytes(8, "little") + b"{}", "no weight file"),
    ],
)
def test_files_that_hold_no_weights(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_truncated_files(tmp_path: Path, state) -> None:
    torch.save(state, tmp_path / "whole.pth")
    for name, data in (
        ("w.pth", (tmp_path / "whole.pth").read_bytes()),
        ("w.safetensors", GOLDEN.read_bytes()),
        ("w.pkl", pickle.dumps({n: t.numpy() for n, t in state.items()}, 2)),
    ):
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(CheckpointError):
            load_model(tmp_path / name)


def test_mismatch_is_listed(tmp_path: Path, state) -> None:
    changed = dict(state)
    del changed["tracker.decoder_norm.bias"]
    changed["tracker.nobody_knows"] = torch.zeros(3)
    changed["refiner.class_embed.weight"] = torch.zeros(7, 64)
    save_file(changed, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "1 missing (tracker.decoder_norm.bias)" in message
    assert "1 unexpected (tracker.nobody_knows)" in message
    assert "refiner.class_embed.weight [7, 64], expected [125, 64]" in message


def test_a_checkpoint_of_something_else(tmp_path: Path) -> None:
    save_file({"encoder.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="not a DVIS"):
        load_model(tmp_path / "w.safetensors")


def test_wrong_configuration(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="do not fit the model"):
        load_model(
            FOLDER / "swin" / "weights_offline.safetensors", config=FOLDER / "r50" / "config_offline.yaml"
        )


def test_missing_files_and_names(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="do not exist"):
        load_model(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="are a folder"):
        load_model(f"{tmp_path}/")
    with pytest.raises(UsageError, match=r"'swinxl' not found.*known models: .*offline-swinl"):
        load_model("swinxl")
    with pytest.raises(UsageError, match=r"no weights on this machine.*--model FILE"):
        load_model("offline-r50")


# --- our own files and the registry -----------------------------------------------------------------------


def test_registered_models_find_their_weights(tmp_path: Path, monkeypatch, state) -> None:
    monkeypatch.setenv("DVIS_WEIGHTS", str(tmp_path))
    always = {"dvis-lite", "tiny", "tiny-plus", "tiny-videomt"}
    assert {m.name for m in known_models() if m.ready} == always
    (tmp_path / "offline-r50.pth").write_bytes(b"x")
    assert {m.name for m in known_models() if m.ready} == always | {"offline-r50"}
    assert len(known_models()) == 14


def test_random_weights_are_reproducible_and_carry_their_configuration(tmp_path: Path) -> None:
    config = known_model("tiny").config
    before = torch.random.get_rng_state()
    one, two = tiny(3), tiny(3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    save_weights(one, tmp_path / "t.safetensors")
    loaded = load_model(tmp_path / "t.safetensors")
    assert loaded.config == config  # the short side, too, which no tensor tells
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in one.state_dict().items())
    assert inspect_weights(tmp_path / "t.safetensors")["queries"] == config.query_decoder.queries
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]


def test_configuration_inside_a_file_is_checked(tmp_path: Path) -> None:
    network = tiny()
    for inside, message in (("{", "not valid JSON"), (json.dumps({"layers": 3}), "unknown key layers")):
        save_file(official_state(network), tmp_path / "w.safetensors", metadata={"dvis_config": inside})
        with pytest.raises((CheckpointError, UsageError), match=message):
            load_model(tmp_path / "w.safetensors")
