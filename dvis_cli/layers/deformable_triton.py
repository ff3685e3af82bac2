"""Deformable attention as one Triton kernel. Imported where Triton is, and used where its numbers have been checked.

A program makes the outputs of one head for a block of neighbouring queries, which look at neighbouring cells: what one
of them has read is in the cache for the next. Softmax, places, bilinear weights and the weighted sum stay in
registers; nothing the size of queries x samples is ever in memory but the inputs.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# No `from __future__ import annotations`: Triton reads the annotations of a kernel.
from collections.abc import Sequence
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 1024  # numbers that a program sums up at a time: queries x channels of a head
WARPS = 4


def launch(
    values: Tensor,
    offsets: Tensor,
    reference: Tensor,
    logits: Tensor,
    sizes: Sequence[tuple[int, int]],
    heads: int,
) -> Tensor:
    """`deformable.attend` by the kernel: the same arguments, in float32, bfloat16 or float16; the sums are float32."""
    batch, cells, channels = values.shape
    queries, levels = offsets.shape[1], len(sizes)
    per_head = channels // heads
    points = logits.shape[2] // (heads * levels)
    padded = triton.next_power_of_2(per_head)
    block = max(TILE // padded, 1)
    reference = reference.float().contiguous().expand(batch, queries, levels, 2)
    output = values.new_empty(batch, queries, channels)
    with torch.cuda.device_of(values):
        _attend[(triton.cdiv(queries, block), heads, batch)](
            values.contiguous(),
            offsets.contiguous(),
            reference,
            logits.contiguous(),
            _table(tuple(sizes), values.device),
            output,
            cells,
            queries,
            *reference.stride()[:3],
            heads=heads,
            levels=levels,
            points=points,
            channels=per_head,
            padded=padded,
            block=block,
            num_warps=WARPS,
        )
    return output


@cache  # a CUDA graph may read a table for ever
def _table(sizes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """(L, 3) int32: height, width and first cell of each level; Triton has no loop over a number of arguments."""
    first = [sum(h * w for h, w in sizes[:level]) for level in range(len(sizes))]
    rows = [(h, w, start) for (h, w), start in zip(sizes, first, strict=True)]
    return torch.tensor(rows, dtype=torch.int32, device=device)


@triton.jit(do_not_specialize=("cells", "queries", "of_image", "of_query", "of_level"))
def _attend(
    values,
    offsets,
    reference,
    logits,
    table,
    output,
    cells,
    queries,
    of_image,
    of_query,
    of_level,
    heads: tl.constexpr,
    levels: tl.constexpr,
    points: tl.constexpr,
    channels: tl.constexpr,
    padded: tl.constexpr,
    block: tl.constexpr,
):
    """A block of queries of one head. `of_*`: strides of `reference`; `padded`: `channels` up to a power of two."""
    rows = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # offsets may pass 2**31
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    there = rows < queries
    query = image * queries + rows

    own = logits + (query * heads + head) * (levels * points)
    most = tl.load(own, mask=there, other=0.0).to(tl.float32)
    for each in tl.static_range(1, levels * points):
        most = tl.maximum(most, tl.load(own + each, mask=there, other=0.0).to(tl.float32))
    xs = offsets + query * (2 * heads * levels * points) + head * (levels * points)
    ys = xs + heads * levels * points
    channel = tl.arange(0, padded)[None, :]
    known = channel < channels
    step: tl.constexpr = heads * channels
    mixed = tl.zeros((block, padded), dtype=tl.float32)
    total = tl.zeros((block,), dtype=tl.float32)
    for level in range(levels):
        height = tl.load(table + 3 * level)
        width = tl.load(table + 3 * level + 1)
        first = image * cells + tl.load(table + 3 * level + 2)
        cell = values + (first * heads + head) * channels
        place = reference + image * of_image + rows * of_query + level * of_level
        center_x = tl.load(place, mask=there, other=0.0) * width.to(tl.float32) - 0.5
        center_y = tl.load(place + 1, mask=there, other=0.0) * height.to(tl.float32) - 0.5
        for point in tl.static_range(points):
            sample = level * points + point
            weight = tl.exp(tl.load(own + sample, mask=there, other=0.0).to(tl.float32) - most)
            total += weight
            x = center_x + tl.load(xs + sample, mask=there, other=0.0).to(tl.float32)
            y = center_y + tl.load(ys + sample, mask=there, other=0.0).to(tl.float32)
            # All beyond is zero; and no number is too large for an integer.
            x = tl.minimum(tl.maximum(x, -1.0), width.to(tl.float32))
            y = tl.minimum(tl.maximum(y, -1.0), height.to(tl.float32))
            column = tl.floor(x)
            line = tl.floor(y)
            right_share = x - column
            low = weight * (y - line)
            high = weight - low
            column = column.to(tl.int32)
            line = line.to(tl.int32)
            left = (column >= 0) & (column < width)
            right = column < width - 1
            up = there & (line >= 0) & (line < height)
            down = there & (line < height - 1)
            here = cell + (line.to(tl.int64) * width + column) * step
            below = here + width * step
            mixed += _corner(here, up & left, high - high * right_share, channel, known)
            mixed += _corner(here + step, up & right, high * right_share, channel, known)
            mixed += _corner(below, down & left, low - low * right_share, channel, known)
            mixed += _corner(below + step, down & right, low * right_share, channel, known)

    target = output + ((query * heads + head) * channels)[:, None] + channel
    mixed = mixed / total[:, None]
    tl.store(target, mixed.to(output.dtype.element_ty), mask=there[:, None] & known)


@triton.jit
def _corner(cell, inside, share, channel, known):
    """(block, padded): the share of one of the four cells around a place; outside the map there is nothing."""
    found = tl.load(cell[:, None] + channel, mask=inside[:, None] & known, other=0.0)
    return found.to(tl.float32) * share[:, None]
