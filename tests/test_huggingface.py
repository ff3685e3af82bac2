"""Mask2Former of transformers: the same numbers from its folder, its class names, its sizes."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import media
import numpy as np
import pytest
import torch
import transformers_models
from goldens import FOLDER
from safetensors.torch import load_file, save_file

from dvis_cli.checkpoints.label_sets import label_set
from dvis_cli.errors import CheckpointError, DvisWarning
from dvis_cli.run.loading import inspect_weights, load_model, save_weights
from dvis_cli.run.model import DvisModel

pytest.importorskip("transformers")
KINDS = ("swin-t", "swin-l", "resnet")
COCO = [category.name for category in label_set("coco_panoptic")]
# transformers itself: a progress bar, and that it has not tried ResNet.
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """A model of transformers, and the folder it was saved to."""
    model = transformers_models.make(request.param)
    return model, transformers_models.save(model, tmp_path_factory.mktemp(request.param), COCO)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One with confident classes, so that `dvis segment` has something to show."""
    model = transformers_models.make("swin-t", queries=8, seed=10)
    with torch.no_grad():
        model.class_predictor.weight.mul_(12)
        model.class_predictor.bias[-1] = -30
    return transformers_models.save(model, tmp_path_factory.mktemp("confident") / "model", COCO)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    media.write_video(tmp_path / "clip.mp4", media.moving_squares(4, 64, 96), fps=10)
    return tmp_path / "clip.mp4"


def masks_of(model: DvisModel, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    found = model.segment(frames)
    embeddings = model.segmenter.query_decoder.mask_head(found.queries)
    return found.class_logits, torch.einsum("tqc,tchw->tqhw", embeddings, found.mask_features)


@pytest.mark.parametrize("size", [(97, 161), (75, 131), (64, 96)])
def test_logits_equal_those_of_transformers(both, size: tuple[int, int]) -> None:
    theirs, folder = both
    frames = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(pixel_values=frames)
        classes, masks = masks_of(load_model(folder), frames)
    assert expected.class_queries_logits.std() > 0.1 and expected.masks_queries_logits.std() > 0.1
    assert torch.allclose(classes, expected.class_queries_logits, atol=1e-4, rtol=0)
    assert torch.allclose(masks, expected.masks_queries_logits, atol=1e-4, rtol=0)


def test_no_tensor_is_left_over(both) -> None:
    found = inspect_weights(both[1])
    assert found["unknown"] == [] and found["mode"] == "minvis" and found["classes"] == 133


def test_folder_says_names_and_sizes(both) -> None:
    model = load_model(both[1])
    assert model.categories == label_set("coco_panoptic")
    assert (model.config.input.short_side, model.config.input.long_side) == (800, 1333)


def test_safest_of_several_forms_is_read(both, tmp_path: Path) -> None:
    """`.bin` alone, in pieces, and under names without `model.`: always the same tensors."""
    model, folder = both
    expected = load_model(folder).state_dict()
    state = load_file(folder / "model.safetensors")
    bare, pieces = tmp_path / "bare", tmp_path / "pieces"
    for place in (bare, pieces):
        place.mkdir()
        shutil.copy(folder / "config.json", place)
    torch.save(
        {name.removeprefix("model."): tensor for name, tensor in state.items()}, bare / "pytorch_model.bin"
    )
    model.save_pretrained(pieces, max_shard_size="300KB")
    assert len(list(pieces.glob("*.safetensors"))) > 1
    for place in (bare, pieces, folder / "model.safetensors"):
        loaded = load_model(place)
        assert loaded.categories == label_set("coco_panoptic")
        assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in expected.items())


def test_converted_file_carries_everything(both, tmp_path: Path, dvis) -> None:
    out = tmp_path / "one.safetensors"
    assert dvis("weights", "convert", both[1], "-o", out)[0] == 0
    one, folder = load_model(out), load_model(both[1])
    assert (one.config, one.categories) == (folder.config, folder.categories)
    assert all(torch.equal(value, one.state_dict()[name]) for name, value in folder.state_dict().items())


def segments_of(out: Path) -> dict:
    return json.loads((out / "clip" / "segments.json").read_text())


def lasting(document: dict) -> list[int]:
    """Ids of segments that are in every frame."""
    count = len(document["frames"])
    return [one["id"] for one in document["segments"] if len(one["frames"]) == count]


def test_segment_by_folder(folder: Path, clip: Path, tmp_path: Path, dvis) -> None:
    """COCO's names, and ids that last over all frames."""
    code, _, err = dvis("segment", clip, "-o", tmp_path / "out", "--model", folder, "--short-side", 96,
                        "--score-threshold", 0.05, "--overlap-threshold", 0)  # fmt: skip
    assert code == 0, err
    document = segments_of(tmp_path / "out")
    by_name = {category.name: category for category in label_set("coco_panoptic")}
    assert len(document["segments"]) >= 2
    for segment in document["segments"]:
        known = by_name[segment["category"]]
        assert (segment["category_id"], segment["isthing"]) == (known.id, known.isthing)
    assert len(lasting(document)) >= 2


