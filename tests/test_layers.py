"""The layers that the networks are made of, against PyTorch's and torchvision's own."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision

from dvis_cli.layers import linear as linear_module
from dvis_cli.layers.attention import Attention
from dvis_cli.layers.convolution import FrozenBatchNorm2d, normed
from dvis_cli.layers.deformable import DeformableAttention
from dvis_cli.layers.linear import Linear
from dvis_cli.segmenter.swin import WindowAttention


def test_attention_is_torch_s() -> None:
    ours, theirs = Attention(32, 4), torch.nn.MultiheadAttention(32, 4, batch_first=True)
    ours.load_state_dict(theirs.state_dict())
    query, key, value = torch.randn(2, 5, 32), torch.randn(2, 7, 32), torch.randn(2, 7, 32)
    allowed = torch.rand(2, 5, 7) > 0.3
    allowed[..., 0] = True
    expected, _ = theirs(query, key, value, attn_mask=(~allowed).repeat_interleave(4, dim=0))
    assert torch.allclose(ours(query, key, value, allowed), expected, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(1, 300, 24), (2, 17, 19, 24), (2, 3, 24)])
def test_linear_is_torch_s(shape: tuple[int, ...], threads: int) -> None:
    torch.manual_seed(0)
    x, layer = torch.randn(shape), Linear(24, 40)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            ours, theirs = layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias)
            sliced = layer(x.transpose(0, -2)[..., 1:, :])
    finally:
        torch.set_num_threads(before)
    assert ours.shape == theirs.shape and ours.is_contiguous()
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(sliced, theirs.transpose(0, -2)[..., 1:, :], atol=1e-5)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_bf16_layer_follows_its_weight(packs: bool, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight kept for oneDNN is made anew after a change in place, and for another parameter."""
    if not packs:
        monkeypatch.setattr(linear_module, "_can_pack", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    torch.manual_seed(0)
    x, layer = torch.randn(3, 100, 24), Linear(24, 40, bias=bias).requires_grad_(False)

    def agrees() -> bool:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            ours = layer(x)
        theirs = torch.nn.functional.linear(x, layer.weight, layer.bias)
        return ours.dtype == torch.bfloat16 and torch.allclose(ours.float(), theirs, atol=0.02, rtol=0.02)

    assert agrees() and agrees()
    layer.load_state_dict({name: torch.randn_like(value) / 5 for name, value in layer.state_dict().items()})
    assert agrees()
    layer.weight = torch.nn.Parameter(torch.randn(40, 24) / 5, requires_grad=False)
    assert agrees()
    assert (layer in linear_module._PACKED) == (packs and linear_module._can_pack())
    twin = copy.deepcopy(layer)
    layer.weight.mul_(2)
    assert agrees() and torch.equal(2 * twin.weight, layer.weight)


def test_batch_norm_is_torchvisions_and_part_of_the_convolution() -> None:
    torch.manual_seed(0)
    conv, norm = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), FrozenBatchNorm2d(6)
    theirs = torchvision.ops.FrozenBatchNorm2d(6)
    for values in norm.buffers():
        values.uniform_(0.5, 2)
    theirs.load_state_dict(norm.state_dict())
    x = torch.randn(2, 4, 9, 11)
    assert torch.equal(norm(conv(x)), theirs(conv(x)))
    assert torch.allclose(normed(x, conv, norm), norm(conv(x)), atol=1e-5)


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 12), (7, 10), (3, 9), (2, 3)])
def test_window_attention_is_masked_attention_over_the_padded_map(size: tuple[int, int], shift: int) -> None:
    """An independent formulation: everything looks at everything, where it is not forbidden."""
    torch.manual_seed(0)
    window, heads, channels = 4, 2, 8
    layer = WindowAttention(channels, heads, window, shift)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(3, *size, channels)
    padded = torch.nn.functional.pad(x, (0, 0, 0, -size[1] % window, 0, -size[0] % window))
    height, width = padded.shape[1:3]
    y, x_ = (line.flatten() for line in torch.meshgrid(*map(torch.arange, (height, width)), indexing="ij"))
    of_window = (y - shift).div(window, rounding_mode="floor") * width
    of_window += (x_ - shift).div(window, rounding_mode="floor")
    down, right = (line[:, None] - line + window - 1 for line in (y, x_))
    allowed = of_window[:, None] == of_window
    bias = layer.bias_table[torch.where(allowed, down * (2 * window - 1) + right, 0)].permute(2, 0, 1)
    q, k, v = layer.qkv(padded).view(3, -1, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
    logits = q @ k.transpose(-1, -2) / (channels // heads) ** 0.5 + bias
    out = logits.masked_fill(~allowed, -torch.inf).softmax(-1) @ v
    expected = layer.proj(out.transpose(1, 2).flatten(2)).view(3, height, width, channels)
    ours, expected = layer(x), expected[:, : size[0], : size[1]]
    assert torch.allclose(ours, expected, atol=1e-5)
    gradients = (
        torch.autograd.grad(one.square().sum(), list(layer.parameters())) for one in (ours, expected)
    )
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-3)


def test_deformable_attention_against_grid_sample() -> None:
    """An independent formulation: sample each level with `grid_sample`, then weigh. Gradients agree, too."""
    torch.manual_seed(0)
    sizes = [(3, 4), (6, 7)]
    layer = DeformableAttention(16, heads=2, levels=2, points=3).double()
    torch.nn.init.normal_(layer.sampling_offsets.weight, std=0.3)
    torch.nn.init.normal_(layer.attention_weights.weight)
    total = sum(h * w for h, w in sizes)
    query = torch.randn(2, 5, 16, dtype=torch.double)
    value = torch.randn(2, total, 16, dtype=torch.double, requires_grad=True)
    reference = torch.rand(5, 1, 2, dtype=torch.double)
    ours = layer(query, reference, value, sizes)
    plain = sample_plainly(layer, query, reference, value, sizes)
    assert torch.allclose(ours, plain, atol=1e-5)
    probe = torch.randn_like(ours)
    parameters = [value, layer.sampling_offsets.weight, layer.attention_weights.weight]
    for a, b in zip(
        torch.autograd.grad((ours * probe).sum(), parameters),
        torch.autograd.grad((plain * probe).sum(), parameters),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-4)


def sample_plainly(layer, query, reference, value, sizes):
    batch, count, _ = query.shape
    values = layer.value_proj(value).unflatten(-1, (layer.heads, -1))
    offsets = layer.sampling_offsets(query).view(batch, count, layer.heads, len(sizes), layer.points, 2)
    weights = layer.attention_weights(query).view(batch, count, layer.heads, -1).softmax(-1)
    weights = weights.view(batch, count, layer.heads, len(sizes), layer.points)
    out, start = 0, 0
    for level, (h, w) in enumerate(sizes):
        level_map = values[:, start : start + h * w].permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, (h, w))
        start += h * w
        scale = torch.tensor([w, h], dtype=query.dtype)
        place = reference[None, :, :, None] + offsets[:, :, :, level] / scale
        grid = (2 * place - 1).transpose(1, 2).flatten(0, 1)
        sampled = torch.nn.functional.grid_sample(level_map, grid, align_corners=False)
        sampled = (
            sampled.unflatten(0, (batch, layer.heads)) * weights[:, :, :, level].transpose(1, 2)[:, :, None]
        )
        out = out + sampled.sum(-1)
    return layer.output_proj(out.permute(0, 3, 1, 2).flatten(2))
