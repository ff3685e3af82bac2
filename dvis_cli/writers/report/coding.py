"""Maps of a video as few bytes that a page turns back into the very same pixels.

A map is coded pixel by pixel from what the reader knows already: the pixels left and above, and the frame before. Where
all of these agree, a pixel costs nothing but a share of the count to the next exception. Elsewhere it is a few yes-or-no
decisions ("as on the left?", "as the next likely neighbour?"), each with the probability that it has in the chunk in the
same surroundings, coded by a range asymmetric numeral system (Duda, arXiv:1311.2540). On panoptic maps this takes a third
of what run lengths with deflate do. `page.js` is the reader.

A chunk, little-endian:

    contexts x u8            the level of each context's probability
    frames x u32             16-bit words of each frame, without its state
    frames x (u32, words)    the coder's state, then the words in reading order
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Probabilities of "yes" in 1/4096: dense at both ends, where a decision costs little.
LEVELS = np.clip(np.rint(4096 / (1 + np.exp(-(np.arange(256) - 127.5) / 15.3))), 1, 4095).astype(np.uint32)
_ONE = 4096
LEFT_BITS = 10  # surroundings of the first decision
LEFT, OTHER, THIRD = 0, 1 << LEFT_BITS, (1 << LEFT_BITS) + 128  # first context of each kind of decision
LABEL, GAP_LENGTH, GAP_BIT = THIRD + 8, THIRD + 24, THIRD + 56
CONTEXTS = GAP_BIT + 1
_CANDIDATES = 6
_NONE = 7  # no candidate
LARGEST_LABEL = 2**16 - 1


@dataclass(frozen=True)
class _Decisions:
    """One frame's decisions in reading order."""

    context: np.ndarray  # (n,) int32
    yes: np.ndarray  # (n,) bool


class MapCoder:
    """Codes the maps of a video, a chunk of frames at a time; each chunk can be read without the others.

    Args:
        height, width: of all maps, pixels.
        chunk_frames: frames of a chunk.
    """

    def __init__(self, height: int, width: int, chunk_frames: int = 32) -> None:
        self._size, self._chunk_frames = (height, width), chunk_frames
        self._previous: np.ndarray | None = None
        self._frames: list[_Decisions] = []

    def add(self, labels: np.ndarray) -> bytes | None:
        """Take one map; a chunk when it completes one.

        Args:
            labels: (height, width) integers 0..65535, as small as possible: rare new ones cost their bits.
        """
        padded = _padded(labels)
        self._frames.append(_decisions(padded, self._previous, self._size))
        self._previous = padded
        return self.flush() if len(self._frames) == self._chunk_frames else None

    def flush(self) -> bytes | None:
        """The chunk of the frames since the last one, None where there are none."""
        frames, self._frames, self._previous = self._frames, [], None
        return _chunk(frames) if frames else None


def _padded(labels: np.ndarray) -> np.ndarray:
    """(height + 3, width + 4) uint16: two rows above and one below, two columns on each side.

    Above is 0; left is the first pixel of the row above, right and below is the nearest pixel.
    """
    height, width = labels.shape
    padded = np.zeros((height + 3, width + 4), np.uint16)
    padded[2:-1, 2:-2] = labels
    padded[3:-1, :2] = labels[:-1, :1]
    padded[2:-1, -2:] = labels[:, -1:]
    padded[-1] = padded[-2]
    return padded


