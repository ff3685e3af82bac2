"""Models of noise: the right form, no meaning. For tests, and for measuring speed and memory.

Plain random weights would find every pixel of every frame equally likely to be anything, and nothing would
be written. So the heads are fitted to a made-up frame: some queries are sure of a class, and each covers a
part of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .config import ModelConfig
from .layers.mlp import MLP
from .model import DvisModel
from .structures import Category

TINY_SEED = 7  # of the registered variant: of fifteen tried, the one that finds most
CLASS_SPREAD = 5.0  # standard deviation of the class logits: about half of the queries are sure of one
NO_OBJECT = 10.0  # logit of "no object": many of those are not
MASK_SPREAD = 3.0  # standard deviation of the mask logits
MASK_OFFSET = 3.5  # how far below zero they lie on average: a mask covers a tenth of a frame or so


def random_model(config: ModelConfig, categories: Sequence[Category], seed: int = TINY_SEED) -> DvisModel:
    """Make a model of noise. The same seed gives the same weights; torch's generator is left as it was."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        network = DvisModel(config, categories).eval()
        with torch.no_grad():
            _fit_heads(network)
    finally:
        torch.random.set_rng_state(state)
    return network


def _fit_heads(network: DvisModel) -> None:
    """Fit each stage's heads to what comes out of the stage for two made-up frames."""
    segmenter = network.segmenter
    features_of = segmenter.pixel_decoder.mask_features
    frames = _made_up_frames(network.config.input.divisor)
    features = segmenter(frames).mask_features
    spread, mean = torch.std_mean(features, dim=(0, 2, 3))
    features_of.weight.div_(spread[:, None, None, None])
    features_of.bias.sub_(mean).div_(spread)
    # One channel says 1 everywhere; against it the mask embeddings carry their offset.
    features_of.weight[0], features_of.bias[0] = 0.0, 1.0
    queries = segmenter(frames).queries
    _fit(segmenter.query_decoder.class_head, segmenter.query_decoder.mask_head, queries)
    queries = segmenter(frames).queries
    if network.tracker is not None:
        tracks = network.tracker(queries[None])[0].queries
        _fit(network.tracker.class_head, network.tracker.mask_head, tracks)
        if network.refiner is not None:
            refined = network.refiner(tracks, network.tracker.frame_forward(queries)[None])
            _fit(network.refiner.class_head, network.refiner.mask_head, refined.queries)


def _made_up_frames(divisor: int) -> Tensor:
    """(2, 3, H, W): smooth random colours, the second frame a little to the left of the first."""
    size = (-(-96 // divisor) * divisor, -(-160 // divisor) * divisor)
    coarse = torch.randn(1, 3, 6, 12)
    smooth = nn.functional.interpolate(coarse, (size[0], size[1] + 8), mode="bicubic")
    return torch.cat((smooth[..., 8:], smooth[..., :-8]))


def _fit(class_head: nn.Linear, mask_head: MLP, queries: Tensor) -> None:
    """Centre and scale both heads over the given queries, (..., Q, C)."""
    rows = queries.flatten(0, -2)
    _standardise(class_head, rows, CLASS_SPREAD)
    class_head.bias[-1] = NO_OBJECT
    hidden = rows
    for layer in mask_head.layers[:-1]:
        hidden = layer(hidden).relu()
    last = mask_head.layers[-1]
    assert isinstance(last, nn.Linear)
    _standardise(last, hidden, MASK_SPREAD / last.out_features**0.5)
    last.weight[0], last.bias[0] = 0.0, -MASK_OFFSET


def _standardise(layer: nn.Linear, inputs: Tensor, spread: float) -> None:
    """Make the outputs of a layer have mean 0 and the given standard deviation over `inputs`, (N, C)."""
    scale, mean = torch.std_mean(layer(inputs), dim=0)
    layer.weight.mul_(spread / scale.clamp(min=1e-6)[:, None])
    layer.bias.sub_(mean).mul_(spread / scale.clamp(min=1e-6))
