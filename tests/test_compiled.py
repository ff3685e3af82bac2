"""The compiled segmenter: which sizes, what it gives, and that nothing which goes wrong there ends a run."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from goldens import Golden, error
from media import moving_squares, write_video
from pretended import pretended_gpu
from test_devices import ALLOWED_PIXELS, NETWORKS, model_there, shallow

from dvis_cli.checkpoints.registry import known_model
from dvis_cli.errors import DvisWarning, UsageError
from dvis_cli.run import loading, placement
from dvis_cli.run.compiled import SHAPES, CompiledSegmenter
from dvis_cli.run.options import SegmentOptions
from dvis_cli.run.settings import RunSettings
from dvis_cli.structures import SegmenterOutput

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """What is handed to the compiler, which takes too long here: traces run as they are."""
    seen: list[torch.fx.GraphModule] = []

    def compile(graph: torch.fx.GraphModule, **options: object) -> torch.fx.GraphModule:
        assert options["fullgraph"] and options["dynamic"] is False
        seen.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", compile)
    return seen


class Counting:
    """A segmenter that tells how it was run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, compile: Callable[..., object] | None = None) -> None:
        self.ran: list[str] = []
        self.compiled = CompiledSegmenter(lambda frames, memory=None: self._run("eager", frames))
        made = compile or (lambda inputs: lambda frames: self._run("compiled", frames))
        monkeypatch.setattr(self.compiled, "_compile", made)

    def _run(self, how: str, frames: torch.Tensor) -> object:
        self.ran.append(f"{how} {len(frames)}")
        one = torch.zeros(1)
        return (one, one, one) if how == "compiled" else SegmenterOutput(one, one, one)

    def __call__(self, *batches: int, size: tuple[int, int] = (64, 96)) -> list[str]:
        self.ran.clear()
        for frames in batches:
            assert isinstance(self.compiled(torch.zeros(frames, 3, *size)), SegmenterOutput)
        return self.ran


def test_full_batches_are_compiled_the_rest_of_a_video_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    run, told = Counting(monkeypatch), []
    run.compiled.on_compile = lambda: told.append(list(run.ran))
    assert run(3) == ["eager 3"], "a video of one batch"
    assert run(4, 4, 4, 2) == ["eager 4", "compiled 4", "compiled 4", "eager 2"]
    assert told == [["eager 4"]], "told once, before it begins"
    assert run(4, 4, 2) == ["compiled 4", "compiled 4", "eager 2"], "a second video of that size"
    assert run(2, 2, 1, 1) == ["eager 2", "eager 2", "eager 1", "eager 1"], "out of memory: halved"
    assert run(1, 1, size=(96, 64)) == ["eager 1", "compiled 1"], "another scale"


def test_only_so_many_shapes_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Counting(monkeypatch)
    for n in range(1, SHAPES + 1):
        assert run(1, 1, size=(32, 32 * n)) == ["eager 1", "compiled 1"]
    with pytest.warns(DvisWarning, match="96 x 32 and others run without") as warned:
        for width in (32, 64):
            assert run(1, 1, 1, size=(96, width)) == ["eager 1"] * 3
    assert len(warned) == 1 and run(1, size=(32, 32)) == ["compiled 1"]


def test_another_thread_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Counting(monkeypatch)
    run(1, 1)
    thread = threading.Thread(target=run, args=(1, 1))
    thread.start()
    thread.join()
    assert run.ran == ["eager 1", "eager 1"] and run(1) == ["compiled 1"]


@pytest.mark.parametrize("late", [False, True])
def test_a_failure_is_one_line_and_the_eager_network(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*inputs: object) -> object:
        raise RuntimeError("no C++ compiler\nand ten more lines")

    run = Counting(monkeypatch, (lambda inputs: fail) if late else fail)
    with pytest.warns(DvisWarning) as warned:
        assert run(1, 1, 1) == ["eager 1"] * 3
    assert [str(one.message) for one in warned] == [
        "--compile: the network goes on without: RuntimeError: no C++ compiler"
    ]
    assert run(1, 1, size=(96, 64)) == ["eager 1"] * 2


@pytest.mark.parametrize("name, precision", [("r50", "fp32"), ("swin", "bf16"), ("videomt", "fp32")])
def test_a_trace_gives_the_same_maps(name: str, precision: str, graphs, monkeypatch) -> None:
    golden, told = Golden.load(name), []
    monkeypatch.setattr(golden.model, "precision", precision)
    settings = RunSettings("online")
    expected = np.stack([frame.ids for frame in golden.video(settings)])
    monkeypatch.setattr(golden.model, "compiled", CompiledSegmenter(golden.model.segmenter))
    video = golden.video(settings, on_progress=lambda stage, frames: told.append(stage))
    ids = np.stack([frame.ids for frame in video])
    assert len(graphs) == told.count("compile") == 1
    assert (ids != expected).sum() <= ALLOWED_PIXELS and len(np.unique(expected)) > 3


