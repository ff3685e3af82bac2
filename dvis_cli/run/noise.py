"""Models of noise: the right form, no meaning. For tests, and for measuring speed and memory.

Plain random weights would find every pixel of every frame equally likely to be anything, and nothing would
be written. So the heads are fitted to a made-up frame: some queries are sure of a class, and each covers a
part of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dvis_cli.config import ModelConfig
from dvis_cli.layers.attention import Attention, FeedForward
from dvis_cli.layers.mlp import MLP
from dvis_cli.structures import Category

from .model import DvisModel

TINY_SEED = 7  # of the registered variant: of fifteen tried, the one that finds most
CALM = 0.1  # strength of what a query takes up from the frame and from other queries
FRAMES = 4  # made up to fit the heads to
CLASS_SPREAD = 5.0  # standard deviation of the class logits: about half of the queries are sure of one
SURE = 12  # queries, about, that are something rather than nothing
MASK_SPREAD = 3.0  # standard deviation of the mask logits
MASK_OFFSET = 4.0  # how far below zero they lie on average: a mask covers some hundredths of a frame


def random_model(config: ModelConfig, categories: Sequence[Category], seed: int = TINY_SEED) -> DvisModel:
    """Make a model of noise. The same seed gives the same weights; torch's generator is left as it was."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        network = DvisModel(config, categories).eval()
        with torch.no_grad():
            _calm_queries(network)
            _fit_heads(network)
    finally:
        torch.random.set_rng_state(state)
    return network


def _calm_queries(network: DvisModel) -> None:
    """Let a query be mostly itself; through noise at full strength all would see the same grey average."""
    for part in (network.segmenter.query_decoder, network.tracker, network.refiner):
        for module in part.modules() if part is not None else ():
            if isinstance(module, Attention):
                module.out_proj.weight.mul_(CALM)
            elif isinstance(module, FeedForward):
                module.linear2.weight.mul_(CALM)


def _fit_heads(network: DvisModel) -> None:
    """Fit each stage's heads to what comes out of the stage for a few made-up frames."""
    segmenter = network.segmenter
    features_of = segmenter.pixel_decoder.mask_features
    frames = _made_up_frames(network.config.input.divisor)
    features = segmenter(frames).mask_features
    spread, mean = torch.std_mean(features, dim=(0, 2, 3))
    bias = features_of.bias
    assert bias is not None
    features_of.weight.div_(spread[:, None, None, None])
    bias.sub_(mean).div_(spread)
    # One channel is 1 everywhere; against it the mask embeddings carry their offset.
    features_of.weight[0], bias[0] = 0.0, 1.0
    queries = segmenter(frames).queries
    _fit(segmenter.query_decoder.class_head, segmenter.query_decoder.mask_head, queries)
    queries = segmenter(frames).queries
    if network.tracker is not None:
        # The frames have nothing in common, so there is nothing to match by memory.
        rows = torch.arange(queries.shape[1]).expand(1, *queries.shape[:2])
        orders = rows if network.tracker.needs_orders else None
        tracks = network.tracker(queries[None], None, orders)[0].queries
        _fit(network.tracker.class_head, network.tracker.mask_head, tracks)
        if network.refiner is not None:
            refined = network.refiner(tracks, network.tracker.frame_forward(queries)[None])
            _fit(network.refiner.class_head, network.refiner.mask_head, refined.queries)


def _made_up_frames(divisor: int) -> Tensor:
    """(FRAMES, 3, H, W): blobs on blobs on blobs, like a photograph's spectrum; each brighter or darker."""
    height, width = (-(-side // divisor) * divisor for side in (96, 160))
    frames = torch.randn(FRAMES, 3, 1, 1)
    for cells in (3, 6, 12, 24, 48, 96):
        octave = torch.randn(FRAMES, 1, cells, 2 * cells) + 0.3 * torch.randn(FRAMES, 3, cells, 2 * cells)
        frames = (
            frames + nn.functional.interpolate(octave, (height, width), mode="bilinear") * (2 / cells) ** 0.5
        )
    return frames.clamp(-2, 2.5)


def _fit(class_head: nn.Linear, mask_head: MLP, queries: Tensor) -> None:
    """Centre and scale both heads over the given queries, (..., Q, C)."""
    rows = queries.flatten(0, -2)
    _standardise(class_head, rows, CLASS_SPREAD)
    class_head.weight[-1] = 0.0  # "no object": a level that only some queries' strongest class passes
    strongest = class_head(rows)[:, :-1].amax(dim=1)
    class_head.bias[-1] = strongest.quantile(max(0.0, 1 - SURE / queries.shape[-2]))
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
