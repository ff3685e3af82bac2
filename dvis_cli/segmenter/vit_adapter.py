"""Vision transformer with an adapter: the backbone of DVIS++ ViT-L (`D2VitAdapterDinoV2`).

A DINOv2 transformer works at stride 16 only. Beside it convolutions make maps of strides 8, 16 and 32, and after every
quarter of the transformer's blocks these look up what it found (extractors, by deformable attention). The transformer
itself never sees them: the published code has no injectors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvis_cli.config import ViTAdapterConfig
from dvis_cli.layers.convolution import FrozenBatchNorm2d
from dvis_cli.layers.deformable import DeformableAttention, Size
from dvis_cli.layers.linear import Linear
from dvis_cli.layers.position import cell_centers
from dvis_cli.layers.vit import LayerNorm, ViTBlock, grid_image

PATCH = 16  # pixels a side
INTERACTIONS = 4
EXTRA = 2  # extractors after the last interaction
POINTS = 4  # that an extractor samples, a head


class ViT(nn.Module):
    """The transformer's tokens and blocks; its own final norm is not used."""

    def __init__(self, config: ViTAdapterConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.channels))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid**2, config.channels))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.patch = nn.Conv2d(3, config.channels, PATCH, stride=PATCH)
        self.blocks = nn.ModuleList(ViTBlock(config.channels, config.hidden) for _ in range(config.blocks))

    def tokens(self, frames: Tensor) -> Tensor:
        """(T, 1 + h * w, E): class token and patches with their positions; frames: (T, 3, H, W)."""
        patches = self.patch(frames)
        positions = self._positions((patches.shape[2], patches.shape[3]))
        x = torch.cat((self.cls_token.expand(len(frames), -1, -1), patches.flatten(2).transpose(1, 2)), dim=1)
        return x + positions

    def _positions(self, size: Size) -> Tensor:
        """(1, 1 + h * w, E).

        The scale of the coordinates is (side + 0.1) / grid and not side / grid: that is how DINOv2 keeps rounding
        from losing a row, and what the weights were trained with.
        """
        grid = grid_image(self.pos_embed[:, 1:].float())
        if size == grid.shape[2:]:
            return self.pos_embed
        scales = tuple((side + 0.1) / stored for side, stored in zip(size, grid.shape[2:], strict=True))
        resized = F.interpolate(grid, scale_factor=scales, mode="bicubic", align_corners=False)
        assert resized.shape[2:] == size
        return torch.cat((self.pos_embed[:, :1], resized.flatten(2).transpose(1, 2)), dim=1)


class SpatialPrior(nn.Module):
    """Convolutions that see what a patch of 16 pixels blurs: maps of strides 4, 8, 16 and 32."""

    def __init__(self, channels: int, outputs: int) -> None:
        """`channels`: at stride 4, twice as many at 8, four times from 16 on; `outputs`: E."""
        super().__init__()
        c = channels
        self.stem = nn.Sequential(
            *_convolution(3, c, 2), *_convolution(c, c, 1), *_convolution(c, c, 1), nn.MaxPool2d(3, 2, 1)
        )
        self.conv2 = nn.Sequential(*_convolution(c, 2 * c, 2))
        self.conv3 = nn.Sequential(*_convolution(2 * c, 4 * c, 2))
        self.conv4 = nn.Sequential(*_convolution(4 * c, 4 * c, 2))
        self.fc1 = nn.Conv2d(c, outputs, 1)
        self.fc2 = nn.Conv2d(2 * c, outputs, 1)
        self.fc3 = nn.Conv2d(4 * c, outputs, 1)
        self.fc4 = nn.Conv2d(4 * c, outputs, 1)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """frames: (T, 3, H, W), normalised. Returns four maps (T, E, H / stride, W / stride)."""
        c1 = self.stem(frames)
        c2 = self.conv2(c1)
        c3 = self.conv3(c2)
        return [self.fc1(c1), self.fc2(c2), self.fc3(c3), self.fc4(self.conv4(c3))]


