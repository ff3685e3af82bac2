"""Mask2Former as Hugging Face's transformers keep it: a folder of `config.json` and weights under names of their own.

Tensors are renamed to the official names, which `keymap.py` takes on from there. Splits differ in two places: a Swin
block's query, key and value are one `qkv` officially, the query decoder's self-attention one `in_proj`. The squares of
384 pixels that come with the published files are not followed: the models were trained at their data set's size.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dvis_cli.config import InputConfig
from dvis_cli.errors import CheckpointError, DvisWarning
from dvis_cli.structures import Category

from .label_sets import SIZES, Facts, as_stuff, label_set, match_names

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = tuple(f"{name}.index.json" for name in WEIGHT_FILES)
_LARGEST_JSON = 16 * 2**20  # bytes
_DEFAULT_SIZE = SIZES["coco_panoptic"]

_ENCODER, _PIXEL, _QUERY = (
    "pixel_level_module.encoder.",
    "sem_seg_head.pixel_decoder.",
    "sem_seg_head.predictor.",
)
_DECODER = "pixel_level_module.decoder."
_BLOCK, _THEIR_BLOCK = r"backbone.layers.\1.blocks.\2.", _ENCODER + r"encoder.layers.(\d+).blocks.(\d+)."
_STAGE = _ENCODER + r"encoder.stages.(\d+).layers.(\d+)."
_LAYER = r"transformer_module.decoder.layers.(\d+)."

# (their name, official name), both to be continued; what stands after a match is kept.
_RULES: list[tuple[str, str]] = [
    (_ENCODER + "embeddings.patch_embeddings.projection.", "backbone.patch_embed.proj."),
    (_ENCODER + "embeddings.norm.", "backbone.patch_embed.norm."),
    *(
        (_THEIR_BLOCK + theirs, _BLOCK + official)
        for theirs, official in [
            ("layernorm_before.", "norm1."),
            ("layernorm_after.", "norm2."),
            ("attention.self.query.", "attn.qkv.<0>"),
            ("attention.self.key.", "attn.qkv.<1>"),
            ("attention.self.value.", "attn.qkv.<2>"),
            ("attention.self.", "attn."),  # the bias table and its index
            ("attention.output.dense.", "attn.proj."),
            ("intermediate.dense.", "mlp.fc1."),
            ("output.dense.", "mlp.fc2."),
        ]
    ),
    (_ENCODER + r"encoder.layers.(\d+).downsample.", r"backbone.layers.\1.downsample."),
    (_ENCODER + "embedder.embedder.convolution.", "backbone.stem.conv1."),
    (_ENCODER + "embedder.embedder.normalization.", "backbone.stem.conv1.norm."),
    *(
        (_STAGE + theirs, r"backbone.res<\1+2>.\2." + official)
        for theirs, official in [
            ("shortcut.convolution.", "shortcut."),
            ("shortcut.normalization.", "shortcut.norm."),
            *((f"layer.{i}.convolution.", f"conv{i + 1}.") for i in range(3)),
            *((f"layer.{i}.normalization.", f"conv{i + 1}.norm.") for i in range(3)),
        ]
    ),
    (_ENCODER + r"hidden_states_norms.stage(\d+).", r"backbone.norm<\1-1>."),
    (_ENCODER + r"hidden_states_norms.(\d+).", r"backbone.norm\1."),
    (_DECODER + "input_projections.", _PIXEL + "input_proj."),
    (_DECODER + "level_embed", _PIXEL + "transformer.level_embed"),
    *(
        (_DECODER + r"encoder.layers.(\d+)." + theirs, _PIXEL + r"transformer.encoder.layers.\1." + official)
        for theirs, official in [
            ("self_attn_layer_norm.", "norm1."),
            ("self_attn.", "self_attn."),
            ("fc1.", "linear1."),
            ("fc2.", "linear2."),
            ("final_layer_norm.", "norm2."),
        ]
    ),
    *(
        (f"{_DECODER}{name}.{place}.", f"{_PIXEL}{name}.{norm}")
        for name in ("adapter_1", "layer_1")
        for place, norm in ((0, ""), (1, "norm."))
    ),
    (_DECODER + "mask_projection.", _PIXEL + "mask_features."),
    ("transformer_module.queries_features.", _QUERY + "query_feat."),
    ("transformer_module.queries_embedder.", _QUERY + "query_embed."),
    ("transformer_module.level_embed.", _QUERY + "level_embed."),
    ("transformer_module.input_projections.", _QUERY + "input_proj."),
    *(
        (_LAYER + theirs, _QUERY + official)
        for theirs, official in [
            ("cross_attn.", r"transformer_cross_attention_layers.\1.multihead_attn."),
            ("cross_attn_layer_norm.", r"transformer_cross_attention_layers.\1.norm."),
            ("self_attn.q_proj.", r"transformer_self_attention_layers.\1.self_attn.in_proj_<0>"),
            ("self_attn.k_proj.", r"transformer_self_attention_layers.\1.self_attn.in_proj_<1>"),
            ("self_attn.v_proj.", r"transformer_self_attention_layers.\1.self_attn.in_proj_<2>"),
            ("self_attn.", r"transformer_self_attention_layers.\1.self_attn."),
            ("self_attn_layer_norm.", r"transformer_self_attention_layers.\1.norm."),
            ("fc1.", r"transformer_ffn_layers.\1.linear1."),
            ("fc2.", r"transformer_ffn_layers.\1.linear2."),
            ("final_layer_norm.", r"transformer_ffn_layers.\1.norm."),
        ]
    ),
    ("transformer_module.decoder.layernorm.", _QUERY + "decoder_norm."),
    (r"transformer_module.decoder.mask_predictor.mask_embedder.(\d+).0.", _QUERY + r"mask_embed.layers.\1."),
    ("class_predictor.", _QUERY + "class_embed."),
    ("criterion.", "criterion."),
]
_COMPILED = [(re.compile(re.sub(r"\.(?!\*)", r"\\.", theirs)), official) for theirs, official in _RULES]
_UNUSED = re.compile(r"pixel_level_module\.encoder\.(swin\.)?layernorm\.|.*\.num_batches_tracked$")


def is_huggingface(names: Iterable[str]) -> bool:
    """Whether tensors carry transformers' names of Mask2Former."""
    return any(re.match(r"(model\.)?pixel_level_module\.", name) for name in names)


