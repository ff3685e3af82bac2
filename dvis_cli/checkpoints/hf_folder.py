"""A folder that transformers' `save_pretrained` wrote: its weight files, and what `config.json` beside them tells.

The squares of 384 pixels that come with the published files are not followed: the models were trained at their data
set's size, with the aspect kept.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dvis_cli.config import InputConfig
from dvis_cli.errors import CheckpointError, DvisWarning
from dvis_cli.structures import Category

from .label_sets import SIZES, Facts, as_stuff, label_set, match_names

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = tuple(f"{name}.index.json" for name in WEIGHT_FILES)
_LARGEST_JSON = 16 * 2**20  # bytes
_DEFAULT_SIZE = SIZES["coco_panoptic"]


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
    document = read_json(path)
    size = document["size"] if isinstance(document.get("size"), dict) else {}
    edges: list[Any] = [size.get("shortest_edge"), size.get("longest_edge")]
    if known == "ade20k" and document.get("_max_size") == 2048:
        short, long = 512, 2048
    elif known is None and all(isinstance(edge, int) and 32 <= edge <= 8192 for edge in edges):
        short, long = edges[0], edges[1]
    default = InputConfig()
    mean, std = _scaled(document, "image_mean", default.mean), _scaled(document, "image_std", default.std)
    return InputConfig(short, long, mean=mean, std=std)


def _scaled(document: Mapping[str, Any], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """Three numbers of pixels in 0..1, as pixels in 0..255."""
    values = document.get(key)
    if values is None:
        return default
    good = isinstance(values, list) and len(values) == 3 and all(isinstance(v, (int, float)) for v in values)
    if not good or any(not 0 <= v <= 1 for v in values) or (key == "image_std" and 0 in values):
        raise CheckpointError(f"preprocessor_config.json: {key}={values!r}, expected three numbers in 0..1")
    return tuple(255.0 * v for v in values)
