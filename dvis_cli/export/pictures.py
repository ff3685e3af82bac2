"""The source's pixels beside a finished result: each frame gets the picture that it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from dvis_cli.errors import VideoError
from dvis_cli.structures import FinishedFrame, Frame, VideoInfo
from dvis_cli.video import Selection, open_video

from .result import Result

SAME_TIME = 2e-3  # seconds: times nearer than this are the same frame's; files keep six decimals
BEFORE = 1.0  # seconds before the first frame where reading begins


def with_pictures(result: Result, source: Path | None = None) -> Iterator[FinishedFrame]:
    """The result's frames with their `rgb`.

    Args:
        source: the film or folder of images; None is where it was when the result was made.

    Raises:
        VideoError: it is not there, has another size, or lacks a frame.
    """
    path = source or Path(result.info.path)
    if source is None and not path.exists():
        raise VideoError(
            f"{path}, the film of {result.folder}, is not there any more: name it with --source FILE"
        )
    pictures = _Reader(path, result)
    for frame in result:
        yield replace(frame, rgb=pictures.of(frame))


class _Reader:
    """Frames of the source, looked up in order by name or time."""

    def __init__(self, path: Path, result: Result) -> None:
        self._path = path
        video = open_video(path, folder_fps=result.info.fps)
        start = 0.0 if result.named or not len(result) else result.pts[0] - video.info.start - BEFORE
        if start > 0:
            video = open_video(path, Selection(start=start), folder_fps=result.info.fps)
        self._check_size(video.info, result.info)
        self._frames: Iterator[Frame] = iter(video)

    def of(self, frame: FinishedFrame) -> np.ndarray:
        """(height, width, 3) uint8 of the frame; frames come in order."""
        for candidate in self._frames:
            if frame.name is not None and candidate.name == frame.name:
                return candidate.rgb
            if frame.name is None and candidate.pts >= frame.pts - SAME_TIME:
                if candidate.pts > frame.pts + SAME_TIME:
                    break
                return candidate.rgb
        at = f"frame {frame.index} ({frame.name or f'{frame.pts:.3f} s'})"
        raise VideoError(f"{self._path} has no {at} of the result: it is another film, or was changed since")

    def _check_size(self, found: VideoInfo, wanted: VideoInfo) -> None:
        if (found.width, found.height) != (wanted.width, wanted.height):
            raise VideoError(
                f"{self._path} is {found.width}x{found.height}, the result {wanted.width}x{wanted.height}: "
                "it is another film, or was changed since"
            )