def test_segment_by_a_detectron2_pickle(clip: Path, tmp_path: Path, dvis) -> None:
    """The segmenter of the recorded network with as many classes as COCO has."""
    state = load_file(FOLDER / "r50" / "weights_offline.safetensors")
    state = {
        name: t for name, t in state.items() if not name.startswith(("tracker.", "refiner.", "criterion."))
    }
    channels = state["sem_seg_head.predictor.class_embed.weight"].shape[1]
    generator = torch.Generator().manual_seed(0)
    state["sem_seg_head.predictor.class_embed.weight"] = torch.randn(134, channels, generator=generator) * 3
    state["sem_seg_head.predictor.class_embed.bias"] = torch.zeros(134).index_fill(
        0, torch.tensor(133), -40.0
    )
    document = {"model": {n: t.numpy() for n, t in state.items()}, "__author__": "x", "n": np.float64(1)}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(document, 2))
    save_file(state, tmp_path / "same.safetensors")
    with pytest.warns(DvisWarning, match="133 classes are taken for those of coco_panoptic"):
        pickled = load_model(tmp_path / "model_final.pkl")
    with pytest.warns(DvisWarning):
        plain = load_model(tmp_path / "same.safetensors")
    frames = torch.randn(1, 3, 96, 128, generator=generator)
    for one, other in zip(masks_of(pickled, frames), masks_of(plain, frames), strict=True):
        assert torch.equal(one, other)
    code, _, err = dvis("segment", clip, "-o", tmp_path / "out", "--model", tmp_path / "model_final.pkl",
                        "--short-side", 96, "--score-threshold", 0.05, "--overlap-threshold", 0)  # fmt: skip
    assert code == 0, err
    assert "taken for those of coco_panoptic" in err
    document = segments_of(tmp_path / "out")
    assert {one["category"] for one in document["segments"]} <= set(COCO)
    assert lasting(document)


# --- what stands beside the weights -----------------------------------------------------------------------


def changed(folder: Path, to: Path, name: str = "config.json", **changes: object) -> Path:
    shutil.copytree(folder, to)
    path = to / name
    document = json.loads(path.read_text()) if path.exists() else {}
    document.update(changes)
    path.write_text(json.dumps(document))
    return to


def numbered(names: list[str]) -> dict[str, str]:
    return {str(i): name for i, name in enumerate(names)}


@pytest.mark.parametrize(
    "count, name, size, stuff",
    [
        (150, "ade20k", (640, 2560), "wall"),
        (19, "cityscapes", (1024, 2048), "road"),
        (65, "mapillary", (2048, 2048), "Road"),
        (80, "coco", (800, 1333), None),
    ],
)
def test_other_data_sets(
    tmp_path: Path, count: int, name: str, size: tuple[int, int], stuff: str | None
) -> None:
    names = [category.name for category in label_set(name)]
    folder = transformers_models.save(transformers_models.make("swin-t", count), tmp_path / "m", names)
    model = load_model(folder)
    assert model.categories == label_set(name)
    assert (model.config.input.short_side, model.config.input.long_side) == size
    assert {c.name for c in model.categories if not c.isthing} >= ({stuff} if stuff else set())


def test_ade_at_512(tmp_path: Path) -> None:
    names = [category.name for category in label_set("ade20k")]
    folder = transformers_models.save(transformers_models.make("swin-t", 150), tmp_path / "m", names)
    squares = {"size": {"height": 384, "width": 384}, "_max_size": 2048, "image_mean": [0.5, 0.5, 0.5]}
    settings = load_model(changed(folder, tmp_path / "c", "preprocessor_config.json", **squares)).config.input
    assert (settings.short_side, settings.long_side, settings.mean) == (512, 2048, (127.5, 127.5, 127.5))


def test_semantic_models_count_nothing(folder: Path, tmp_path: Path) -> None:
    other = changed(folder, tmp_path / "m", _name_or_path="facebook/mask2former-swin-tiny-x-semantic")
    assert not any(category.isthing for category in load_model(other).categories)


def test_unknown_names_are_things(folder: Path, tmp_path: Path) -> None:
    other = changed(folder, tmp_path / "m", id2label=numbered([f"part {i}" for i in range(133)]))
    with pytest.warns(DvisWarning, match="none that dvis knows"):
        categories = load_model(other).categories
    assert all(category.isthing for category in categories) and categories[5].name == "part 5"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"id2label": numbered(["a", "b"])}, "names 2 classes, the weights have 133"),
        ({"id2label": {"1": "a", "2": "b"}}, "numbered 0 to 1"),
        ({"id2label": None}, "no id2label"),
        ({"model_type": "detr"}, "'detr' is not supported"),
        ({"backbone_config": {"model_type": "resnet", "layer_type": "basic"}}, "layer_type='basic'"),
        (
            {"backbone_config": {"model_type": "resnet", "downsample_in_bottleneck": True}},
            "downsample_in_bottleneck",
        ),
    ],
)
def test_configurations_that_are_refused(folder: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_model(changed(folder, tmp_path / "m", **changes))


@pytest.mark.parametrize("means", [[0.5], "x", [1, 2, 300], [0.1, 0.2, None]])
def test_means_that_are_refused(folder: Path, tmp_path: Path, means: object) -> None:
    with pytest.raises(CheckpointError, match="image_mean"):
        load_model(changed(folder, tmp_path / "m", "preprocessor_config.json", image_mean=means))


def test_half_of_the_attention_is_not_enough(folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / "model.safetensors")
    gone = next(name for name in state if name.endswith("attention.self.key.weight"))
    del state[gone]
    shutil.copytree(folder, tmp_path / "m")
    save_file(state, tmp_path / "m" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"query, key and value of .*qkv\.weight do not fit"):
        load_model(tmp_path / "m")


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"a folder without model.safetensors or pytorch_model.bin"):
        load_model(tmp_path)


def test_saved_weights_of_a_semantic_model_stay_semantic(folder: Path, tmp_path: Path) -> None:
    model = load_model(changed(folder, tmp_path / "x-semantic"))
    save_weights(model, tmp_path / "one.safetensors")
    assert load_model(tmp_path / "one.safetensors").categories == model.categories
