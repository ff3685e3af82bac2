"""Earlier results of `dvis segment` -> one VIPSeg submission.

A run is any of: a folder with `segments.json` and `panoptic/`; a folder of such folders; a submission (folder
or zip with `pred.json` and `pan_pred/`). Areas and boxes are measured again on the PNGs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvis_cli.datasets.id_map import LARGEST_SIDE, PngHeader, decode_ids
from dvis_cli.datasets.names import read_json, safe_name, stem_of
from dvis_cli.datasets.parallel import parallel_map
from dvis_cli.datasets.submission import JSON_NAME, open_submission, png_name
from dvis_cli.errors import DatasetError
from dvis_cli.writers.submission_zip import SubmissionZip
from dvis_cli.writers.vipseg_submission import frame_annotation

OUTPUT_JSON = "segments.json"
LARGEST_PNG = 2**30  # bytes


@dataclass(frozen=True, slots=True)
class ExportedVideo:
    """One video that goes into the zip, and where it comes from."""

    video_id: str
    run: Path  # its output folder, or the submission it is in
    frames: list[Any] | None = None  # of a submission: its frames in `pred.json`


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What is in the zip."""

    path: Path
    videos: int
    frames: int
    unnamed: tuple[str, ...]  # videos whose frames have no source names: numbered 000000, 000001, ...


def find_videos(runs: Sequence[Path]) -> list[ExportedVideo]:
    """The videos in some runs, by name.

    Raises:
        DatasetError: a run holds none, or two hold a video of the same name.
    """
    found: dict[str, ExportedVideo] = {}
    for run in runs:
        videos = list(_videos_in(run))
        if not videos:
            raise DatasetError(
                f"{run} holds no results: expected {OUTPUT_JSON} in it or in its folders, or {JSON_NAME}"
            )
        for video in videos:
            other = found.setdefault(video.video_id, video)
            if other != video:
                raise DatasetError(
                    f"video '{video.video_id}' is in {other.run} and in {video.run}; leave one out"
                )
    return [found[name] for name in sorted(found)]


def export_vipseg(
    runs: Sequence[Path],
    target: Path,
    overwrite: bool = False,
    workers: int = 1,
    on_video: Callable[[str], None] = lambda video_id: None,
) -> ExportReport:
    """Make a submission zip.

    Args:
        runs: results, see the module.
        target: the zip.
        overwrite: replace an existing one.
        workers: processes.
        on_video: called as each video is in.

    Raises:
        DatasetError: a run is not what it should be.
        OutputError: the zip exists or cannot be written; nothing half-written stays.
    """
    videos, total, unnamed = find_videos(runs), 0, []
    with SubmissionZip(target, overwrite) as archive:
        for video, (frames, named) in zip(videos, parallel_map(_load, videos, workers), strict=True):
            archive.add_video(video.video_id, frames)
            total += len(frames)
            if not named:
                unnamed.append(video.video_id)
            on_video(video.video_id)
    return ExportReport(target, len(videos), total, tuple(unnamed))


def _videos_in(run: Path) -> Iterator[ExportedVideo]:
    if not run.exists():
        raise DatasetError(f"{run} does not exist")
    if run.is_file() or (run / JSON_NAME).is_file():
        for entry in open_submission(run).annotations():
            name = entry.get("video_id") if isinstance(entry, dict) else None
            frames = entry.get("annotations") if isinstance(entry, dict) else None
            yield ExportedVideo(safe_name(name, f"{run}: video_id"), run.resolve(), frames or [])
        return
    outputs = (
        [run]
        if (run / OUTPUT_JSON).is_file()
        else sorted(path.parent for path in run.glob(f"*/{OUTPUT_JSON}"))
    )
    for folder in outputs:
        folder = folder.resolve()
        yield ExportedVideo(safe_name(folder.name, "output folder"), folder)


def _load(video: ExportedVideo) -> tuple[list[tuple[bytes, dict[str, Any]]], bool]:
    """The frames of a video for `SubmissionZip.add_video`, and whether they have names of their own."""
    try:
        return _load_output(video.run) if video.frames is None else _load_submitted(video, video.frames)
    except DatasetError as error:
        raise DatasetError(f"video '{video.video_id}' in {video.run}: {error}") from error


def _load_output(folder: Path) -> tuple[list[tuple[bytes, dict[str, Any]]], bool]:
    document = read_json(folder / OUTPUT_JSON)
    try:
        categories = {int(segment["id"]): int(segment["category_id"]) for segment in document["segments"]}
        files = [frame["file_name"] for frame in document["frames"]]
        names = [frame.get("source_name") for frame in document["frames"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DatasetError(f"{OUTPUT_JSON} is not one of dvis segment") from None
    if document.get("task", "panoptic") != "panoptic":
        raise DatasetError(f"is a result of --task {document['task']}; dvis export ytvis and vspw take these")
    if None in files:
        raise DatasetError("was made without PNGs; run dvis segment again with them")
    frames = []
    for file, name in zip(files, names, strict=True):
        stem = safe_name(stem_of(file) if name is None else name, "frame name")
        path = folder / "panoptic" / safe_name(file, "file_name")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
        frames.append((data, _annotate(data, stem, categories)))
    if len({annotation["file_name"] for _, annotation in frames}) != len(frames):
        raise DatasetError("two frames have the same source name")
    return frames, None not in names


def _load_submitted(
    video: ExportedVideo, entries: list[Any]
) -> tuple[list[tuple[bytes, dict[str, Any]]], bool]:
    submission = open_submission(video.run)
    frames = []
    try:
        for frame in entries:
            stem = stem_of(safe_name(frame["file_name"], "file_name"))
            categories = {segment["id"]: segment["category_id"] for segment in frame["segments_info"]}
            data = submission.read(png_name(video.video_id, stem), LARGEST_PNG)
            frames.append((data, _annotate(data, stem, categories)))
    except (KeyError, TypeError):
        raise DatasetError(f"{JSON_NAME} is not what a scorer reads; dvis validate tells more") from None
    return frames, True


def _annotate(data: bytes, stem: str, categories: dict[int, int]) -> dict[str, Any]:
    header = PngHeader.parse(data)
    if not (0 < header.width <= LARGEST_SIDE and 0 < header.height <= LARGEST_SIDE):
        raise DatasetError(f"frame {stem}: {header.width}x{header.height} pixels are too many")
    try:
        return frame_annotation(stem, decode_ids(data, header.width, header.height), categories)
    except DatasetError as error:
        raise DatasetError(f"frame {stem}: {error}") from error
    except KeyError as error:
        raise DatasetError(f"frame {stem}: id {error.args[0]} is in the PNG and not in the json") from None