def _decisions(padded: np.ndarray, previous: np.ndarray | None, size: tuple[int, int]) -> _Decisions:
    height, width = size
    stride = width + 4

    def window(of: np.ndarray, dy: int, dx: int) -> np.ndarray:
        return of[2 + dy : 2 + dy + height, 2 + dx : 2 + dx + width]

    here, left, up = window(padded, 0, 0), window(padded, 0, -1), window(padded, -1, 0)
    plain = (left == up) & (left == window(padded, -1, -1)) & (left == window(padded, -1, 1))
    if previous is not None:
        for dy, dx in ((0, 0), (0, 1), (1, 0)):
            plain &= left == window(previous, dy, dx)
    coded = np.flatnonzero(~(plain & (here == left)).ravel())  # all but plain pixels that are as expected
    position = (coded // width + 2) * stride + coded % width + 2
    exception = plain.ravel()[coded]
    # Plain pixels between one exception and the next.
    plain_before = coded - np.cumsum(~exception) + ~exception
    ends = np.append(plain_before[exception], plain.sum())
    gaps = np.diff(ends, prepend=-1) - 1
    surroundings = _Surroundings(padded.ravel(), None if previous is None else previous.ravel(), position, stride)
    return _in_order(surroundings, exception, gaps)


class _Surroundings:
    """What the reader knows around some pixels; (n,) each."""

    def __init__(self, now: np.ndarray, before: np.ndarray | None, at: np.ndarray, stride: int) -> None:
        self.here, self.left, up = now[at], now[at - 1], now[at - stride]
        up_left, up_right = now[at - stride - 1], now[at - stride + 1]
        if before is None:  # a chunk's first frame: the row above stands for the frame before
            same, right, below, left2, above, above_left, above_right = (
                up, up_right, up, self.left, up, up_left, up_right
            )  # fmt: skip
        else:
            same, right, below, left2 = before[at], before[at + 1], before[at + stride], before[at - 2]
            above, above_left, above_right = (
                before[at - stride], before[at - stride - 1], before[at - stride + 1]
            )  # fmt: skip
        a = self.left
        bits = (
            same == a, above == up, up_right == a, up == a, right == a, now[at - 2 * stride - 1] == a,
            above_right == up_right, below == a, left2 == a, above_left == a,
        )  # fmt: skip
        self.context = np.zeros(len(at), np.int32)
        for bit, value in enumerate(bits):
            self.context |= value.astype(np.int32) << bit
        self.candidates = (up, same, up_right, right, below, up_left)

    def candidate(self, taken: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The first candidate that is none of `taken`, and its number, `_NONE` where there is none."""
        number = np.full(len(self.here), _NONE, np.int32)
        label = np.zeros(len(self.here), np.uint16)
        for index in reversed(range(_CANDIDATES)):
            new = np.ones(len(self.here), bool)
            for other in taken:
                new &= self.candidates[index] != other
            number[new], label[new] = index, self.candidates[index][new]
        return label, number


def _in_order(around: _Surroundings, exception: np.ndarray, gaps: np.ndarray) -> _Decisions:
    """All decisions of the coded pixels, one pixel after the other; the count to the first exception leads."""
    here, other = around.here, ~exception
    is_left = (here == around.left) & other
    second, second_number = around.candidate((around.left,))
    asks_second = ~is_left & other & (second_number != _NONE)
    is_second = asks_second & (here == second)
    third, third_number = around.candidate((around.left, second))
    asks_third = asks_second & ~is_second & (third_number != _NONE)
    is_third = asks_third & (here == third)
    spelled = ~(is_left | is_second | is_third)

    gap_length = np.frexp(gaps + 1.0)[1] - 1  # bits behind the leading one
    tail = np.zeros(len(here), np.int64)
    tail[exception] = 2 * gap_length[1:] + 1
    count = other.astype(np.int64) + asks_second + asks_third + 16 * spelled + tail
    first = 2 * int(gap_length[0]) + 1
    start = first + np.cumsum(count) - count
    context = np.zeros(first + int(count.sum()), np.int32)
    yes = np.zeros(len(context), bool)

    context[start[other]], yes[start[other]] = LEFT + around.context[other], is_left[other]
    at, chosen = (start + 1)[asks_second], second[asks_second]
    equal = sum(
        (around.candidates[index][asks_second] == chosen).astype(np.int32) << (index - 1) for index in range(1, 5)
    )
    context[at], yes[at] = OTHER + 16 * second_number[asks_second] + equal, is_second[asks_second]
    at = (start + 2)[asks_third]
    context[at], yes[at] = THIRD + third_number[asks_third], is_third[asks_third]
    at = (start + other + asks_second + asks_third)[spelled]
    for bit in range(16):
        context[at + bit], yes[at + bit] = LABEL + bit, (here[spelled] >> (15 - bit)) & 1
    _spell_gaps(context, yes, np.append(0, (start + count - tail)[exception]), gaps, gap_length)
    return _Decisions(context, yes)


def _spell_gaps(
    context: np.ndarray, yes: np.ndarray, at: np.ndarray, gaps: np.ndarray, length: np.ndarray
) -> None:
    """Counts as Elias gamma codes of count + 1, the length in ones that a zero ends, then the bits."""
    for bit in range(int(length.max()) + 1):
        asked, longer = length >= bit, length > bit
        context[at[asked] + bit], yes[at[asked] + bit] = GAP_LENGTH + bit, longer[asked]
        place = at[longer] + length[longer] + 1 + bit
        context[place] = GAP_BIT
        yes[place] = ((gaps[longer] + 1) >> (length[longer] - 1 - bit)) & 1


def _chunk(frames: list[_Decisions]) -> bytes:
    asked = sum(np.bincount(frame.context, minlength=CONTEXTS) for frame in frames)
    yes = sum(np.bincount(frame.context[frame.yes], minlength=CONTEXTS) for frame in frames)
    share = (yes + 0.4) / (asked + 0.8)
    level = np.clip(np.rint(127.5 + 15.3 * np.log(share / (1 - share))), 0, 255).astype(np.uint8)
    probability = LEVELS[level]
    states, words = _encode(frames, probability)
    sizes = np.array([len(one) for one in words], "<u4")
    coded = b"".join(np.uint32(s).astype("<u4").tobytes() + w.tobytes() for s, w in zip(states, words, strict=True))
    return level.tobytes() + sizes.tobytes() + coded


def _encode(frames: list[_Decisions], probability: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """All frames side by side, from their last decisions to their first.

    Returns:
        the states (frames,) uint64 below 2**32, and each frame's 16-bit words in reading order.
    """
    order = sorted(range(len(frames)), key=lambda index: -len(frames[index].context))
    steps = len(frames[order[0]].context)
    size = np.ones((steps, len(frames)), np.uint64)
    start = np.zeros((steps, len(frames)), np.uint64)
    active = np.zeros(steps, np.int64)
    for column, index in enumerate(order):
        frame = frames[index]
        chance = probability[frame.context].astype(np.uint64)
        rows = slice(len(chance))
        size[rows, column] = np.where(frame.yes, chance, _ONE - chance)
        start[rows, column] = np.where(frame.yes, 0, chance)
        active[rows] += 1
    limit = size << np.uint64(20)  # a state of at least this would grow past 32 bits
    out = np.full((steps, len(frames)), -1, np.int32)
    state = np.full(len(frames), 2**16, np.uint64)
    sixteen, twelve = np.uint64(16), np.uint64(12)
    for step in range(steps - 1, -1, -1):
        n = active[step]
        x = state[:n]
        full = x >= limit[step, :n]
        if full.any():
            out[step, :n][full] = (x[full] & np.uint64(0xFFFF)).astype(np.int32)
            x[full] >>= sixteen
        whole, rest = np.divmod(x, size[step, :n])
        state[:n] = (whole << twelve) + rest + start[step, :n]
    back = np.argsort(order)
    return state[back], [out[out[:, column] >= 0, column].astype("<u2") for column in back]
