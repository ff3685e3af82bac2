"""What `dvis bench` measures, besides the options of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dvis_cli.errors import UsageError
from dvis_cli.run.options import option
from dvis_cli.run.units import parse_size

SIZE = (720, 1280)


def _size(text: str | None, name: str) -> tuple[int, int]:
    return SIZE if text is None else parse_size(text, name)


@dataclass(frozen=True)
class BenchSettings:
    """Raises UsageError when a value makes no sense."""

    size: tuple[int, int] = option(
        SIZE, "Pixels of the film that is made. Default: 720x1280.", metavar="HxW", parse=_size
    )
    frames: int | None = option(None, "Frames to measure. Default: 120 on a GPU, 6 on a CPU.")
    source: Path | None = option(
        None, "Measure with this video instead of a film made for it.", metavar="VIDEO"
    )
    against: Literal["transformers"] | None = option(
        None, "Run Hugging Face's Mask2Former of the same sizes beside it, in turn."
    )

    def __post_init__(self) -> None:
        if min(self.size) < 32 or self.size[0] % 2 or self.size[1] % 2:
            raise UsageError("--size {}x{}: expected even sides of 32 pixels or more".format(*self.size))
        if self.frames is not None and self.frames < 1:
            raise UsageError(f"--frames {self.frames} must be at least 1")
