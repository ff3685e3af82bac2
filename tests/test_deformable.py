"""Deformable attention's kernel: against PyTorch in Triton's interpreter, for the compiler, and when it is not used.

Triton decides when it is imported whether it interprets. So the tests marked `interpreted` run in a process of their
own, which the first test starts.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from deformable_cases import LEVELS, QUERIES, case, sampled
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dvis_cli.errors import DvisWarning
from dvis_cli.layers import deformable
from dvis_cli.layers.deformable import Size, attend, by_rows

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NO_TRITON = find_spec("triton") is None
interpreted = pytest.mark.skipif(not INTERPRETED or NO_TRITON, reason="runs in Triton's interpreter")


@pytest.mark.skipif(INTERPRETED or NO_TRITON, reason="needs Triton, and has started the interpreter")
def test_in_the_interpreter() -> None:
    only = ["-k", "interpreter", "-p", "no:cacheprovider", "--noconftest"]
    command = [sys.executable, "-m", "pytest", __file__, *only]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9] passed", done.stdout)


@interpreted
@pytest.mark.parametrize(
    ("sizes", "heads", "channels", "points"),
    [([(3, 4), (6, 7)], 2, 16, 3), ([(5, 3)], 4, 24, 4), (LEVELS, 1, 64, 4), ([(1, 1), (1, 9)], 3, 1, 1)],
)
def test_interpreter_gives_what_grid_sample_gives(
    sizes: list[Size], heads: int, channels: int, points: int
) -> None:
    from dvis_cli.layers.deformable_triton import launch

    one = case(sizes, heads, channels, points)
    ours = launch(*one)
    assert torch.allclose(ours, by_rows(*one), atol=1e-5)
    values, offsets, *rest = one
    assert torch.allclose(ours, sampled(values, offsets.clamp(-1e4, 1e4), *rest), atol=1e-5)


@interpreted
def test_interpreter_takes_a_place_for_each_level_and_picture() -> None:
    from dvis_cli.layers.deformable_triton import launch

    values, offsets, _, logits, sizes, heads = case(LEVELS, 2, 16, 2)
    reference = torch.rand(2, QUERIES, 3, 2)
    one = values, offsets, reference, logits, sizes, heads
    assert torch.allclose(launch(*one), by_rows(*one), atol=1e-5)


@interpreted
@pytest.mark.parametrize("projected", [torch.float32, torch.bfloat16])
def test_interpreter_sums_bf16_in_fp32(projected: torch.dtype) -> None:
    from dvis_cli.layers.deformable_triton import launch

    values, offsets, reference, logits, *rest = case(LEVELS, 1, 24, 2, dtype=torch.bfloat16)
    offsets, logits = offsets.to(projected), logits.to(projected)
    ours = launch(values, offsets, reference, logits, *rest)
    exact = by_rows(values.float(), offsets, reference, logits, *rest)
    assert ours.dtype == torch.bfloat16 == by_rows(values, offsets, reference, logits, *rest).dtype
    # Half a bit on a GPU, which rounds; the interpreter cuts off. Sums in bf16 would be further away.
    assert torch.allclose(ours.float(), exact, rtol=2**-7, atol=1e-6)


@interpreted
def test_interpreter_passes_the_probe(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator then is the kernel, whose output is not that of the rows to the last bit."""
    one = case(LEVELS[:2], 1, 16, 2)
    launched = counting(monkeypatch, lambda launcher: launcher())
    assert torch.allclose(operator(*one), by_rows(*one), atol=1e-5)
    assert len(launched) == 2 and len(deformable._PROVED) == 1
    operator(*one)
    assert len(launched) == 3, "a probe is for once"


# --- without the interpreter ------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process begins: nothing tried."""
    monkeypatch.setattr(deformable, "_PROVED", set())
    monkeypatch.setattr(deformable, "_REFUSED", set())


def operator(*one: object) -> Tensor:
    """`attend` as on CUDA."""
    *tensors, sizes, heads = one
    return torch.ops.dvis.deformable_attention(*tensors, [side for size in sizes for side in size], heads)


def counting(monkeypatch: pytest.MonkeyPatch, change: Callable[[Callable], Callable]) -> list[int]:
    """Replace the kernel by `change(what brings it)`; returns a list that grows with each launch."""
    launcher, launched = deformable._launcher, []

    def launch(*arguments: object) -> Tensor:
        launched.append(1)
        return change(launcher)(*arguments)

    monkeypatch.setattr(deformable, "_launcher", lambda: launch)
    return launched


