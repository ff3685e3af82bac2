"""The clips of the recipe: where each comes from, its working size, and what of it is held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

POSE_WIDTH, POSE_HEIGHT = 432, 768  # the videos are 1080 or 1088 x 1920, turned upright


@dataclass(frozen=True)
class Clip:
    """One source video. ``width`` and ``height`` are the working size in pixels; ``path`` is relative to raw/."""

    name: str
    path: str
    width: int
    height: int
    frames: int
    train: tuple[int, int] | None  # first and one-past-last frame that may be trained on
    val: tuple[int, int] | None  # the same for the held-out part
    step: int = 1  # every step-th frame goes into the data set


def _pose(kind: str, camera: int) -> Clip:
    """A clip of a room that is never trained on."""
    name = f"{'single' if kind == 'SinglePerson' else 'multi'}{camera}"
    path = f"pose2sim/Pose2Sim/Demo_{kind}/videos/cam0{camera}.mp4"
    return Clip(name, path, POSE_WIDTH, POSE_HEIGHT, 100, None, (0, 100), step=2)  # 60 frames/s


POSE = [_pose(kind, 3) for kind in ("SinglePerson", "MultiPerson")]
VTEST = Clip(
    "vtest",
    "opencv-doc/usr/share/doc/opencv-doc/examples/data/vtest.avi",
    768,
    576,
    795,
    (0, 600),
    (645, 795),
)
CLIPS = {clip.name: clip for clip in [*POSE, VTEST]}


def frame_path(root: Path, clip: str, index: int) -> Path:
    return root / "frames" / clip / f"{index:05d}.jpg"
