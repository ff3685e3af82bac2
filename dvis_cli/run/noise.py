"""Models of noise: the right form, no meaning. For tests, and for measuring speed and memory.

Plain random weights would find every pixel of every frame equally likely to be anything, and nothing would
be written. So the heads are fitted to a made-up frame: some queries are sure of a class, and each covers a
part of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dvis_cli.config import ModelConfig
from dvis_cli.layers.attention import Attention, FeedForward
from dvis_cli.layers.mlp import MLP
from dvis_cli.layers.vit import ViTBlock
from dvis_cli.segmenter.segmenter import Segmenter
from dvis_cli.segmenter.videomt import VideoMT
from dvis_cli.structures import Category
from dvis_cli.tracker.in_place import InPlaceTracker

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
    for part in (network.segmenter, network.tracker, network.refiner):
        for name, module in part.named_modules() if part is not None else ():
            if name.startswith(("backbone.", "pixel_decoder.")):
                continue
            if isinstance(module, Attention):
                module.out_proj.weight.mul_(CALM)
            elif isinstance(module, FeedForward):
                module.linear2.weight.mul_(CALM)
            elif isinstance(module, ViTBlock):
                module.scale1.mul_(CALM)
                module.scale2.mul_(CALM)


def _fit_heads(network: DvisModel) -> None:
    """Fit each stage's heads to what comes out of the stage for a few made-up frames."""
    segmenter, tracker, refiner = network.segmenter, network.tracker, network.refiner
    frames = _made_up_frames(network.config.input.divisor)
    _spread_features(segmenter, frames)
    queries = segmenter(frames).queries
    if isinstance(segmenter, VideoMT):
        _fit(segmenter.class_head, segmenter.mask_head, queries)
    else:
        decoder = segmenter.query_decoder
        _fit(decoder.class_head, decoder.mask_head, decoder.heads_see(queries))
    queries = segmenter(frames).queries[None]
    if tracker is None:
        return
    # The frames have nothing in common, so there is nothing to match by memory.
    orders = torch.arange(queries.shape[2]).expand(queries.shape[:3]) if tracker.needs_orders else None
    seen: list[Tensor] = []  # by the class head, which in DVIS++ gets more than the mask head
    hook = tracker.class_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tracks = tracker(queries, None, orders)[0]
    hook.remove()
    if not isinstance(tracker, InPlaceTracker):  # whose heads are the segmenter's
        _fit(tracker.class_head, tracker.mask_head, tracks.queries, seen[0])
    if refiner is not None:
        refined = refiner(*tracker.refiner_inputs(queries, tracks))
        _fit(refiner.class_head, refiner.mask_head, refined.queries)


def _spread_features(segmenter: Segmenter | VideoMT, frames: Tensor) -> None:
    """Give every mask feature mean 0 and deviation 1, but the first: it is 1 everywhere, for the masks' offset."""
    spread, mean = torch.std_mean(segmenter(frames).mask_features, dim=(0, 2, 3))
    made_by: Any
    if isinstance(segmenter, VideoMT):
        made_by = segmenter.upscale[-1].norm
    else:
        made_by = segmenter.pixel_decoder.mask_features
    weight, bias = made_by.weight, made_by.bias
    weight.div_(spread.view(-1, *[1] * (weight.ndim - 1)))
    bias.sub_(mean).div_(spread)
    weight[0], bias[0] = 0.0, 1.0


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


def _fit(class_head: nn.Linear, mask_head: MLP, queries: Tensor, for_class: Tensor | None = None) -> None:
    """Centre and scale both heads over what they get, (..., Q, C)."""
    rows = (queries if for_class is None else for_class).flatten(0, -2)
    _standardise(class_head, rows, CLASS_SPREAD)
    class_head.weight[-1] = 0.0  # "no object": a level that only some queries' strongest class passes
    strongest = class_head(rows)[:, :-1].amax(dim=1)
    class_head.bias[-1] = strongest.quantile(max(0.0, 1 - SURE / queries.shape[-2]))
    last = mask_head.layers[-1]
    assert isinstance(last, nn.Linear)
    hidden = mask_head.before_last(queries.flatten(0, -2))
    _standardise(last, hidden, MASK_SPREAD / last.out_features**0.5)
    last.weight[0], last.bias[0] = 0.0, -MASK_OFFSET


def _standardise(layer: nn.Linear, inputs: Tensor, spread: float) -> None:
    """Make the outputs of a layer have mean 0 and the given standard deviation over `inputs`, (N, C)."""
    scale, mean = torch.std_mean(layer(inputs), dim=0)
    layer.weight.mul_(spread / scale.clamp(min=1e-6)[:, None])
    layer.bias.sub_(mean).mul_(spread / scale.clamp(min=1e-6))
