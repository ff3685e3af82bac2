"""Tensor names of Mask2Former in Hugging Face's transformers to the official ones, which `keymap.py` goes on from.

Splits differ in two places: a Swin block's query, key and value are one `qkv` officially, the query decoder's
self-attention one `in_proj`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from dvis_cli.errors import CheckpointError

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