def official_name(name: str) -> tuple[str, int | None] | None:
    """The official name of one of their tensors, and which third of it this is (None: all). None: not known."""
    for pattern, official in _COMPILED:
        match = pattern.match(name)
        if match is None:
            continue
        made, rest = match.expand(official), name[match.end() :]
        made = re.sub(r"<(\d+)([+-]\d)>", lambda m: str(int(m[1]) + int(m[2])), made)
        third = re.search(r"<(\d)>", made)
        return re.sub(r"<\d>", "", made) + rest, int(third[1]) if third else None
    return None


def to_official_names(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename and join. Tensors of unknown names keep them, so that they are listed as unexpected.

    Raises:
        CheckpointError: one of query, key and value is missing, or they do not fit together.
    """
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for full, tensor in tensors.items():
        name = full.removeprefix("model.")
        if _UNUSED.match(name):
            continue
        official, third = official_name(name) or (full, None)
        if third is None:
            renamed[official] = tensor
        else:
            parts.setdefault(official, {})[third] = tensor
    for official, thirds in parts.items():
        if len(thirds) != 3 or len({tensor.shape for tensor in thirds.values()}) != 1:
            shapes = ", ".join(str(list(thirds[i].shape)) if i in thirds else "missing" for i in range(3))
            raise CheckpointError(f"weights {path}: query, key and value of {official} do not fit: {shapes}")
        renamed[official] = torch.cat([thirds[i] for i in range(3)])
    return renamed


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder that `save_pretrained` wrote: one, or several named in its index.

    Raises:
        CheckpointError: there is none, or the index names a file outside of the folder.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return [folder / name]
    for name in INDEX_FILES:
        if (folder / name).is_file():
            listed = read_json(folder / name).get("weight_map")
            shards = sorted(set(listed.values()), key=str) if isinstance(listed, dict) else []
            for shard in shards:
                if not isinstance(shard, str) or not re.fullmatch(r"[\w][\w.-]*", shard):
                    raise CheckpointError(
                        f"weights {folder / name}: {shard!r} is no name of a file beside it"
                    )
            if shards:
                return [folder / shard for shard in shards]
    raise CheckpointError(
        f"weights {folder} are a folder without {' or '.join(WEIGHT_FILES)}; name the .pth, .pkl or "
        ".safetensors file in it"
    )


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file that must hold a mapping. Raises `CheckpointError`."""
    try:
        size = path.stat().st_size
        if size > _LARGEST_JSON:
            raise CheckpointError(f"{path} is {size} bytes, more than the {_LARGEST_JSON} that it may have")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is not valid JSON") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} holds {type(document).__name__}, expected a mapping")
    return document


