"""The report page of a finished result: from its files, and the source's pictures where the source still is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import av

from dvis_cli.demux import open_media
from dvis_cli.errors import DvisWarning, UsageError, VideoError
from dvis_cli.structures import FinishedFrame
from dvis_cli.video import open_video
from dvis_cli.writers.report import NO_FILM, REPORT_PAGE, Film, ReportPage

from .result import Result, open_result

OVERLAY_NAME = "overlay.mp4"
_SAME_TIME = 1.5e-6  # seconds: segments.json has microseconds


class _OtherFrames(Exception):
    """The source does not have the result's frames."""


def write_report(
    folder: str | Path, source: str | Path | None = None, on_frame: Callable[[int], None] | None = None
) -> Path:
    """Write `report.html` into a result folder, with the film that it plays.

    The film is a copy of the source's frames. Where the source is gone or has other frames, the page plays overlay.mp4,
    or shows the segments alone; a `DvisWarning` tells which.

    Args:
        folder: a result of `dvis segment`.
        source: the video or folder of images, None: where segments.json says it was.
        on_frame: told how many frames are done.

    Returns:
        the page.

    Raises:
        DatasetError: the folder is no result, or damaged.
        OutputError: a file cannot be written.
    """
    result = open_result(folder)
    path = Path(result.info.path if source is None else source)
    try:
        _write(result, _with_pictures(result, path), None, path if result.info.has_audio else None, on_frame)
    except (_OtherFrames, VideoError, UsageError) as error:
        film = _overlay(result)
        instead = "shows the segments without a film" if film is NO_FILM else f"plays {OVERLAY_NAME} instead"
        warnings.warn(
            f"{error}; the report {instead}; name the source with --source", DvisWarning, stacklevel=2
        )
        _write(result, result, film, None, on_frame)
    return result.folder / REPORT_PAGE


def _write(
    result: Result,
    frames: Iterable[FinishedFrame],
    film: Film | None,
    audio_from: Path | None,
    on_frame: Callable[[int], None] | None,
) -> None:
    page = ReportPage(
        result.folder, result.info, {"task": result.task, **result.facts}, film=film, audio_from=audio_from
    )
    try:
        for frame in frames:
            page.add(frame)
            if on_frame:
                on_frame(frame.index + 1)
        page.finish()
    except BaseException:
        page.abort()
        raise


def _with_pictures(result: Result, path: Path) -> Iterator[FinishedFrame]:
    """The result's frames with the source's pixels, found by their times."""
    info = result.info
    source = open_video(path, folder_fps=info.fps)
    if (source.info.width, source.info.height) != (info.width, info.height):
        raise _OtherFrames(
            f"{path} is {source.info.width}x{source.info.height} pixels, the result {info.width}x{info.height}"
        )
    pictures = iter(source)
    for frame in result:
        for picture in pictures:
            if picture.pts > frame.pts - _SAME_TIME:
                break
        else:
            raise _OtherFrames(f"{path} ends before frame {frame.index} of the result")
        if abs(picture.pts - frame.pts) > _SAME_TIME or picture.rgb.shape[:2] != (info.height, info.width):
            raise _OtherFrames(f"{path} has no frame at {frame.pts:.6f} s, where the result has one")
        yield replace(frame, rgb=picture.rgb)


def _overlay(result: Result) -> Film:
    """overlay.mp4, unless it shows two pictures side by side."""
    path = result.folder / OVERLAY_NAME
    try:
        with open_media(path) as container:
            width = container.streams.video[0].width
    except (OSError, av.FFmpegError, IndexError):
        return NO_FILM
    return Film(OVERLAY_NAME, "overlay") if width <= result.info.width + 1 else NO_FILM
