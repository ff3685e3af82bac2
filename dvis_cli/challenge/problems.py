"""What can be wrong with a submission, and the report of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

KINDS = {
    "archive": "the file cannot be read as a submission",
    "json": "pred.json is not what the scorer reads",
    "missing-video": "a video of the ground truth has no prediction",
    "extra-video": "a video is not in the ground truth (ignored by the scorer)",
    "frame-count": "a video has more or fewer frames than the ground truth",
    "frame-order": "frames are not in the ground truth's order; the scorer pairs them by order",
    "frame-name": "a frame has a name that the ground truth's video does not have",
    "missing-png": "a frame has no PNG under the ground truth's name",
    "damaged-png": "a PNG cannot be decoded",
    "png-format": "a PNG is not 8-bit RGB",
    "size": "a PNG has not the size of the ground truth",
    "id-not-in-json": "an id is in a PNG and not in pred.json",
    "id-not-in-png": "an id is in pred.json and not in the PNG",
    "bad-id": "an id is no whole number 1..16777215, or listed twice in a frame",
    "unknown-category": "a category_id is not in the ground truth's categories",
    "class-change": "an id has different classes in one video",
    "area": "an area is not the number of pixels in the PNG",
    "box": "a box is not the extent of the pixels in the PNG",
    "extra-file": "a file that the scorer does not look for (ignored)",
    "png-channels": "a PNG has not one channel of 8 bits",
    "unknown-class": "a PNG has a value that is no class",
    "tube": "an entry of results.json is not {video_id, category_id, score, segmentations}",
    "unknown-video": "a video_id is not in the ground truth",
    "mask-count": "a tube has not one mask (or null) for every frame of its video",
    "mask": "a mask is not a run-length code of the video's size",
    "no-tubes": "a video has no prediction (its objects count as missed)",
    "many-tubes": "a video has more tubes of one class than are looked at (the likeliest 100 are)",
}
HARMLESS = frozenset({"extra-video", "extra-file", "no-tubes", "many-tubes"})
UNSCORED = HARMLESS | {"class-change", "area", "box"}  # wrong, but the scorer does not stop at it


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    kind: str  # one of KINDS
    message: str
    video: str | None = None
    frame: str | None = None  # file stem

    @property
    def harmless(self) -> bool:
        """The scorer does not mind."""
        return self.kind in HARMLESS

    def __str__(self) -> str:
        where = "/".join(part for part in (self.video, self.frame) if part)
        return f"{where}: {self.message}" if where else self.message


@dataclass(slots=True)
class ValidationReport:
    """What was looked at and what was found."""

    path: Path
    videos: int = 0  # of the ground truth
    frames: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the scorer will take it."""
        return all(problem.harmless for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """The report as one json document."""
        problems = [asdict(problem) | {"harmless": problem.harmless} for problem in self.problems]
        counts = {"videos": self.videos, "frames": self.frames}
        return {"file": str(self.path), "valid": self.ok, **counts, "problems": problems}
