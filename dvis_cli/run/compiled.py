"""The segmenter compiled by PyTorch for the sizes that come often; whatever goes wrong there, the eager one goes on."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from dvis_cli.errors import DvisWarning
from dvis_cli.segmenter.segmenter import Segmenter
from dvis_cli.segmenter.videomt import VideoMT
from dvis_cli.structures import SegmenterOutput

SHAPES = 4  # that are compiled at the most: each takes a minute or more, and on a GPU memory of its own


class CompiledSegmenter:
    """Runs an input shape (T, 3, H, W) compiled from the second time on that it comes.

    Everything else runs eagerly: what comes once, and batches smaller than a compiled one of the same height and width
    (the rest at the end of a video, and what was halved because memory ran out).

    Args:
        segmenter: on its device, without gradients.
    """

    def __init__(self, segmenter: Segmenter | VideoMT) -> None:
        self._segmenter = segmenter
        self.on_compile: Callable[[], None] = lambda: None  # called before a shape is compiled
        self._seen: Counter[torch.Size] = Counter()
        self._compiled: dict[torch.Size, Callable[..., tuple[Tensor, ...]]] = {}
        self._thread: int | None = None  # only where they were recorded do CUDA graphs give right numbers
        self._failed = self._told = False

    def __call__(self, frames: Tensor, memory: Tensor | None = None) -> SegmenterOutput:
        """As the segmenter's `forward`, in inference mode."""
        first = memory is None and isinstance(self._segmenter, VideoMT)  # of a video: another graph
        if first or self._failed or not self._wanted(frames.shape):
            return self._segmenter(frames, memory)
        try:
            return SegmenterOutput(*self._run(*((frames,) if memory is None else (frames, memory))))
        except Exception as error:  # the compiler's, or of what it made
            why = f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0]
        # Only now: the failed attempt's tensors are gone.
        self._failed = True
        self._compiled.clear()
        torch.compiler.reset()
        warnings.warn(f"--compile: the network goes on without: {why}", DvisWarning, stacklevel=2)
        return self._segmenter(frames, memory)

    def _wanted(self, shape: torch.Size) -> bool:
        """Whether a shape is compiled, or to be compiled now."""
        self._seen[shape] += 1
        if shape not in self._compiled:
            larger = any(other[2:] == shape[2:] and other[0] > shape[0] for other in self._compiled)
            if larger or self._seen[shape] != 2:
                return False
            if len(self._compiled) == SHAPES:
                size, told, self._told = "{} x {}".format(*shape[2:]), self._told, True
                if not told:
                    text = f"--compile: {SHAPES} sizes are compiled; {size} and others run without"
                    warnings.warn(text, DvisWarning, stacklevel=3)
                return False
            self._thread = self._thread or threading.get_ident()
        return self._thread == threading.get_ident()

    def _run(self, *inputs: Tensor) -> list[Tensor]:
        frames = inputs[0]
        if frames.shape not in self._compiled:
            self.on_compile()
            self._compiled[frames.shape] = self._compile(inputs)
        with torch.autocast(frames.device.type, enabled=False):
            if not frames.is_cuda:
                return list(self._compiled[frames.shape](*inputs))
            torch.compiler.cudagraph_mark_step_begin()
            # The next replay of a CUDA graph writes to the same memory.
            return [output.clone() for output in self._compiled[frames.shape](*inputs)]

    def _compile(self, inputs: tuple[Tensor, ...]) -> Callable[..., tuple[Tensor, ...]]:
        """From a trace: tables that are kept for a size (`lru_cache`) become constants, Python decides only once."""
        from torch.fx.experimental.proxy_tensor import make_fx

        def tensors(*inputs: Tensor) -> tuple[Tensor, ...]:
            found = self._segmenter(*inputs)
            outputs = (found.queries, found.mask_features, found.class_logits)
            return outputs if found.memory is None else (*outputs, found.memory)

        graph, device = make_fx(tensors)(*inputs), inputs[0].device  # with the casts of autocast in it
        mode = "reduce-overhead" if device.type == "cuda" else None
        compiled = torch.compile(graph, fullgraph=True, dynamic=False, mode=mode)
        with warnings.catch_warnings(), torch.autocast(device.type, enabled=False):
            warnings.filterwarnings("ignore", module="torch")  # advice to programmers
            compiled(*inputs)
        return compiled
