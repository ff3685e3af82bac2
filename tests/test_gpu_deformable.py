"""The kernel of deformable attention on a real GPU; skipped where there is none (`tests/benchmarks/gpu.sh`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from deformable_cases import LEVELS, PUBLISHED, STRIDES, case, published
from goldens import error

from dvis_cli.layers import deformable
from dvis_cli.layers.deformable import attend, by_rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CUDA = torch.device("cuda")
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2**-7}  # of the largest value


@pytest.fixture
def inference() -> Iterator[None]:
    """No gradients, and after the test no errors of `set_sync_debug_mode`."""
    with torch.inference_mode():
        yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_kernel_gives_what_rows_give(name: str, batch: int, inference: None) -> None:
    one = published(name, batch, CUDA)
    exact = by_rows(one[0].float(), *one[1:])
    ours = attend(*one)
    assert deformable._PROVED and not deformable._REFUSED, "the kernel was not used"
    assert ours.dtype == one[0].dtype
    assert error(ours.float().cpu(), exact.cpu().numpy()) < TOLERANCE[ours.dtype]


@pytest.mark.parametrize("channels", [1, 16, 24, 64])
def test_the_kernel_at_the_border(channels: int, inference: None) -> None:
    *tensors, sizes, heads = case(LEVELS, 3, channels, 3)
    expected = by_rows(*tensors, sizes, heads)
    ours = attend(*(one.to(CUDA) for one in tensors), sizes, heads)
    assert not deformable._REFUSED and error(ours.cpu(), expected.numpy()) < TOLERANCE[ours.dtype]


def test_the_kernel_makes_nobody_wait_and_can_be_captured(inference: None) -> None:
    one = published("the same in bf16", 2, CUDA)
    expected = attend(*one)
    torch.cuda.set_sync_debug_mode("error")
    again = attend(*one)
    torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = attend(*one)
    graph.replay()
    assert torch.equal(again, expected) and torch.equal(captured, expected)


def test_offsets_beyond_31_bits(inference: None) -> None:
    heads, channels, points, sizes = 8, 1, 4, STRIDES
    samples = heads * points * len(sizes)
    count = 2**31 // (2 * samples) + 100
    if torch.cuda.mem_get_info()[0] < 16e9:
        pytest.skip("needs 16 GB of free memory")
    shapes = (
        (1, sum(h * w for h, w in sizes), heads * channels),
        (1, count, 2 * samples),
        (1, count, samples),
    )
    values, offsets, logits = (torch.randn(shape, dtype=torch.bfloat16, device=CUDA) for shape in shapes)
    reference = torch.rand(count, 1, 2, device=CUDA)
    ours = attend(values, offsets, reference, logits, sizes, heads)[:, -50:]
    last = by_rows(values.float(), offsets[:, -50:], reference[-50:], logits[:, -50:], sizes, heads)
    assert error(ours.float().cpu(), last.cpu().numpy()) < TOLERANCE[ours.dtype]
