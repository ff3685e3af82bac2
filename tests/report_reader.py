"""What `page.js` does with the maps of a page, in slow and plain Python, for tests."""

from __future__ import annotations

import numpy as np

from dvis_cli.writers.report.coding import CONTEXTS, GAP_BIT, GAP_LENGTH, LABEL, LEFT, LEVELS, OTHER, THIRD


class _Bits:
    def __init__(self, level: np.ndarray, data: np.ndarray) -> None:
        self.level, self.words, self.at = level, data[2:], 0
        self.state = int(data[0]) + (int(data[1]) << 16)

    def __call__(self, context: int) -> bool:
        chance, rest, whole = int(LEVELS[self.level[context]]), self.state & 4095, self.state >> 12
        yes = rest < chance
        self.state = chance * whole + rest if yes else (4096 - chance) * whole + rest - chance
        if self.state < 2**16:
            self.state = (self.state << 16) + int(self.words[self.at])
            self.at += 1
        return yes

    def gap(self) -> int:
        length = 0
        while self(GAP_LENGTH + length):
            length += 1
        value = 1
        for _ in range(length):
            value = 2 * value + self(GAP_BIT)
        return value - 1

    def label(self) -> int:
        value = 0
        for bit in range(16):
            value = 2 * value + self(LABEL + bit)
        return value


def read_chunk(chunk: bytes, frames: int, height: int, width: int) -> list[np.ndarray]:
    """The maps of a chunk, (height, width) each."""
    level = np.frombuffer(chunk, np.uint8, CONTEXTS)
    sizes = np.frombuffer(chunk, "<u4", frames, CONTEXTS)
    words = np.frombuffer(chunk, "<u2", -1, CONTEXTS + 4 * frames)
    before, maps, at = None, [], 0
    for size in sizes:
        bits = _Bits(level, words[at : at + 2 + int(size)])
        at += 2 + int(size)
        before = _read(bits, before, height, width)
        assert bits.state == 2**16 and bits.at == size  # all was read, and nothing else
        maps.append(before[2:-1, 2:-2].copy())
    assert at == len(words)
    return maps


def _read(bits: _Bits, before: np.ndarray | None, height: int, width: int) -> np.ndarray:
    now = np.zeros((height + 3, width + 4), np.int64)
    gap = bits.gap()
    for y in range(2, height + 2):
        if y > 2:
            now[y, :2] = now[y - 1, 2]
        for x in range(2, width + 2):
            a, b, c, d = now[y, x - 1], now[y - 1, x], now[y - 1, x - 1], now[y - 1, x + 1]
            if before is None:
                same, right, below, left2, above, above_left, above_right = b, d, b, a, b, c, d
            else:
                same, right, below, left2 = before[y, x], before[y, x + 1], before[y + 1, x], before[y, x - 2]
                above, above_left, above_right = before[y - 1, x], before[y - 1, x - 1], before[y - 1, x + 1]
            plain = all(a == one for one in (b, c, d, *((same, right, below) if before is not None else ())))
            if plain and gap:
                gap -= 1
                now[y, x] = a
            elif plain:
                now[y, x] = bits.label()
                gap = bits.gap()
            else:
                tests = (same == a, above == b, d == a, b == a, right == a, now[y - 2, x - 1] == a,
                         above_right == d, below == a, left2 == a, above_left == a)  # fmt: skip
                context = sum(int(one) << bit for bit, one in enumerate(tests))
                now[y, x] = a if bits(LEFT + context) else _other(bits, a, (b, same, d, right, below, c))
        now[y, -2:] = now[y, -3]
    now[-1] = now[-2]
    assert gap == 0
    return now


def _other(bits: _Bits, left: int, candidates: tuple[int, ...]) -> int:
    second = next((index for index, one in enumerate(candidates) if one != left), None)
    if second is not None:
        label = candidates[second]
        equal = sum(int(candidates[index] == label) << (index - 1) for index in range(1, 5))
        if bits(OTHER + 16 * second + equal):
            return label
        third = next((index for index, one in enumerate(candidates) if one not in (left, label)), None)
        if third is not None and bits(THIRD + third):
            return candidates[third]
    return bits.label()
