"""The backbone of the bundled model: MobileNetV2 trunks side by side, each with DeepLab's context."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dvis_cli.config import MobileNetV2Config, ModelConfig, PixelDecoderConfig, QueryDecoderConfig
from dvis_cli.run.loading import inspect_weights, load_model, save_weights
from dvis_cli.run.noise import random_model
from dvis_cli.segmenter.mobilenet import CONTEXT, MobileNetV2, Trunk, doubled
from dvis_cli.structures import Category

CATEGORIES = tuple(Category(i, f"class {i}", i < 2, (i, i, i)) for i in range(3))
SMALL = ModelConfig(
    mode="minvis",
    backbone=MobileNetV2Config(trunks=2),
    pixel_decoder=PixelDecoderConfig(channels=32, mask_channels=32, layers=1, heads=4, ffn=32, located=True),
    query_decoder=QueryDecoderConfig(channels=32, queries=5, layers=1, heads=4, ffn=32),
    num_classes=3,
)


@pytest.mark.parametrize("trunks", [1, 2])
def test_strides_and_channels(trunks: int) -> None:
    torch.manual_seed(0)
    backbone = MobileNetV2(MobileNetV2Config(trunks=trunks)).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, 64, 96))
    assert tuple(m.shape[1] for m in maps) == backbone.channels
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_trunks_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    two = MobileNetV2(MobileNetV2Config(trunks=2)).eval()
    frames = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        context = two.trunks[0](frames)[3]
        for parameter in two.trunks[1].parameters():
            parameter.mul_(2)
        found = two(frames)[2]
    assert torch.allclose(found[:, -2 * CONTEXT : -CONTEXT], context, atol=1e-6)


def test_the_context_is_deeplabs() -> None:
    """The product over the view of the whole picture and the cell's own, side by side in every cell."""
    torch.manual_seed(0)
    trunk = Trunk().eval()
    frames = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found = trunk(frames)[3]
        x = F.relu6(trunk.stem(frames))
        for block in trunk.blocks:
            x = block(x)
        whole = F.relu(trunk.whole(F.adaptive_avg_pool2d(x, 1))).expand(-1, -1, *x.shape[2:])
        wanted = F.relu(trunk.context(torch.cat([whole, F.relu(trunk.cell(x))], dim=1)))
    assert torch.allclose(found, wanted, atol=1e-4)


def test_doubling_keeps_cells_where_their_first_pixel_is() -> None:
    x = torch.randn(2, 4, 5, 7)
    assert torch.allclose(doubled(x)[..., ::2, ::2], x, atol=1e-5)
    middle = doubled(x)[..., ::2, 1:-1:2]
    assert torch.allclose(middle, (x[..., :-1] + x[..., 1:]) / 2, atol=1e-5)


def test_file_and_back(tmp_path: Path) -> None:
    network = random_model(SMALL, CATEGORIES)
    with torch.no_grad():
        for linear in network.segmenter.pixel_decoder.place:
            linear.weight.normal_(std=0.1)
    save_weights(network, tmp_path / "small.safetensors")
    again = load_model(tmp_path / "small.safetensors", device="cpu")
    assert again.config.backbone == SMALL.backbone and again.config.pixel_decoder.located
    assert inspect_weights(tmp_path / "small.safetensors")["backbone"]["trunks"] == 2
    frames = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = network.eval().segmenter(frames), again.segmenter(frames)
    assert torch.allclose(ours.mask_features, theirs.mask_features, atol=1e-2)


def test_a_position_of_weight_zero_changes_nothing() -> None:
    located = random_model(SMALL, CATEGORIES).eval()
    plain_config = dataclasses.replace(
        SMALL, pixel_decoder=dataclasses.replace(SMALL.pixel_decoder, located=False)
    )
    plain = random_model(plain_config, CATEGORIES).eval()
    plain.load_state_dict(located.state_dict(), strict=False)
    frames = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for linear in located.segmenter.pixel_decoder.place:
            linear.weight.zero_()
        zero = located.segmenter(frames)
        without = plain.segmenter(frames)
        located.segmenter.pixel_decoder.place[-1].weight.fill_(0.1)
        moved = located.segmenter(frames)
    assert torch.equal(zero.mask_features, without.mask_features)
    # The same is added in every frame, whatever is in it.
    added = moved.mask_features - zero.mask_features
    assert not torch.allclose(added[..., 0, 0], added[..., -1, -1])
