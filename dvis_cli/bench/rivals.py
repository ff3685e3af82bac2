"""Mask2Former of Hugging Face's transformers beside ours: the same sizes, weights of noise, the same frames, in turn.

Each runs in a process of its own, because the settings of the memory allocator are a process's. `dvis` sets them at its
start and users of transformers do not; a third process is transformers with them set.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dvis_cli.config import ModelConfig, ResNetConfig, SwinConfig
from dvis_cli.errors import UsageError

OURS, THEIRS, THEIRS_TUNED = "dvis", "transformers", "transformers, our allocator settings"


class Race(NamedTuple):
    """What is run."""

    config: ModelConfig
    device: str
    precision: str
    size: tuple[int, int]  # (height, width) of the padded input
    batch: int
    rounds: int
    threads: int


def refuse_unlike(config: ModelConfig) -> None:
    """Raise `UsageError` where transformers is not installed, or has no such model."""
    if importlib.util.find_spec("transformers") is None:
        raise UsageError("--against transformers: it is not installed; pip install 'dvis[test]' has it")
    if not isinstance(config.backbone, (ResNetConfig, SwinConfig)) or config.family != "dvis":
        raise UsageError(
            f"--against transformers: it has no model like {config.name!r}; Mask2Former with a ResNet or Swin it has"
        )


def race(one: Race) -> dict[str, Any]:
    """Seconds a frame of each, the median over the rounds, and how many times as long theirs takes."""
    kinds = [OURS, THEIRS, *([THEIRS_TUNED] if one.device == "cpu" else [])]
    context = multiprocessing.get_context("spawn")
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    with ExitStack() as stack:
        pipes = {}
        for kind in kinds:
            pipes[kind], far = context.Pipe()
            process = context.Process(target=_serve, args=(far, kind, one), daemon=True)
            process.start()
            stack.callback(process.join)
            far.close()
        for pipe in pipes.values():
            stack.callback(pipe.close)  # before the joins
        for turn in range(one.rounds + 1):
            for kind, pipe in pipes.items():
                pipe.send(turn)
                spent = pipe.recv()
                if turn:  # the first warms up
                    seconds[kind].append(spent / one.batch)
    medians = {kind: statistics.median(times) for kind, times in seconds.items()}
    return {
        "rounds": one.rounds,
        "seconds": medians,
        "times": {kind: medians[kind] / medians[OURS] for kind in kinds if kind != OURS},
    }


def _serve(pipe: Connection, kind: str, one: Race) -> None:
    """A contestant: for every message one run, answered by its seconds."""
    from dvis_cli.run.placement import keep_freed_memory

    if kind != THEIRS:
        keep_freed_memory()
    torch.set_num_threads(one.threads)
    device = torch.device(one.device)
    frames = torch.randn(one.batch, 3, *one.size, generator=torch.Generator().manual_seed(0)).to(device)
    run = (_ours if kind == OURS else _theirs)(one, device)
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        wait()
        began = time.perf_counter()
        with torch.inference_mode():
            run(frames)
        wait()
        pipe.send(time.perf_counter() - began)


def _ours(one: Race, device: torch.device) -> Callable[[Tensor], Any]:
    from dvis_cli.run.loading import categories_of
    from dvis_cli.run.model import DvisModel

    model = DvisModel(one.config, categories_of(one.config)).eval().requires_grad_(False).to(device)
    model.precision = one.precision
    return model.segment


def _theirs(one: Race, device: torch.device) -> Callable[[Tensor], Any]:
    model = their_model(one.config).eval().to(device)

    def run(frames: Tensor) -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=one.precision == "bf16"):
            return model(pixel_values=frames)

    return run


def their_model(config: ModelConfig) -> Any:
    """Mask2Former of transformers, of the same sizes as the segmenter of `config`, with weights of noise."""
    theirs: Any = importlib.import_module("transformers")
    ours, stages = config.backbone, ["stage1", "stage2", "stage3", "stage4"]
    backbone: Any
    if isinstance(ours, ResNetConfig):
        widths = [4 * ours.bottleneck_channels * 2**stage for stage in range(4)]
        backbone = theirs.ResNetConfig(
            embedding_size=ours.stem_channels,
            hidden_sizes=widths,
            depths=list(ours.blocks),
            out_features=stages,
        )
    else:
        assert isinstance(ours, SwinConfig)
        backbone = theirs.SwinConfig(
            embed_dim=ours.embed_dim,
            depths=list(ours.depths),
            num_heads=list(ours.heads),
            window_size=ours.window,
            out_features=stages,
        )
    pixels, queries = config.pixel_decoder, config.query_decoder
    return theirs.Mask2FormerForUniversalSegmentation(
        theirs.Mask2FormerConfig(
            backbone_config=backbone,
            feature_size=pixels.channels,
            mask_feature_size=pixels.mask_channels,
            hidden_dim=queries.channels,
            encoder_feedforward_dim=pixels.ffn,
            encoder_layers=pixels.layers,
            decoder_layers=queries.layers + 1,
            dim_feedforward=queries.ffn,
            num_attention_heads=queries.heads,
            num_queries=queries.queries,
            num_labels=config.num_classes,
        )
    )
