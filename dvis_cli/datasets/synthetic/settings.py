"""What all videos of a synthetic split share."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np

from dvis_cli.datasets.names import safe_name
from dvis_cli.errors import DatasetError, UsageError

SIDES = (32, 4096)  # pixels, smallest and largest
LONGEST = 10_000  # frames of a video
SLIMMEST = 4  # longer side against shorter
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Settings:
    """Size, length and difficulty; checked when made.

    Raises:
        UsageError: a value out of range, or a split that is no plain name.
    """

    height: int  # pixels, 32..4096
    width: int
    frames: int = 24  # of a video, 1..10000
    seed: int = 0  # 0..2^63-1
    split: str = "train"  # splits of one seed hold different videos
    difficulty: float = 0.5  # 0 easy .. 1 hard: speed, encounters, likeness, bursts of blur and noise

    def __post_init__(self) -> None:
        size = f"{self.height}x{self.width}"
        if not all(SIDES[0] <= side <= SIDES[1] for side in (self.height, self.width)):
            raise UsageError(f"size {size}: both sides must be {SIDES[0]}..{SIDES[1]} pixels")
        if max(self.height, self.width) > SLIMMEST * min(self.height, self.width):
            raise UsageError(f"size {size}: one side may be at most {SLIMMEST} times the other")
        if not 1 <= self.frames <= LONGEST:
            raise UsageError(f"frames {self.frames}: a video has 1..{LONGEST} frames")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"seed {self.seed}: must be 0..{LARGEST_SEED}")
        if not 0 <= self.difficulty <= 1:
            raise UsageError(f"difficulty {self.difficulty}: must be 0 (easy) to 1 (hard)")
        try:
            safe_name(self.split, "split")
        except DatasetError as error:
            raise UsageError(str(error)) from error

    @property
    def unit(self) -> float:
        """Pixels of a unit: 128 in a frame of 128x224, in others by the square root of the area."""
        return float(np.sqrt(self.height * self.width / 1.75))

    def random(self, index: int, purpose: int = 0) -> np.random.Generator:
        """The random numbers of video `index`, for one purpose."""
        return np.random.default_rng([self.seed, crc32(self.split.encode()), index, purpose])
