"""How clips are cut from videos and changed before a network sees them, as data."""

from __future__ import annotations

from dataclasses import dataclass

from dvis_cli.errors import ConfigError


@dataclass(frozen=True)
class ClipSettings:
    """The defaults are those of the published training, except `frames`, `crop` and `reverse` (per stage)."""

    frames: int = 1  # of a clip; published: 1 segmenter, 5 tracker, 21 refiner
    short_sides: tuple[int, ...] = tuple(range(480, 801, 32))  # pixels; one is drawn per clip
    long_side: int = 1333  # pixels at the most, wins over the short side
    crop: tuple[int, ...] | None = None  # (height, width) of a random crop, one per clip; refiner: 608 x 608
    flip: bool = True  # mirror half of the clips, left and right
    reverse: bool = False  # play half of the clips backwards; published: the refiner's
    color: float = 0.0  # strength 0..1 of changed brightness, contrast, saturation and tint, one per clip
    motion: float = 1.0  # strength of the camera motion that makes clips of single images, 0 = none

    def __post_init__(self) -> None:
        for name, value in (("frames", self.frames), ("long_side", self.long_side)):
            if value < 1:
                raise ConfigError(f"clips.{name}={value} must be at least 1")
        if not self.short_sides or min(self.short_sides) < 1:
            raise ConfigError(f"clips.short_sides={list(self.short_sides)} must be pixel sizes of 1 or more")
        if self.crop is not None and (len(self.crop) != 2 or min(self.crop) < 1):
            raise ConfigError(f"clips.crop={list(self.crop)} must be a height and a width in pixels")
        if not 0 <= self.color <= 1:
            raise ConfigError(f"clips.color={self.color} must lie in 0..1")
        if not 0 <= self.motion <= 10:
            raise ConfigError(f"clips.motion={self.motion} must lie in 0..10")
