"""Read the configuration files of the official code as they are, `_BASE_` chain included.

Those files name only what differs from the defaults of detectron2 and Mask2Former, so the defaults that
matter here are written down below. Options about training, data and other heads are passed over.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dvis_cli.config import Mode, ModelConfig, load_yaml, merged, model_config
from dvis_cli.errors import ConfigError

_PLUS: dict[str, Mode] = {"CTMinVIS": "minvis", "DVIS_Plus_online": "online", "DVIS_Plus_offline": "offline"}
_MODES: dict[str, Mode] = {"MinVIS": "minvis", "DVIS_online": "online", "DVIS_offline": "offline", **_PLUS}
_VIDEOMT = "videomt_online"
_RESNET_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_PIXEL_DECODER_FFN = 1024  # fixed in the code, whatever the config says

_DEFAULTS: dict[str, Any] = {
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.SWIN.EMBED_DIM": 96,
    "MODEL.SWIN.DEPTHS": [2, 2, 6, 2],
    "MODEL.SWIN.NUM_HEADS": [3, 6, 12, 24],
    "MODEL.SWIN.WINDOW_SIZE": 7,
    "MODEL.SWIN.DROP_PATH_RATE": 0.3,
    "MODEL.SWIN.APE": False,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 256,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 256,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 124,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 6,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 256,
    "MODEL.MASK_FORMER.NHEADS": 8,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 2048,
    "MODEL.MASK_FORMER.DEC_LAYERS": 10,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 100,
    "MODEL.MASK_FORMER.PRE_NORM": False,
    "MODEL.MASK_FORMER.REID_BRANCH": True,
    "MODEL.MASK_FORMER.REID_HIDDEN_DIM": 256,
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": 32,
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.8,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.8,
    "MODEL.TRACKER.DECODER_LAYERS": 6,
    "MODEL.REFINER.DECODER_LAYERS": 6,
    "MODEL.BACKBONE.MODEL_NAME": "vit_large_patch14_reg4_dinov2",
    "MODEL.BACKBONE.NORM_QUERIES": False,
    "MODEL.BACKBONE.NUM_CLASSES": 124,
    "MODEL.BACKBONE.NUM_OBJECT_QUERIES": 200,
    "MODEL.BACKBONE.SIZE_DIVISIBILITY": 32,
    "MODEL.BACKBONE.TEST.OBJECT_MASK_THRESHOLD": 0.8,
    "MODEL.BACKBONE.TEST.OVERLAP_THRESHOLD": 0.8,
}


def is_detectron2(document: Mapping[str, Any]) -> bool:
    """Whether a YAML document is written in the official code's style."""
    return "_BASE_" in document or isinstance(document.get("MODEL"), Mapping)


def config_from_detectron2(document: dict[str, Any], path: Path) -> ModelConfig:
    """Translate an official configuration.

    Args:
        document: what the file holds.
        path: where it lies; `_BASE_` is relative to it.

    Raises:
        ConfigError: a base that is missing, a value that no published model has.
    """
    merged = _with_bases(document, path, ())
    get = _Options(merged, path)
    architecture = get("MODEL.META_ARCHITECTURE", required=True)
    if architecture == _VIDEOMT:
        return model_config(_videomt(get), f"config {path}")
    if architecture not in _MODES:
        raise ConfigError(
            f"config {path}: META_ARCHITECTURE {architecture!r} is not supported; known: "
            f"{', '.join((*_MODES, _VIDEOMT))}"
        )
    if architecture in _PLUS and not get("MODEL.MASK_FORMER.REID_BRANCH"):
        raise ConfigError(f"config {path}: REID_BRANCH is off, which is not supported")
    # No published model has these on, and no code here computes them.
    for switch in ("MODEL.MASK_FORMER.PRE_NORM", "MODEL.SWIN.APE", "MODEL.RESNETS.STRIDE_IN_1X1"):
        if get(switch):
            raise ConfigError(f"config {path}: {switch} is on, which is not supported")
    heads, ffn = get("MODEL.MASK_FORMER.NHEADS"), get("MODEL.MASK_FORMER.DIM_FEEDFORWARD")
    translated = {
        "name": path.stem,
        "mode": _MODES[architecture],
        "backbone": _backbone(get),
        "pixel_decoder": {
            "channels": get("MODEL.SEM_SEG_HEAD.CONVS_DIM"),
            "mask_channels": get("MODEL.SEM_SEG_HEAD.MASK_DIM"),
            "layers": get("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS"),
            "heads": heads,
            "ffn": _PIXEL_DECODER_FFN,
        },
        "query_decoder": {
            "channels": get("MODEL.MASK_FORMER.HIDDEN_DIM"),
            "queries": get("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"),
            # The option counts the losses; the first one is taken before any layer.
            "layers": get("MODEL.MASK_FORMER.DEC_LAYERS") - 1,
            "heads": heads,
            "ffn": ffn,
            "reid_hidden": get("MODEL.MASK_FORMER.REID_HIDDEN_DIM") if architecture in _PLUS else 0,
        },
        "tracker": {"layers": get("MODEL.TRACKER.DECODER_LAYERS"), "heads": heads, "ffn": ffn},
        "refiner": {"layers": get("MODEL.REFINER.DECODER_LAYERS"), "heads": heads, "ffn": ffn},
        "num_classes": get("MODEL.SEM_SEG_HEAD.NUM_CLASSES"),
        "input": _input(get, "MODEL.MASK_FORMER"),
        "decision": _decision(get, "MODEL.MASK_FORMER"),
    }
    return model_config(translated, f"config {path}")