class Extractor(nn.Module):
    """The maps look up what the transformer found: deformable attention, then a perceptron with a 3x3 filter in it."""

    def __init__(self, config: ViTAdapterConfig) -> None:
        super().__init__()
        channels, hidden = config.channels, config.extractor_hidden
        self.query_norm = LayerNorm(channels)
        self.feat_norm = LayerNorm(channels)
        self.attention = DeformableAttention(channels, config.extractor_heads, levels=1, points=POINTS)
        self.ffn_norm = LayerNorm(channels)
        self.linear1 = Linear(channels, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.linear2 = Linear(hidden, channels)

    def forward(self, maps: Tensor, found: Tensor, sizes: list[Size]) -> Tensor:
        """maps: (T, S, E), of the sizes given, one after the other; found: (T, h * w, E), of the middle size."""
        places = torch.cat([cell_centers(h, w, maps.device) for h, w in sizes])[:, None]
        maps = maps + self.attention(self.query_norm(maps), places, self.feat_norm(found), [sizes[1]])
        hidden = to_maps(self.linear1(self.ffn_norm(maps)), sizes)
        filtered = torch.cat([to_tokens(self.depthwise(one)) for one in hidden], dim=1)
        return maps + self.linear2(F.gelu(filtered))


class ViTAdapter(nn.Module):
    """The transformer, the prior beside it, and the four maps that come of both."""

    def __init__(self, config: ViTAdapterConfig) -> None:
        super().__init__()
        channels = config.channels
        self.channels = (channels,) * 4
        self.vit = ViT(config)
        self.prior = SpatialPrior(config.prior_channels, channels)
        self.level_embed = nn.Parameter(torch.zeros(3, channels))
        self.extractors = nn.ModuleList(Extractor(config) for _ in range(INTERACTIONS))
        self.extra = nn.ModuleList(Extractor(config) for _ in range(EXTRA))
        self.up = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.norms = nn.ModuleDict({str(i): FrozenBatchNorm2d(channels) for i in range(1, 5)})

    def forward(self, frames: Tensor) -> list[Tensor]:
        """frames: (T, 3, H, W), normalised. Returns res2..res5, each (T, E, H / stride, W / stride)."""
        finest, *levels = self.prior(frames)
        sizes: list[Size] = [(level.shape[2], level.shape[3]) for level in levels]
        maps = torch.cat(
            [to_tokens(level) + code for level, code in zip(levels, self.level_embed, strict=True)], 1
        )
        found, maps = self.interact(frames, maps, sizes)
        res3, res4, res5 = to_maps(maps, sizes)
        outputs = [self.up(res3) + finest, res3, res4, res5]
        for i, (output, tokens) in enumerate(zip(outputs, found, strict=True)):
            (seen,) = to_maps(tokens, [sizes[1]])
            resized = F.interpolate(seen, output.shape[2:], mode="bilinear", align_corners=False)
            outputs[i] = self.norms[str(i + 1)](output + resized)
        return outputs

    def interact(self, frames: Tensor, maps: Tensor, sizes: list[Size]) -> tuple[list[Tensor], Tensor]:
        """Run the transformer; after every quarter of it the maps take up what it found.

        Args:
            frames: (T, 3, H, W).
            maps: (T, S, E), strides 8, 16 and 32, of the sizes given.

        Returns:
            the transformer's patches (T, h * w, E) after each quarter, and the maps.
        """
        x, found = self.vit.tokens(frames), []
        quarter = len(self.vit.blocks) // INTERACTIONS
        for i, extractor in enumerate(self.extractors):
            for block in self.vit.blocks[i * quarter : (i + 1) * quarter]:
                x = block(x)
            found.append(x[:, 1:])
            maps = extractor(maps, found[-1], sizes)
        for extractor in self.extra:
            maps = extractor(maps, found[-1], sizes)
        return found, maps


def to_tokens(features: Tensor) -> Tensor:
    """(T, C, h, w) to (T, h * w, C), row by row."""
    return features.flatten(2).transpose(1, 2)


def to_maps(tokens: Tensor, sizes: list[Size]) -> list[Tensor]:
    """(T, S, C), maps of the sizes given one after the other, to a (T, C, h, w) of each."""
    parts = tokens.split([h * w for h, w in sizes], dim=1)
    return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


def _convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [convolution, FrozenBatchNorm2d(outputs), nn.ReLU(inplace=True)]
