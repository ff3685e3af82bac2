"""Official tensor names to ours and back.

The official names are the module paths of the published DVIS / Mask2Former / detectron2 code. A rule is a
pair of templates; `{a}` and `{b}` stand for numbers and are carried over, and what follows the template is
kept. One table serves both directions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_PIXEL = ("sem_seg_head.pixel_decoder.", "segmenter.pixel_decoder.")
_QUERY = ("sem_seg_head.predictor.", "segmenter.query_decoder.")


def _attention(official: str, ours: str, kind: str, inner: str, block: str) -> list[tuple[str, str]]:
    """The two rules of a block made of an attention and a norm."""
    layer = f"{official}transformer_{kind}_layers.{{a}}."
    return [
        (f"{layer}{inner}.", f"{ours}blocks.{{a}}.{block}.attention."),
        (f"{layer}norm.", f"{ours}blocks.{{a}}.{block}.norm."),
    ]


def _decoder(official: str, ours: str, self_kind: str = "self_attention") -> list[tuple[str, str]]:
    """What query decoder, tracker and refiner have in common."""
    return [
        *_attention(official, ours, "cross_attention", "multihead_attn", "cross_attention"),
        *_attention(official, ours, self_kind, "self_attn", "self_attention"),
        (f"{official}transformer_ffn_layers.{{a}}.", f"{ours}blocks.{{a}}.ffn."),
        (f"{official}decoder_norm.", f"{ours}norm."),
        (f"{official}class_embed.", f"{ours}class_head."),
        (f"{official}mask_embed.", f"{ours}mask_head."),
    ]


_RESNET = [
    ("backbone.stem.conv1.norm.", "segmenter.backbone.bn1."),
    ("backbone.stem.conv1.", "segmenter.backbone.conv1."),
    *(
        (f"backbone.res{{a}}.{{b}}.{theirs}", f"segmenter.backbone.res{{a}}.{{b}}.{ours}")
        for theirs, ours in [
            ("shortcut.norm.", "downsample.1."),
            ("shortcut.", "downsample.0."),
            *((f"conv{i}.norm.", f"bn{i}.") for i in (1, 2, 3)),
            *((f"conv{i}.", f"conv{i}.") for i in (1, 2, 3)),
        ]
    ),
]

_SWIN = [
    ("backbone.patch_embed.proj.", "segmenter.backbone.patch."),
    ("backbone.patch_embed.norm.", "segmenter.backbone.patch_norm."),
    *(
        (f"backbone.layers.{{a}}.blocks.{{b}}.{theirs}", f"segmenter.backbone.stages.{{a}}.{{b}}.{ours}")
        for theirs, ours in [
            ("attn.relative_position_bias_table", "attention.bias_table"),
            ("attn.", "attention."),
            ("mlp.fc1.", "linear1."),
            ("mlp.fc2.", "linear2."),
            ("norm1.", "norm1."),
            ("norm2.", "norm2."),
        ]
    ),
    ("backbone.layers.{a}.downsample.", "segmenter.backbone.merges.{a}."),
    ("backbone.norm{a}.", "segmenter.backbone.norms.{a}."),
]

# The official code has no such backbones; the names follow its way of naming.
_LIGHT = [
    ("backbone.mobile.{a}.", "segmenter.backbone.trunks.{a}."),
    ("backbone.lite_stem.", "segmenter.backbone.stem."),
    ("backbone.lite_stages.{a}.{b}.", "segmenter.backbone.stages.{a}.{b}."),
]

_PIXEL_DECODER = [
    (_PIXEL[0] + theirs, _PIXEL[1] + ours)
    for theirs, ours in [
        ("input_proj.", "input_proj."),
        ("transformer.level_embed", "level_embed"),
        ("transformer.encoder.layers.{a}.self_attn.", "encoder.{a}.attention."),
        ("transformer.encoder.layers.{a}.", "encoder.{a}."),
        ("adapter_1.norm.", "lateral_norm."),
        ("adapter_1.", "lateral."),
        ("layer_1.norm.", "output_norm."),
        ("layer_1.", "output."),
        ("mask_features.", "mask_features."),
        ("place.", "place."),  # not in the official code
    ]
]

_QUERY_DECODER = [
    *_decoder(*_QUERY),
    (_QUERY[0] + "input_proj.", _QUERY[1] + "input_proj."),
    *(
        (f"{_QUERY[0]}{name}.weight", _QUERY[1] + name)
        for name in ("query_feat", "query_embed", "level_embed")
    ),
]

_TRACKER = _decoder("tracker.", "tracker.")

_REFINER = [
    *_decoder("refiner.", "refiner.", self_kind="obj_self_attention"),
    *_attention("refiner.", "refiner.", "time_self_attention", "self_attn", "long_term"),
    ("refiner.conv_short_aggregate_layers.{a}.0.", "refiner.blocks.{a}.short_term.conv1."),
    ("refiner.conv_short_aggregate_layers.{a}.2.", "refiner.blocks.{a}.short_term.conv2."),
    ("refiner.conv_norms.{a}.", "refiner.blocks.{a}.short_term.norm."),
    ("refiner.activation_proj.", "refiner.time_weight."),
]


def _transformer(official: str, ours: str) -> list[tuple[str, str]]:
    """A DINOv2 transformer."""
    block, our_block = f"{official}blocks.{{a}}.", f"{ours}blocks.{{a}}."
    return [
        *(
            (block + theirs, our_block + mine)
            for theirs, mine in [
                ("attn.qkv.", "qkv."),
                ("attn.proj.", "proj."),
                ("ls1.gamma", "scale1"),
                ("ls2.gamma", "scale2"),
                ("mlp.fc1.", "linear1."),
                ("mlp.fc2.", "linear2."),
                ("norm1.", "norm1."),
                ("norm2.", "norm2."),
            ]
        ),
        (f"{official}patch_embed.proj.", f"{ours}patch."),
        (official, ours),
    ]


def _extractor(official: str, ours: str) -> list[tuple[str, str]]:
    return [
        (f"{official}attn.", f"{ours}attention."),
        (f"{official}ffn.fc1.", f"{ours}linear1."),
        (f"{official}ffn.dwconv.dwconv.", f"{ours}depthwise."),
        (f"{official}ffn.fc2.", f"{ours}linear2."),
        (official, ours),
    ]


_VIT_ADAPTER = [
    *_transformer("backbone.vit_module.", "segmenter.backbone.vit."),
    *_extractor("backbone.interactions.{a}.extractor.", "segmenter.backbone.extractors.{a}."),
    *_extractor("backbone.interactions.3.extra_extractors.{a}.", "segmenter.backbone.extra.{a}."),
    ("backbone.interactions.{a}.injector.", "segmenter.backbone.injectors.{a}."),  # to be refused by name
    ("backbone.spm.", "segmenter.backbone.prior."),
    ("backbone.level_embed", "segmenter.backbone.level_embed"),
    ("backbone.up.", "segmenter.backbone.up."),
]

_PLUS = [
    ("sem_seg_head.predictor.reid_embed.", "segmenter.query_decoder.reid_head."),
    ("tracker.ref_proj.", "tracker.ref_proj."),
    ("tracker.mask_feature_proj.", "tracker.mask_feature_proj."),
]

_VIDEOMT = [
    *_transformer("backbone.encoder.backbone.", "segmenter.encoder."),
    ("backbone.q.weight", "segmenter.queries"),
    ("backbone.query_updater.", "segmenter.query_updater."),
    ("backbone.class_head.", "segmenter.class_head."),
    # The activations between the layers are counted there, too.
    *((f"backbone.mask_head.{2 * i}.", f"segmenter.mask_head.layers.{i}.") for i in range(3)),
    ("backbone.upscale.", "segmenter.upscale."),
    ("backbone.attn_mask_probs", "segmenter.attn_mask_probs"),
]

# The first rule that fits is taken, so a longer template stands before the one it begins with.
_BACKBONES = [*_RESNET, *_SWIN, *_LIGHT, *_VIT_ADAPTER]
_RULES = [*_BACKBONES, *_PIXEL_DECODER, *_QUERY_DECODER, *_TRACKER, *_REFINER, *_PLUS, *_VIDEOMT]


def _compile(rules: Iterable[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    """Templates to (regular expression, replacement)."""
    compiled = []
    for source, target in rules:
        pattern = re.escape(source)
        replacement = target
        for letter in "ab":
            pattern = pattern.replace(re.escape(f"{{{letter}}}"), rf"(?P<{letter}>\d+)")
            replacement = replacement.replace(f"{{{letter}}}", rf"\g<{letter}>")
        compiled.append((re.compile(pattern), replacement))
    return compiled


_TO_OURS = _compile(_RULES)
_TO_OFFICIAL = _compile((ours, official) for official, ours in _RULES)

# Tensors that published files hold and no network needs: the loss's class weights, an index that is computed, counts of
# batches, and what of a transformer serves its own training.
_IGNORED = re.compile(
    r"criterion\.|.*\.(relative_position_index|num_batches_tracked)$|backbone\.vit_module\.(norm\.|mask_token$)"
)


def is_ignored(official: str) -> bool:
    """Whether a published tensor is of no use at inference."""
    return _IGNORED.match(official) is not None


def to_ours(official: str) -> str | None:
    """Our name of an official tensor, None when it is unknown."""
    # Checkpoints of the first release called the refiner after the class it was part of.
    return _rename(re.sub(r"^offline_tracker\.", "refiner.", official), _TO_OURS)


def to_official(ours: str) -> str:
    """The official name of one of our tensors; the name itself when the official code has no such tensor."""
    return _rename(ours, _TO_OFFICIAL) or ours


def _rename(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, replacement in rules:
        match = pattern.match(name)
        if match:
            return match.expand(replacement) + name[match.end() :]
    return None
