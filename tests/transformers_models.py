"""Mask2Former of transformers with random weights: small, but of the shapes that published ones have."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import torch

CLASSES = 133
SWIN = {
    "swin-t": {"embed_dim": 24, "depths": [2, 2, 3, 2], "num_heads": [1, 2, 4, 8], "window_size": 7},
    "swin-l": {"embed_dim": 48, "depths": [2, 2, 4, 2], "num_heads": [2, 4, 8, 16], "window_size": 12},
}


def make(kind: str, classes: int = CLASSES, queries: int = 12, seed: int = 0) -> Any:
    """A model whose norms, biases and statistics are random, too, so that a swapped pair shows."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig, SwinConfig

    stages = ["stage1", "stage2", "stage3", "stage4"]
    if kind == "resnet":
        backbone = ResNetConfig(
            embedding_size=8, hidden_sizes=[32, 64, 128, 256], depths=[1, 2, 2, 1], out_features=stages
        )
    else:
        backbone = SwinConfig(**SWIN[kind], out_features=stages)
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=64,
        mask_feature_size=64,
        hidden_dim=64,
        encoder_feedforward_dim=96,
        encoder_layers=2,
        decoder_layers=4,
        dim_feedforward=80,
        num_attention_heads=8,
        num_queries=queries,
        num_labels=classes,
    )
    model = Mask2FormerForUniversalSegmentation(config).eval()
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_floating_point() and "empty_weight" not in name:
            # Drawn here, as versions of transformers begin differently. Biases, norms and running statistics away from
            # 0 and 1; weights large enough that attention is not even.
            drawn = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
            if tensor.ndim <= 1:
                tensor.add_(torch.rand(tensor.shape, generator=drawn) * 0.2)
            else:
                tensor.copy_(torch.randn(tensor.shape, generator=drawn) / tensor[0].numel() ** 0.5)
    return model


def save(model: Any, folder: Path, names: list[str] | None = None, **options: Any) -> Path:
    """Write it as `save_pretrained` does, with class names."""
    if names is not None:
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: i for i, name in enumerate(names)}
    model.save_pretrained(folder, **options)
    return folder
