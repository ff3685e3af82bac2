"""What the folders of unfinished submissions have in common: a part of each finished video, in a hidden folder.

A part is written last of what belongs to a video, so that a second run can skip the videos that have one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from dvis_cli.errors import OutputError
from dvis_cli.files import output_errors
from dvis_cli.structures import FinishedFrame


def check_video_id(video_id: str) -> None:
    """Raise OutputError for what cannot be the name of a video's folder, or would be a hidden one."""
    if not video_id or Path(video_id).name != video_id or video_id.startswith("."):
        raise OutputError(f"{video_id!r} cannot be the name of a video's folder")


def part_path(run: Path, parts: str, video_id: str) -> Path:
    """Where the part of a video is."""
    return run / parts / f"{video_id}.json"


def videos_with_parts(run: Path, parts: str) -> set[str]:
    """The videos that have a part."""
    folder = run / parts
    return {path.stem for path in folder.glob("*.json")} if folder.is_dir() else set()


def check_complete(run: Path, video_ids: Iterable[str], finished: set[str]) -> None:
    """Raise OutputError unless all videos are finished."""
    missing = sorted(set(video_ids) - finished)
    if missing:
        raise OutputError(f"{len(missing)} videos are not finished in {run}: {', '.join(missing[:5])}")


def write_whole(path: Path, pieces: Iterable[str]) -> None:
    """Write a text file that appears whole or not at all, its folder made when needed."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("w", encoding="utf-8") as file:
                file.writelines(pieces)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_pngs(folder: Path) -> None:
    """Remove a video's folder that was left half-finished. Raises OutputError where other files are in it."""
    foreign = [path.name for path in folder.iterdir() if path.suffix != ".png"]
    if foreign:
        raise OutputError(f"{folder} holds files that are not ours ({foreign[0]}); choose another folder")
    with output_errors(folder):
        shutil.rmtree(folder)


def stem_of(frame: FinishedFrame) -> str:
    """A frame's file name without suffix."""
    return frame.name if frame.name is not None else f"{frame.index:06d}"