DEEP = [pytest.param(name, marks=pytest.mark.slow) for name in ("Swin-L", "DVIS++ ViT-L", "MobileNet")]


@pytest.mark.parametrize("name", ["R50", "VidEoMT", *DEEP])
def test_nothing_of_a_graph_is_on_the_host(name: str, graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it could not be a CUDA graph. And what a graph returns is copied before the next replay."""
    with pretended_gpu(monkeypatch) as traffic, torch.inference_mode():
        model = model_there(shallow(known_model(NETWORKS[name]).configured), "bf16")
        model.compiled, memory = CompiledSegmenter(model.segmenter), None
        for _ in range(3):
            traffic.clear()
            found = model.segment(torch.zeros(2, 3, 64, 96, device=CUDA), memory)
            memory = found.memory
        (graph,) = graphs
        values = [node.meta.get("val") for node in graph.graph.nodes]
    assert not (traffic.waits or traffic.bytes or traffic.uncounted)
    tensors = [one for one in torch.utils._pytree.tree_leaves(values) if isinstance(one, torch.Tensor)]
    assert len(tensors) > 200 and {one.device.type for one in tensors} == {"cuda"}


# --- options ----------------------------------------------------------------------------------------------


def test_auto_is_for_cuda_with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    there = True
    monkeypatch.setattr(placement.importlib.util, "find_spec", lambda name: there or None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert placement.pick_compile("auto", CUDA) and not placement.pick_compile("off", CPU)
    with pytest.warns(DvisWarning, match="on cpu"):
        assert not placement.pick_compile("auto", CPU)
    there = False
    with pytest.warns(DvisWarning, match="Triton"):
        assert not placement.pick_compile("auto", CUDA)
    with pytest.raises(UsageError, match="compile 'always'"):
        SegmentOptions(compile="always")
    with pytest.raises(UsageError, match="deterministic"):
        SegmentOptions(compile="auto", deterministic=True)
    assert SegmentOptions(compile="auto").result_facts() == SegmentOptions().result_facts()


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch, graphs) -> None:
    """As if it gained on a CPU."""
    monkeypatch.setattr(loading, "pick_compile", lambda name, device: name == "auto")


def test_a_run_tells_what_takes_so_long(dvis, compiling, graphs, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", moving_squares(4, 64, 96))
    code, out, err = dvis(
        "segment", tmp_path / "clip.mp4", "-o", tmp_path, "-m", "tiny-videomt", "--compile", "auto", "--json"
    )
    assert code == 0 and "clip.mp4: 2/4 frames" in err and "compiling the network" in err, err
    assert len(graphs) == 1 and not [line for line in json.loads(out)["warnings"] if "compile" in line]


def test_bench_has_both(dvis, compiling, graphs) -> None:
    code, out, err = dvis(
        "bench", "--model", "tiny-videomt", "--size", "64x96", "--frames", 3, "--compile", "auto", "--json"
    )
    assert code == 0, err
    compiled = json.loads(out)["network"]["compiled"]
    assert compiled["times"] > 0 and compiled["after_seconds"] > 0 and len(graphs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name, precision", [("swin", "fp32"), ("r50", "bf16"), ("videomt", "fp32")])
def test_inductor_gives_the_recorded_numbers(name: str, precision: str, monkeypatch) -> None:
    """In bf16 it rounds elsewhere than the eager network does, and is about as near to fp32."""
    golden = Golden.load(name)
    frames = golden.tensors()
    with torch.inference_mode():
        exact = golden.model.segment(frames[:1])
        monkeypatch.setattr(golden.model, "precision", precision)
        eager = golden.model.segment(frames[:1], exact.memory)
        monkeypatch.setattr(golden.model, "compiled", CompiledSegmenter(golden.model.segmenter))
        with warnings.catch_warnings():
            warnings.simplefilter("error", DvisWarning)
            for _ in range(3):
                found = golden.model.segment(frames[:1], exact.memory)
    for part in ("queries", "mask_features", "class_logits"):
        ours, theirs, right = (getattr(one, part).float() for one in (found, eager, exact))
        allowed = 2e-5 if precision == "fp32" else 1.5 * error(theirs, right.numpy())
        assert error(ours, right.numpy()) < allowed, part
