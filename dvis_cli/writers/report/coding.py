"""Maps of a video as few bytes that a page turns back into the very same pixels.

A map is coded pixel by pixel from what the reader knows already: the pixels left and above, and the frame before.
Where all of these agree, a pixel costs nothing but a share of the count to the next exception. Elsewhere it is a few
yes-or-no decisions ("as on the left?", "as the next likely neighbour?"), each with the probability that it has in the
chunk in the same surroundings, coded by an asymmetric numeral system (Duda, arXiv:1311.2540). On maps of the bundled
model this takes half of what differences of run lengths with deflate do. `maps.js` is the reader.

A chunk, little-endian:

    contexts x u8            the level of each context's probability
    frames x u32             16-bit words of each frame, without its state
    frames x (u32, words)    the coder's state, then the words in reading order
"""

from __future__ import annotations

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


_YES = 1 << 15  # of a decision, beside its context
# Frames that are encoded in one go: the time for a step hardly depends on how many there are.
_SIDE_BY_SIDE = 128
_STEPS = 1024  # of them whose probabilities are looked up in one go


class MapCoder:
    """Codes the maps of a video, a chunk of frames at a time; each chunk can be read without the others.

    Memory: 2 bytes for each decision of 128 frames, 10 MB for a usual video of 1280x720.

    Args:
        height, width: of all maps, pixels.
        chunk_frames: frames of a chunk.
    """

    def __init__(self, height: int, width: int, chunk_frames: int = 32) -> None:
        self._size, self._chunk_frames = (height, width), chunk_frames
        self._previous: np.ndarray | None = None
        self._chunks: list[list[np.ndarray]] = []  # that wait, of each frame its decisions

    def add(self, labels: np.ndarray) -> list[bytes]:
        """Take one map; returns the chunks that are ready, in order.

        Args:
            labels: (height, width) integers 0..65535, as small as possible: rare new ones cost their bits.
        """
        ready: list[bytes] = []
        if not self._chunks or len(self._chunks[-1]) == self._chunk_frames:
            if sum(map(len, self._chunks)) >= _SIDE_BY_SIDE:
                ready = self.flush()
            self._chunks.append([])
            self._previous = None
        padded = _padded(labels)
        self._chunks[-1].append(_decisions(padded, self._previous, self._size))
        self._previous = padded
        return ready

    def flush(self) -> list[bytes]:
        """The chunks of all frames that wait; the last one may be shorter than the others."""
        chunks, self._chunks = self._chunks, []
        levels = [_levels(frames) for frames in chunks]
        frames = [(frame, level) for chunk, level in zip(chunks, levels, strict=True) for frame in chunk]
        coded = iter(_encode(frames) if frames else [])
        ready = []
        for chunk, level in zip(chunks, levels, strict=True):
            parts = [next(coded) for _ in chunk]
            sizes = np.array([len(words) for _, words in parts], "<u4")
            body = b"".join(state.tobytes() + words.tobytes() for state, words in parts)
            ready.append(level.tobytes() + sizes.tobytes() + body)
        return ready


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


def _decisions(padded: np.ndarray, previous: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """All decisions of a map in reading order, (n,) uint16: the context, and `_YES`."""
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
    surroundings = _Surroundings(
        padded.ravel(), None if previous is None else previous.ravel(), position, stride
    )
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


def _in_order(around: _Surroundings, exception: np.ndarray, gaps: np.ndarray) -> np.ndarray:
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
        (around.candidates[index][asks_second] == chosen).astype(np.int32) << (index - 1)
        for index in range(1, 5)
    )
    context[at], yes[at] = OTHER + 16 * second_number[asks_second] + equal, is_second[asks_second]
    at = (start + 2)[asks_third]
    context[at], yes[at] = THIRD + third_number[asks_third], is_third[asks_third]
    at = (start + other + asks_second + asks_third)[spelled]
    for bit in range(16):
        context[at + bit], yes[at + bit] = LABEL + bit, (here[spelled] >> (15 - bit)) & 1
    _spell_gaps(context, yes, np.append(0, (start + count - tail)[exception]), gaps, gap_length)
    return context.astype(np.uint16) | (yes.astype(np.uint16) << 15)


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


def _levels(frames: list[np.ndarray]) -> np.ndarray:
    """(contexts,) uint8: how likely "yes" is in each context, over all of a chunk's decisions."""
    asked, yes = np.zeros(CONTEXTS), np.zeros(CONTEXTS)
    for frame in frames:
        context = frame & (_YES - 1)
        asked += np.bincount(context, minlength=CONTEXTS)
        yes += np.bincount(context[frame >= _YES], minlength=CONTEXTS)
    share = (yes + 0.4) / (asked + 0.8)
    return np.clip(np.rint(127.5 + 15.3 * np.log(share / (1 - share))), 0, 255).astype(np.uint8)


def _encode(frames: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Encode frames side by side, from their last decisions to their first.

    Args:
        frames: decisions, and levels of their contexts.

    Returns:
        of each frame the coder's state, a `<u4`, and its words, `<u2`, in reading order.
    """
    order = sorted(range(len(frames)), key=lambda index: -len(frames[index][0]))
    lengths = np.array([len(frames[index][0]) for index in order])
    steps, state = int(lengths[0]), np.full(len(frames), 2**16, np.uint64)
    out = np.full((steps, len(frames)), -1, np.int32)
    low, sixteen, twelve = np.uint64(0xFFFF), np.uint64(16), np.uint64(12)
    for begin in range((steps - 1) // _STEPS * _STEPS, -1, -_STEPS):
        size, start = _intervals([frames[index] for index in order], begin)
        limit = size << np.uint64(20)  # a state of at least this would grow past 32 bits
        for row in range(len(size) - 1, -1, -1):
            n = int(np.searchsorted(-lengths, -(begin + row)))  # frames with more decisions than this
            x = state[:n]
            full = x >= limit[row, :n]
            if full.any():
                out[begin + row, :n][full] = x[full] & low
                x[full] >>= sixteen
            whole, rest = np.divmod(x, size[row, :n])
            state[:n] = (whole << twelve) + rest + start[row, :n]
    back = np.argsort(order)
    return [(state[column].astype("<u4"), out[out[:, column] >= 0, column].astype("<u2")) for column in back]


def _intervals(frames: list[tuple[np.ndarray, np.ndarray]], begin: int) -> tuple[np.ndarray, np.ndarray]:
    """Size and start, in 1/4096, of what `_STEPS` decisions of each frame say: (steps, frames) uint64 each."""
    steps = min(_STEPS, len(frames[0][0]) - begin)
    size = np.ones((steps, len(frames)), np.uint64)
    start = np.zeros((steps, len(frames)), np.uint64)
    for column, (decisions, level) in enumerate(frames):
        part = decisions[begin : begin + steps]
        chance, yes = LEVELS[level][part & (_YES - 1)], part >= _YES
        size[: len(part), column] = np.where(yes, chance, _ONE - chance)
        start[: len(part), column] = np.where(yes, 0, chance)
    return size, start
