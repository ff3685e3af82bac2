"""ImageNet weights of other libraries to the names of our backbones.

Known: torchvision's ResNet and Swin state dicts, EfficientNet-Lite as converted from the TensorFlow release, and
detectron2-style backbones (`R-50.pkl`, Swin's own files), whose names are the official ones without `backbone.`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dvis_cli.errors import CheckpointError

from .keymap import to_ours

_PREFIX = "segmenter.backbone."
_NORM_NAMES = {"_bn0": "expand.norm", "_bn1": "depthwise.norm", "_bn2": "project.norm"}
_CONV_NAMES = {"_expand_conv": "expand", "_depthwise_conv": "depthwise", "_project_conv": "project"}
# Where torchvision's Swin keeps the parts of a block.
_SWIN_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.proj",
    "attn.relative_position_bias_table": "attention.bias_table",
    "mlp.0": "linear1",
    "mlp.3": "linear2",
}


def backbone_tensors(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Rename what a file holds for a backbone.

    Args:
        tensors: of the file.
        wanted: the backbone's state dict, by its own names.

    Returns:
        tensors by the backbone's own names. The norms that a dense Swin has on its outputs may be missing.

    Raises:
        CheckpointError: a tensor is missing or of another shape, with its name.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        known = _rename(name, tensors, wanted)
        if known is not None and known in wanted:
            renamed[known] = tensor.float() if tensor.is_floating_point() else tensor
    missing = [name for name in wanted if name not in renamed and not name.startswith("norms.")]
    if missing:
        raise CheckpointError(
            f"backbone weights {path} do not fit: {len(missing)} of {len(wanted)} tensors are missing, the first "
            f"{missing[0]!r}; the file's names begin with {', '.join(list(tensors)[:3])}"
        )
    for ours, tensor in renamed.items():
        if tensor.shape != wanted[ours].shape:
            raise CheckpointError(
                f"backbone weights {path}: {ours} is {list(tensor.shape)}, expected {list(wanted[ours].shape)}"
            )
    return renamed


def _rename(name: str, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    if "_conv_stem.weight" in tensors:
        return _efficientnet_name(name, wanted)
    if "features.0.0.weight" in tensors:
        return _torchvision_swin_name(name)
    if "layer1.0.conv1.weight" in tensors:
        return re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
    ours = to_ours(name if name.startswith("backbone.") else f"backbone.{name}")
    return ours.removeprefix(_PREFIX) if ours else None


def _efficientnet_name(name: str, wanted: Mapping[str, Tensor]) -> str | None:
    stem = {"_conv_stem.weight": "stem.conv.weight"}.get(name)
    if stem or name.startswith("_bn0."):
        return stem or name.replace("_bn0.", "stem.norm.")
    match = re.match(r"_blocks\.(\d+)\.(_\w+?)\.(\w+)$", name)
    if not match:
        return None
    # The file numbers the blocks through; ours are numbered within their stage.
    places = sorted({tuple(map(int, key.split(".")[1:3])) for key in wanted if key.startswith("stages.")})
    number = int(match[1])
    if number >= len(places):
        return None
    stage, block = places[number]
    part = f"{_CONV_NAMES[match[2]]}.conv" if match[2] in _CONV_NAMES else _NORM_NAMES.get(match[2], match[2])
    return f"stages.{stage}.{block}.{part}.{match[3]}"


def _torchvision_swin_name(name: str) -> str | None:
    for source, target in (("features.0.0.", "patch."), ("features.0.2.", "patch_norm.")):
        if name.startswith(source):
            return target + name.removeprefix(source)
    match = re.match(r"features\.(\d+)\.(.+)$", name)
    if not match:
        return None
    number, rest = int(match[1]), match[2]
    if number % 2 == 0:
        return f"merges.{number // 2 - 1}.{rest}"
    block, _, inner = rest.partition(".")
    for source, target in _SWIN_BLOCK.items():
        if inner == source or inner.startswith(source + "."):
            return f"stages.{number // 2}.{block}.{target}{inner[len(source) :]}"
    return None