def folder_facts(folder: Path, classes: int) -> Facts:
    """What `config.json` and `preprocessor_config.json` beside the weights say; nothing where they are not there.

    Args:
        classes: outputs of the class head without "no object"; a list of another length is refused.
    """
    if not (folder / "config.json").is_file():
        return Facts()
    config = read_json(folder / "config.json")
    _refuse_unsupported(config, folder)
    names = _names(config, folder)
    if len(names) != classes:
        raise CheckpointError(
            f"{folder / 'config.json'} names {len(names)} classes, the weights have {classes}: not of one model"
        )
    known = match_names(names)
    categories = _categories(names, known)
    if "semantic" in str(config.get("_name_or_path", "")) or "semantic" in folder.name:
        categories = as_stuff(categories)
    return Facts(categories, _input(folder, known))


def _refuse_unsupported(config: Mapping[str, Any], folder: Path) -> None:
    kind = config.get("model_type")
    if kind != "mask2former":
        raise CheckpointError(
            f"{folder / 'config.json'}: model_type {kind!r} is not supported; known: 'mask2former'"
        )
    backbone = config.get("backbone_config")
    if isinstance(backbone, dict) and backbone.get("model_type") == "resnet":
        for key, wanted in (("layer_type", "bottleneck"), ("downsample_in_bottleneck", False)):
            if backbone.get(key, wanted) != wanted:
                raise CheckpointError(
                    f"{folder / 'config.json'}: a ResNet with {key}={backbone[key]!r} is not supported, only {wanted!r}"
                )


def _names(config: Mapping[str, Any], folder: Path) -> list[str]:
    listed = config.get("id2label")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(f"{folder / 'config.json'} has no id2label, the names of the classes")
    if sorted(listed) != sorted(map(str, range(len(listed)))):
        raise CheckpointError(f"{folder / 'config.json'}: id2label must be numbered 0 to {len(listed) - 1}")
    return [str(listed[str(number)])[:200] for number in range(len(listed))]


def _categories(names: list[str], known: str | None) -> tuple[Category, ...]:
    if known is None:
        warnings.warn(
            f"the class list of {len(names)} names is none that dvis knows: all are taken for things",
            DvisWarning,
            stacklevel=2,
        )
        return tuple(Category(i, name, True, (0, 0, 0)) for i, name in enumerate(names))
    pairs = zip(label_set(known), names, strict=True)
    return tuple(Category(one.id, name.strip(), one.isthing, one.color) for one, name in pairs)


def _input(folder: Path, known: str | None) -> InputConfig:
    """Sizes of the data set, or the file's own where they keep the aspect; mean and deviation of the file."""
    short, long = SIZES[known] if known else _DEFAULT_SIZE
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return InputConfig(short, long)
    said = read_json(path)
    size = said.get("size")
    edges: list[Any] = [
        size.get(f"{edge}_edge") if isinstance(size, dict) else None for edge in ("shortest", "longest")
    ]
    if known == "ade20k" and said.get("_max_size") == 2048:
        short, long = 512, 2048
    elif known is None and all(isinstance(edge, int) and 32 <= edge <= 8192 for edge in edges):
        short, long = edges[0], edges[1]
    default = InputConfig()
    mean, std = _scaled(said, "image_mean", default.mean), _scaled(said, "image_std", default.std)
    return InputConfig(short, long, mean=mean, std=std)


def _scaled(said: Mapping[str, Any], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """Three numbers of pixels in 0..1, as pixels in 0..255."""
    values = said.get(key)
    if values is None:
        return default
    good = isinstance(values, list) and len(values) == 3 and all(isinstance(v, (int, float)) for v in values)
    if not good or any(not 0 <= v <= 1 for v in values) or (key == "image_std" and 0 in values):
        raise CheckpointError(f"preprocessor_config.json: {key}={values!r}, expected three numbers in 0..1")
    return tuple(255.0 * v for v in values)
