"""A synthetic split on disk, in VIPSeg's 720P layout.

What each finished video adds to the json is kept in `OUT/.synth/`, so that a second run goes on where the
first one stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dvis_cli.datasets.categories import vipseg_by_id
from dvis_cli.datasets.names import read_json
from dvis_cli.datasets.parallel import parallel_map
from dvis_cli.datasets.synthetic import classes
from dvis_cli.datasets.synthetic.plan import plan_scene
from dvis_cli.datasets.synthetic.rendering import paint_video
from dvis_cli.datasets.synthetic.settings import Settings
from dvis_cli.datasets.vipseg import JSON_PREFIX, split_document
from dvis_cli.errors import DatasetError, OutputError, UsageError
from dvis_cli.files import atomic_open, atomic_text

LEDGER = ".synth"  # folder of what each finished video adds to the json
GENERATOR = 1  # raised when the same settings make other pictures
QUALITY = 92  # of the JPEGs
MOST_VIDEOS = 99_999


def write_dataset(
    out: Path,
    settings: Settings,
    videos: int,
    workers: int = 1,
    on_video: Callable[[str], None] = lambda video_id: None,
) -> int:
    """Write a split; videos in `out` that an earlier call with the same settings finished are kept.

    Args:
        out: folder of the 720P layout.
        settings: what is to be seen; together with a video's number they determine every byte.
        videos: how many, 1..99999.
        workers: processes.
        on_video: called with its id as each video is done.

    Returns:
        How many videos were found finished.

    Raises:
        UsageError: `videos` is out of range.
        OutputError: `out` cannot be written, or holds this split from elsewhere or with other settings.
    """
    if not 1 <= videos <= MOST_VIDEOS:
        raise UsageError(f"videos {videos}: must be 1..{MOST_VIDEOS}")
    entries: dict[str, Any] = {}
    kept = 0
    try:
        _claim(out, settings, videos)
        for entry, resumed in parallel_map(partial(write_video, out, settings), range(videos), workers):
            entries[entry["video_id"]] = entry
            kept += resumed
            on_video(entry["video_id"])
        categories = [vipseg_by_id()[id] for id in sorted(classes.THINGS + classes.STUFF)]
        document = split_document(entries, categories)
        atomic_text(out / f"{JSON_PREFIX}{settings.split}.json", json.dumps(document))
    except OSError as error:
        raise OutputError(f"cannot write {error.filename or out}: {error.strerror or error}") from error
    return kept


def write_video(out: Path, settings: Settings, index: int) -> tuple[dict[str, Any], bool]:
    """Paint and write video `index`, or find that this was done before.

    Returns:
        Its part of the json, and whether it was found.
    """
    video_id = f"{settings.split}_{index:05d}"
    images, masks = out / "images" / video_id, out / "panomasksRGB" / video_id
    ledger = out / LEDGER / f"{video_id}.json"
    entry = _finished(ledger, images, masks, settings.frames)
    if entry is not None:
        return entry, True
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the workers are the threads
    try:
        entry = _write_frames(video_id, images, masks, settings, index)
    finally:
        cv2.setNumThreads(threads)
    atomic_text(ledger, json.dumps(entry))
    return entry, False


def _write_frames(video_id: str, images: Path, masks: Path, settings: Settings, index: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"video_id": video_id, "images": [], "annotations": []}
    for number, painted in enumerate(paint_video(plan_scene(settings, index))):
        stem = f"{number:08d}"
        _write(images / f"{stem}.jpg", painted.image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        _write(masks / f"{stem}.png", painted.ids, [])
        entry["images"].append(
            {"id": stem, "width": settings.width, "height": settings.height, "file_name": f"{stem}.png"}
        )
        entry["annotations"].append(
            {"image_id": stem, "file_name": f"{stem}.png", "segments_info": painted.segments}
        )
    return entry


def _claim(out: Path, settings: Settings, videos: int) -> None:
    """Refuse a split that others made, else note the settings so that a later run can go on."""
    note, json_path = out / LEDGER / f"{settings.split}.json", out / f"{JSON_PREFIX}{settings.split}.json"
    mine = {"generator": GENERATOR, **asdict(settings)}
    advice = "name another folder or --split"
    if note.is_file():
        there = read_json(note)
        if not isinstance(there, dict) or there.get("generator") != GENERATOR:
            raise OutputError(f"{out}: split '{settings.split}' is of another version of dvis; {advice}")
        other = [f"{key} {there.get(key)}" for key, value in mine.items() if there.get(key) != value]
        if other:
            raise OutputError(f"{out}: split '{settings.split}' was made with {', '.join(other)}; {advice}")
    elif json_path.exists():
        raise OutputError(f"{json_path} exists and was not made by dvis dataset synth; {advice}")
    further = out / LEDGER / f"{settings.split}_{videos:05d}.json"
    if further.is_file():
        raise OutputError(f"{out}: split '{settings.split}' holds more than {videos} videos; {advice}")
    note.parent.mkdir(parents=True, exist_ok=True)
    atomic_text(note, json.dumps(mine))


def _finished(ledger: Path, images: Path, masks: Path, frames: int) -> dict[str, Any] | None:
    """The json part of a video whose files are all there."""
    try:
        entry = read_json(ledger)
        stems = [image["id"] for image in entry["images"]]
    except (DatasetError, KeyError, TypeError):
        return None
    paths = [images / f"{stem}.jpg" for stem in stems] + [masks / f"{stem}.png" for stem in stems]
    return entry if len(stems) == frames and all(path.is_file() for path in paths) else None


def _write(path: Path, rgb: npt.NDArray[np.uint8], options: list[int]) -> None:
    done, content = cv2.imencode(path.suffix, rgb[..., ::-1], options)
    if not done:
        raise OutputError(
            f"a frame of {rgb.shape[0]}x{rgb.shape[1]} pixels cannot be encoded as {path.suffix}"
        )
    with atomic_open(path, "wb") as file:
        file.write(content.tobytes())