def _videomt(get: _Options) -> dict[str, Any]:
    """VidEoMT; how wide and how deep it is only its tensors tell."""
    name = get("MODEL.BACKBONE.MODEL_NAME")
    if "v3" in name or get("MODEL.BACKBONE.NORM_QUERIES"):
        raise ConfigError(f"config {get.path}: VidEoMT with a DINOv3 transformer ({name}) is not supported")
    return {
        "name": get.path.stem,
        "mode": "online",
        "backbone": {"kind": "videomt", "queries": get("MODEL.BACKBONE.NUM_OBJECT_QUERIES")},
        "num_classes": get("MODEL.BACKBONE.NUM_CLASSES"),
        "input": _input(get, "MODEL.BACKBONE"),
        "decision": _decision(get, "MODEL.BACKBONE"),
    }


def _input(get: _Options, section: str) -> dict[str, Any]:
    return {
        "short_side": get("INPUT.MIN_SIZE_TEST"),
        "long_side": get("INPUT.MAX_SIZE_TEST"),
        "divisor": get(f"{section}.SIZE_DIVISIBILITY"),
        "mean": get("MODEL.PIXEL_MEAN"),
        "std": get("MODEL.PIXEL_STD"),
    }


def _decision(get: _Options, section: str) -> dict[str, Any]:
    return {
        "score_threshold": get(f"{section}.TEST.OBJECT_MASK_THRESHOLD"),
        "overlap_threshold": get(f"{section}.TEST.OVERLAP_THRESHOLD"),
    }


class _Options:
    """Dotted look-up with detectron2's defaults."""

    def __init__(self, document: Mapping[str, Any], path: Path) -> None:
        self.document, self.path = document, path

    def __call__(self, dotted: str, required: bool = False) -> Any:
        node: Any = self.document
        for key in dotted.split("."):
            if not isinstance(node, Mapping) or key not in node:
                if required:
                    raise ConfigError(f"config {self.path} does not say {dotted}")
                return _DEFAULTS[dotted]
            node = node[key]
        value = _literal(node)
        expected = _DEFAULTS.get(dotted)
        if type(expected) is int and type(value) is not int:
            raise ConfigError(f"config {self.path}: {dotted}={value!r}, expected a whole number")
        return value


def _backbone(get: _Options) -> dict[str, Any]:
    name = get("MODEL.BACKBONE.NAME")
    if name == "D2SwinTransformer":
        return {
            "kind": "swin",
            "embed_dim": get("MODEL.SWIN.EMBED_DIM"),
            "depths": get("MODEL.SWIN.DEPTHS"),
            "heads": get("MODEL.SWIN.NUM_HEADS"),
            "window": get("MODEL.SWIN.WINDOW_SIZE"),
            "drop_path": get("MODEL.SWIN.DROP_PATH_RATE"),
        }
    if name == "D2VitAdapterDinoV2":
        return {"kind": "vit_adapter"}  # how large it is its tensors tell
    depth = get("MODEL.RESNETS.DEPTH")
    if name != "build_resnet_backbone" or depth not in _RESNET_BLOCKS:
        raise ConfigError(
            f"config {get.path}: backbone {name} of depth {depth} is not supported; known: D2SwinTransformer, "
            f"D2VitAdapterDinoV2, build_resnet_backbone of depth {', '.join(map(str, _RESNET_BLOCKS))}"
        )
    bottleneck = get("MODEL.RESNETS.WIDTH_PER_GROUP")
    outputs = get("MODEL.RESNETS.RES2_OUT_CHANNELS")
    if outputs != 4 * bottleneck or get("MODEL.RESNETS.NUM_GROUPS") != 1:
        raise ConfigError(
            f"config {get.path}: RES2_OUT_CHANNELS={outputs} must be four times WIDTH_PER_GROUP={bottleneck}, "
            "with one group"
        )
    return {
        "kind": "resnet",
        "blocks": _RESNET_BLOCKS[depth],
        "stem_channels": get("MODEL.RESNETS.STEM_OUT_CHANNELS"),
        "bottleneck_channels": bottleneck,
    }


def _with_bases(document: dict[str, Any], path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Merge a document over its base, and that over its own."""
    if path.resolve() in seen:
        raise ConfigError(f"config {path}: its _BASE_ chain comes back to itself")
    own = {key: value for key, value in document.items() if key != "_BASE_"}
    if "_BASE_" not in document:
        return own
    name = document["_BASE_"]
    if not isinstance(name, str):
        raise ConfigError(f"config {path}: _BASE_={name!r}, expected a file name")
    base = path.parent / Path(name).expanduser()
    return merged(_with_bases(load_yaml(base), base, (*seen, path.resolve())), own, f"config {path}")


def _literal(value: Any) -> Any:
    """The official code writes tuples as strings: `"(608, 608)"`."""
    if isinstance(value, str) and value[:1] in "([":
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return value
