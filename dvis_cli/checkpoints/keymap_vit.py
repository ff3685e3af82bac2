"""Official tensor names of the networks with vision transformers: DVIS++ and VidEoMT. Rules as of `keymap.py`."""

from __future__ import annotations

Rules = list[tuple[str, str]]


def _transformer(official: str, ours: str) -> Rules:
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


def _extractor(official: str, ours: str) -> Rules:
    return [
        (f"{official}attn.", f"{ours}attention."),
        (f"{official}ffn.fc1.", f"{ours}linear1."),
        (f"{official}ffn.dwconv.dwconv.", f"{ours}depthwise."),
        (f"{official}ffn.fc2.", f"{ours}linear2."),
        (official, ours),
    ]


VIT_ADAPTER: Rules = [
    *_transformer("backbone.vit_module.", "segmenter.backbone.vit."),
    *_extractor("backbone.interactions.{a}.extractor.", "segmenter.backbone.extractors.{a}."),
    *_extractor("backbone.interactions.3.extra_extractors.{a}.", "segmenter.backbone.extra.{a}."),
    ("backbone.interactions.{a}.injector.", "segmenter.backbone.injectors.{a}."),  # to be refused by name
    ("backbone.spm.", "segmenter.backbone.prior."),
    ("backbone.level_embed", "segmenter.backbone.level_embed"),
    ("backbone.up.", "segmenter.backbone.up."),
]

PLUS: Rules = [
    ("sem_seg_head.predictor.reid_embed.", "segmenter.query_decoder.reid_head."),
    ("tracker.ref_proj.", "tracker.ref_proj."),
    ("tracker.mask_feature_proj.", "tracker.mask_feature_proj."),
]

VIDEOMT: Rules = [
    *_transformer("backbone.encoder.backbone.", "segmenter.encoder."),
    ("backbone.q.weight", "segmenter.queries"),
    ("backbone.query_updater.", "segmenter.query_updater."),
    ("backbone.class_head.", "segmenter.class_head."),
    # The activations between the layers are counted there, too.
    *((f"backbone.mask_head.{2 * i}.", f"segmenter.mask_head.layers.{i}.") for i in range(3)),
    ("backbone.upscale.", "segmenter.upscale."),
    ("backbone.attn_mask_probs", "segmenter.attn_mask_probs"),
]