def raises(*_: object) -> Tensor:
    raise RuntimeError("no C compiler\nin a traceback of many lines")


FAULTS = {
    "off by .*e-0": lambda _: lambda *one: by_rows(*one) * 1.001,
    "off by nan": lambda _: lambda *one: by_rows(*one) / 0 * 0,
    r"RuntimeError: no C compiler$": lambda _: raises,
}


@pytest.mark.parametrize("why", FAULTS)
def test_a_wrong_kernel_is_one_warning(why: str, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = counting(monkeypatch, FAULTS[why])
    with pytest.warns(DvisWarning, match=f"without its Triton kernel on cpu, more slowly: .*{why}") as warned:
        for heads in (2, 4, 2):
            one = case(LEVELS, heads, 8, 2)
            assert torch.equal(operator(*one), by_rows(*one))
    assert len(warned) == 1 and len(launched) == 1


def test_no_triton_is_one_warning(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "dvis_cli.layers.deformable_triton", raising=False)
    one = case(LEVELS, 2, 8, 2)
    with pytest.warns(DvisWarning, match="(ModuleNotFound|Import)Error.*triton"):
        assert torch.equal(operator(*one), by_rows(*one))


def test_little_memory_says_nothing_about_the_kernel(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    counting(monkeypatch, lambda _: full)
    with pytest.raises(torch.OutOfMemoryError):
        operator(*case(LEVELS, 2, 8, 2))
    assert not deformable._REFUSED


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("learning", [False, True])
def test_who_learns_gets_rows(learning: bool, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pretended device proves that nothing is tried, launched or copied before there are numbers."""
    from pretended import pretended_gpu  # heavy, and nothing to the interpreter

    with pretended_gpu(monkeypatch) as traffic, Operators() as seen:
        *tensors, sizes, heads = case(LEVELS, 2, 16, 4)
        there = [torch.empty(one.shape, device="cuda", requires_grad=learning) for one in tensors]
        attend(*there, sizes, heads)
        traffic.clear()  # tables that are copied once a size
        out = attend(*there, sizes, heads)
        assert out.shape == (2, QUERIES, 32) and out.device.type == "cuda" and out.requires_grad == learning
    by_kernel = any("dvis.deformable_attention" in name for name in seen.names)
    assert by_kernel == (not learning) == (not any("embedding_bag" in name for name in seen.names))
    assert not deformable._PROVED and not deformable._REFUSED and not traffic.uncounted


def test_the_operator_is_well_formed(fresh: None) -> None:
    deformable._REFUSED.add(torch.device("cpu"))
    *tensors, sizes, heads = case([(3, 4)], 2, 16, 2)
    arguments = (*tensors, [side for size in sizes for side in size], heads)
    names = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.dvis.deformable_attention, arguments, test_utils=names)


def test_a_graph_holds_one_operator(fresh: None) -> None:
    """What compiles or captures the network sees neither the kernel nor the choice, of which there is none yet."""
    from torch.fx.experimental.proxy_tensor import make_fx

    *tensors, sizes, heads = case(LEVELS, 2, 16, 4)
    graph = make_fx(lambda *inputs: operator(*inputs, sizes, heads), tracing_mode="fake")(*tensors).graph
    calls = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert calls == ["dvis.deformable_attention.default"] and not deformable._REFUSED


@pytest.mark.skipif(INTERPRETED or NO_TRITON, reason="needs Triton that compiles")
def test_the_kernel_compiles_without_a_gpu(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For an A100: what the interpreter lets pass is not always Triton's language."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Triton's own
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        from dvis_cli.layers.deformable_triton import _attend

        numbers = {"heads": 4, "levels": 3, "points": 4, "channels": 24, "padded": 32, "block": 32}
        pointers = dict.fromkeys(("values", "offsets", "logits", "output"), "*bf16")
        pointers |= {"reference": "*fp32", "table": "*i32"}
        types = {
            name: pointers.get(name, "constexpr" if name in numbers else "i32") for name in _attend.arg_names
        }
        aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(types) if name in pointers}
        source = ASTSource(_attend, types, constexprs=numbers, attrs=aligned)
        compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32))
    assert compiled.asm["cubin"]
    wide = len(re.findall(r"ld\.global\.v4", compiled.asm["ptx"]))
    assert wide == 4 * 4, "the cells around the points of a level are read 16 bytes at a time"
