"""Other libraries' ImageNet weights in our backbones: the same features, or a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from dvis_cli.checkpoints.imagenet import backbone_tensors
from dvis_cli.config import EfficientNetLiteConfig, ResNetConfig, SwinConfig
from dvis_cli.errors import CheckpointError
from dvis_cli.segmenter.segmenter import build_backbone

PATH = Path("weights.pth")


def loaded(config, tensors: dict[str, Tensor]):
    backbone = build_backbone(config).eval()
    backbone.load_state_dict(backbone_tensors(tensors, backbone.state_dict(), PATH), strict=False)
    return backbone


@torch.no_grad()
def test_torchvisions_resnet_gives_its_features() -> None:
    theirs = torchvision.models.resnet50(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    x = torch.randn(1, 3, 64, 96)
    ours = loaded(ResNetConfig(), theirs.state_dict())(x)
    y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    for layer, feature in zip(
        (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), ours, strict=True
    ):
        y = layer(y)
        assert torch.allclose(y, feature, rtol=1e-4, atol=1e-4 * y.abs().max().item())


@torch.no_grad()
def test_torchvisions_swin_gives_its_features() -> None:
    theirs = torchvision.models.swin_t(weights=None).eval()
    x = torch.randn(1, 3, 224, 224)
    ours = loaded(SwinConfig(), theirs.state_dict())(x)
    y = x
    # The last stage is one window: torchvision leaves the shift out there, published DVIS weights do not.
    for i, layer in enumerate(list(theirs.features)[:6]):
        y = layer(y)
        if i % 2:
            expected = F.layer_norm(y, y.shape[-1:]).permute(0, 3, 1, 2)
            assert torch.allclose(expected, ours[i // 2], rtol=1e-4, atol=1e-4)


def upstream_name(stage: int, block: int, rest: str, numbers: dict[tuple[int, int], int]) -> str:
    """What the converted TensorFlow files call a tensor of ours."""
    part, kind, leaf = rest.split(".")
    names = {
        ("expand", "conv"): "_expand_conv",
        ("expand", "norm"): "_bn0",
        ("depthwise", "conv"): "_depthwise_conv",
        ("depthwise", "norm"): "_bn1",
        ("project", "conv"): "_project_conv",
        ("project", "norm"): "_bn2",
    }
    return f"_blocks.{numbers[stage, block]}.{names[part, kind]}.{leaf}"


def efficientnet_file() -> dict[str, Tensor]:
    """A file of random numbers under the upstream names, with the classifier that is of no use."""
    state = build_backbone(EfficientNetLiteConfig()).state_dict()
    blocks = (1, 2, 2, 3, 3, 4, 1)
    places = [(stage, block) for stage, count in enumerate(blocks) for block in range(count)]
    numbers = {place: i for i, place in enumerate(places)}
    file = {"_fc.weight": torch.zeros(1000, 1280), "_bn1.weight": torch.zeros(1280)}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] == "stem":
            upstream = {"conv": "_conv_stem", "norm": "_bn0"}[parts[1]] + f".{parts[2]}"
        else:
            upstream = upstream_name(int(parts[1]), int(parts[2]), ".".join(parts[3:]), numbers)
        file[upstream] = torch.randn_like(tensor)
    return file


def test_efficientnet_names() -> None:
    file = efficientnet_file()
    ours = loaded(EfficientNetLiteConfig(), file).state_dict()
    assert torch.equal(ours["stem.conv.weight"], file["_conv_stem.weight"])
    assert torch.equal(ours["stages.4.2.depthwise.conv.weight"], file["_blocks.10._depthwise_conv.weight"])
    assert torch.equal(ours["stages.6.0.project.norm.running_var"], file["_blocks.15._bn2.running_var"])


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(64, 96), (128, 224)])
def test_efficientnet_strides(height: int, width: int) -> None:
    backbone = build_backbone(EfficientNetLiteConfig())
    features = backbone(torch.randn(2, 3, height, width))
    for feature, stride, channels in zip(features, (4, 8, 16, 32), backbone.channels, strict=True):
        assert feature.shape == (2, channels, height // stride, width // stride)


def test_what_does_not_fit_is_named() -> None:
    file = efficientnet_file()
    del file["_blocks.3._bn1.weight"]
    with pytest.raises(
        CheckpointError, match=r"1 of \d+ tensors are missing, the first 'stages.2.0.depthwise"
    ):
        loaded(EfficientNetLiteConfig(), file)
    with pytest.raises(CheckpointError, match=r"stem\.conv\.weight is \[32, 3, 3, 3\], expected \[8"):
        loaded(EfficientNetLiteConfig(stem_channels=8), efficientnet_file())
    with pytest.raises(CheckpointError, match="tensors are missing"):
        loaded(ResNetConfig(), efficientnet_file())
