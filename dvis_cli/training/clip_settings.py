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
    paste: float = 0.0  # share of the single frames into which objects of other pictures are pasted
    pasted: tuple[str, ...] = ()  # names of the classes of these objects; none: every thing
    motion: float = 1.0  # strength of the camera motion that makes clips of single images, 0 = none

    def __post_init__(self) -> None:
        for name, count in (("frames", self.frames), ("long_side", self.long_side)):
            if count < 1:
                raise ConfigError(f"clips.{name}={count} must be at least 1")
        if not self.short_sides or min(self.short_sides) < 1:
            raise ConfigError(f"clips.short_sides={list(self.short_sides)} must be pixel sizes of 1 or more")
        if self.crop is not None and (len(self.crop) != 2 or min(self.crop) < 1):
            raise ConfigError(f"clips.crop={list(self.crop)} must be a height and a width in pixels")
        for name, value in (("color", self.color), ("paste", self.paste)):
            if not 0 <= value <= 1:
                raise ConfigError(f"clips.{name}={value} must lie in 0..1")
        if self.paste and self.frames > 1:
            raise ConfigError(f"clips.paste={self.paste} is for clips of one frame, not of {self.frames}")
        if not 0 <= self.motion <= 10:
            raise ConfigError(f"clips.motion={self.motion} must lie in 0..10")
