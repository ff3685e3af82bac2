"""The report page of a finished result: from its files, and the source's pictures where the source still is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import av

from dvis_cli.demux import open_media
from dvis_cli.errors import DvisWarning, UsageError, VideoError
from dvis_cli.structures import FinishedFrame
from dvis_cli.writers.instance_picture import SHOWN_FROM
from dvis_cli.writers.report import NO_FILM, REPORT_PAGE, Film, ReportPage

from .pictures import with_pictures
from .result import Result, open_result

OVERLAY_NAME = "overlay.mp4"


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
    result, path = open_result(folder), None if source is None else Path(source)
    try:
        audio = (path or Path(result.info.path)) if result.info.has_audio else None
        _write(result, with_pictures(result, path), None, audio, on_frame)
    except (VideoError, UsageError) as error:
        film = _overlay(result)
        instead = "shows the segments without a film" if film is NO_FILM else f"plays {OVERLAY_NAME} instead"
        warnings.warn(f"{error}; until then the report {instead}", DvisWarning, stacklevel=2)
        _write(result, result, film, None, on_frame)
    return result.folder / REPORT_PAGE


def _write(
    result: Result,
    frames: Iterable[FinishedFrame],
    film: Film | None,
    audio_from: Path | None,
    on_frame: Callable[[int], None] | None,
) -> None:
    shown_from = (result.facts.get("thresholds") or {}).get("score") or SHOWN_FROM
    run = {**result.facts, "task": result.task}
    page = ReportPage(
        result.folder, result.info, run, film=film, audio_from=audio_from, shown_from=shown_from
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


def _overlay(result: Result) -> Film:
    """overlay.mp4, unless it shows two pictures side by side."""
    path = result.folder / OVERLAY_NAME
    try:
        with open_media(path) as container:
            width = container.streams.video[0].width
    except (OSError, av.FFmpegError, IndexError):
        return NO_FILM
    return Film(OVERLAY_NAME, "overlay") if width <= result.info.width + 1 else NO_FILM
