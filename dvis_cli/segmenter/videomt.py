"""VidEoMT: one vision transformer that segments and tracks; no pixel decoder, no query decoder, no tracker.

The queries enter in the last few blocks, among the patches. Those that leave a frame, through one linear layer, are
the queries of the next: row q is the same object in every frame, and (1, Q, C) numbers are all that is remembered.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvis_cli.config import VideoMTConfig
from dvis_cli.layers.mlp import MLP
from dvis_cli.layers.transfer import accelerated
from dvis_cli.layers.vit import LayerNorm, ViTBlock, grid_image
from dvis_cli.structures import SegmenterOutput


class Encoder(nn.Module):
    """A DINOv2 transformer with register tokens."""

    def __init__(self, config: VideoMTConfig) -> None:
        super().__init__()
        channels = config.channels
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.reg_token = nn.Parameter(torch.zeros(1, config.registers, channels))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid**2, channels))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.patch = nn.Conv2d(3, channels, config.patch, stride=config.patch)
        self.blocks = nn.ModuleList(ViTBlock(channels, 4 * channels) for _ in range(config.blocks))
        self.norm = LayerNorm(channels)

    def tokens(self, frames: Tensor) -> Tensor:
        """(T, 1 + R + h * w, C): class token, registers, then patches with their positions; frames: (T, 3, H, W)."""
        patches = self.patch(frames)
        x = patches.flatten(2).transpose(1, 2) + self.positions(patches.shape[2], patches.shape[3])
        fixed = torch.cat((self.cls_token, self.reg_token), dim=1).expand(len(frames), -1, -1)
        return torch.cat((fixed, x), dim=1)

    def positions(self, height: int, width: int) -> Tensor:
        """(1, height * width, C): the learned grid, resized as it was in training (with antialias)."""
        grid = grid_image(self.pos_embed.float())
        size = (height, width)
        resized = F.interpolate(grid, size, mode="bicubic", align_corners=False, antialias=True)
        return resized.flatten(2).transpose(1, 2)


class Upscale(nn.Module):
    """Twice the height and width: transposed convolution, a 3x3 filter for each channel, norm over the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, C, h, w)."""
        x = self.conv2(F.gelu(self.conv1(x)))
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class VideoMT(nn.Module):
    """Stateless: what it remembers between frames is an argument and part of the result."""

    def __init__(self, config: VideoMTConfig, classes: int) -> None:
        super().__init__()
        channels = config.channels
        self.encoder = Encoder(config)
        self.queries = nn.Parameter(torch.randn(config.queries, channels))
        self.query_updater = nn.Linear(channels, channels)
        self.class_head = nn.Linear(channels, classes + 1)
        self.mask_head = MLP(channels, channels, channels, activation=F.gelu)
        self.upscale = nn.Sequential(*(Upscale(channels) for _ in range(config.patch.bit_length() - 3)))
        self.query_blocks = config.query_blocks
        # A schedule of training. Only its length counts, by which a file says how many blocks see the queries.
        self.register_buffer("attn_mask_probs", torch.zeros(config.query_blocks))

    def forward(self, frames: Tensor, memory: Tensor | None = None) -> SegmenterOutput:
        """Segment the next T frames of a video.

        Args:
            frames: (T, 3, H, W) float, normalised and padded; H and W multiples of 32.
            memory: (1, Q, C) of the output for the frames before; None at the beginning of a video.

        Returns:
            queries whose rows are the same objects in every frame; its `memory` is for the next call.
        """
        if len(frames) > 1 and not accelerated(frames.device):
            return self._one_by_one(frames, memory)
        height, width = (side // self.encoder.patch.stride[0] for side in frames.shape[2:])
        x, memory = self.with_queries(self.trunk(frames), memory)
        return self.read_out(x, (height, width), memory)

    @property
    def norm(self) -> LayerNorm:
        """What the queries went through last."""
        return self.encoder.norm

    def trunk(self, frames: Tensor) -> Tensor:
        """The tokens (T, 1 + R + h * w, C) after the blocks that know of no queries, every frame on its own."""
        x = self.encoder.tokens(frames)
        for block in self.encoder.blocks[: -self.query_blocks]:
            x = block(x)
        return x

    def with_queries(self, tokens: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """The last blocks, one frame after the other: (T, Q + N, C), queries first; and the memory (1, Q, C)."""
        outputs = []
        for frame in tokens.split(1):
            x = torch.cat((self.queries[None] if memory is None else memory, frame), dim=1)
            for block in self.encoder.blocks[-self.query_blocks :]:
                x = block(x)
            memory = self.query_updater(x[:, : len(self.queries)]) + self.queries
            outputs.append(x)
        assert memory is not None, "no frames"
        return torch.cat(outputs), memory

    def read_out(self, x: Tensor, size: tuple[int, int], memory: Tensor) -> SegmenterOutput:
        """From the tokens after the last block, (T, Q + N, C), with h x w patches, to classes and mask features."""
        x = self.encoder.norm(x)
        queries, patches = x[:, : len(self.queries)], x[:, -size[0] * size[1] :]
        features = self.upscale(patches.transpose(1, 2).unflatten(2, size))
        return SegmenterOutput(queries, features, self.class_head(queries), memory)

    def _one_by_one(self, frames: Tensor, memory: Tensor | None) -> SegmenterOutput:
        """A batch gains nothing on a CPU, and so the numbers do not depend on how the frames come."""
        outputs = []
        for frame in frames.split(1):
            outputs.append(self(frame, memory))
            memory = outputs[-1].memory
        queries, features, logits = (
            torch.cat([getattr(output, name) for output in outputs])
            for name in ("queries", "mask_features", "class_logits")
        )
        return SegmenterOutput(queries, features, logits, memory)
