"""Will the VIPSeg scorer take this submission? All that is wrong with it at once, in the scorer's terms.

`check_layout` looks at names, counts, orders and PNG headers and is quick; `check_pixels` decodes every PNG.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dvis_cli.datasets.frame_check import Finding, check_pixels, check_segments
from dvis_cli.datasets.id_map import PngHeader, decode_ids
from dvis_cli.datasets.names import safe_name, stem_of
from dvis_cli.datasets.parallel import parallel_map
from dvis_cli.datasets.problems import UNSCORED, Problem, ValidationReport
from dvis_cli.datasets.submission import (
    JSON_NAME,
    Submission,
    open_submission,
    png_name,
    unexpected_members,
)
from dvis_cli.datasets.vipseg import VIPSeg, VIPSegFrame, VIPSegVideo
from dvis_cli.errors import DatasetError


@dataclass(frozen=True, slots=True)
class VideoTask:
    """One video of the ground truth and the entries that `pred.json` has for it."""

    video: VIPSegVideo
    entries: tuple[Any, ...]


def validate_submission(
    path: Path,
    dataset: VIPSeg,
    workers: int = 1,
    on_video: Callable[[str], None] = lambda video_id: None,
) -> ValidationReport:
    """Check a submission against the ground truth's json (its PNGs are not needed).

    Args:
        path: folder or zip.
        dataset: the split.
        workers: processes.
        on_video: called as each video is done.

    Raises:
        DatasetError: `path` does not exist. Everything else is in the report.
    """
    report = ValidationReport(path, len(dataset.videos), sum(len(video.frames) for video in dataset.videos))
    opened = _open(path, report)
    if opened is None:
        return report
    submission, entries = opened
    tasks = _pair_videos(dataset, entries, report.problems)
    categories = frozenset(category.id for category in dataset.categories)
    found = parallel_map(partial(_check_video, path, categories), tasks, workers)
    for task, problems in zip(tasks, found, strict=True):
        report.problems += problems
        on_video(task.video.video_id)
    _find_extras(submission, dataset, entries, report.problems)
    return report


def check_before_scoring(path: Path, dataset: VIPSeg) -> tuple[list[Problem], dict[str, tuple[Any, ...]]]:
    """All that would make a scorer stop, short of decoding pixels.

    Returns:
        The problems, and for every video of `pred.json` its frames. Without problems these are in the ground
        truth's order, with segments that have usable ids and known categories.
    """
    report = ValidationReport(path)
    opened = _open(path, report)
    if opened is None:
        return report.problems, {}
    submission, entries = opened
    categories = frozenset(category.id for category in dataset.categories)
    for task in _pair_videos(dataset, entries, report.problems):
        for frame, entry, _ in check_layout(submission, task, report.problems):
            findings: list[Finding] = []
            if entry is not None:
                check_segments(entry, categories, {}, findings)
            report.problems += [Problem(*found, task.video.video_id, frame.stem) for found in findings]
    return [problem for problem in report.problems if problem.kind not in UNSCORED], entries


def _open(path: Path, report: ValidationReport) -> tuple[Submission, dict[str, tuple[Any, ...]]] | None:
    if not path.exists():
        raise DatasetError(f"{path} does not exist; expected a folder or zip with {JSON_NAME} and pan_pred/")
    try:
        submission = open_submission(path)
    except DatasetError as error:
        report.problems.append(Problem("archive", str(error)))
        return None
    report.problems += [Problem("archive", f"{name} {what}") for name, what in submission.complaints]
    try:
        return submission, _entries_by_video(submission.annotations(), report.problems)
    except DatasetError as error:
        report.problems.append(Problem("json", str(error)))
        return None


def _entries_by_video(annotations: list[Any], problems: list[Problem]) -> dict[str, tuple[Any, ...]]:
    videos: dict[str, tuple[Any, ...]] = {}
    for position, entry in enumerate(annotations):
        try:
            name = safe_name(entry.get("video_id") if isinstance(entry, dict) else None, "video_id")
        except DatasetError as error:
            problems.append(Problem("json", f"annotations[{position}]: {error}"))
            continue
        frames = entry.get("annotations")
        if not isinstance(frames, list):
            problems.append(Problem("json", "has no list of annotations", name))
        elif name in videos:
            problems.append(Problem("json", "is in pred.json twice", name))
        else:
            videos[name] = tuple(frames)
    return videos


def _pair_videos(
    dataset: VIPSeg, entries: Mapping[str, tuple[Any, ...]], problems: list[Problem]
) -> list[VideoTask]:
    tasks = []
    for video in dataset.videos:
        if video.video_id not in entries:
            problems.append(Problem("missing-video", "has no prediction in pred.json", video.video_id))
            continue
        light = tuple(replace(frame, segments=()) for frame in video.frames)
        tasks.append(VideoTask(VIPSegVideo(video.video_id, light), entries[video.video_id]))
    return tasks


def check_layout(
    submission: Submission, task: VideoTask, problems: list[Problem]
) -> list[tuple[VIPSegFrame, Mapping[str, Any] | None, bool]]:
    """Pair a video's frames and look at their files.

    Returns:
        For every true frame: the frame, its entry in `pred.json` (None if there is none), and whether its PNG
        is worth decoding.
    """
    video_id, stems = task.video.video_id, [frame.stem for frame in task.video.frames]
    entries = _entries_by_frame(task, problems)
    if len(task.entries) != len(stems):
        message = f"has {len(task.entries)} frames, the ground truth {len(stems)}"
        absent = [stem for stem in stems if stem not in entries]
        problems.append(Problem("frame-count", message + _some(", missing", absent), video_id))
    strange = [name for name in entries if name not in set(stems)]
    problems += [Problem("frame-name", "is no frame of the ground truth", video_id, name) for name in strange]
    expected = [stem for stem in stems if stem in entries]
    found = [name for name in entries if name in set(stems)]
    if expected != found:
        first = next(i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b)
        message = f"frame {first} is {found[first]}, the ground truth has {expected[first]} there"
        problems.append(Problem("frame-order", message, video_id))
    there = submission.pngs_of(video_id)
    return [
        (frame, entries.get(frame.stem), _check_file(submission, video_id, frame, there, problems))
        for frame in task.video.frames
    ]


def _entries_by_frame(task: VideoTask, problems: list[Problem]) -> dict[str, Mapping[str, Any]]:
    """File stem -> entry, in the order of `pred.json`."""
    entries: dict[str, Mapping[str, Any]] = {}
    for position, entry in enumerate(task.entries):
        name = entry.get("file_name") if isinstance(entry, dict) else None
        try:
            stem = stem_of(safe_name(name, "file_name"))
        except DatasetError as error:
            problems.append(Problem("json", f"annotations[{position}]: {error}", task.video.video_id))
            continue
        if stem in entries:
            problems.append(Problem("json", "is in pred.json twice", task.video.video_id, stem))
        entries.setdefault(stem, entry)
    return entries


def _check_file(
    submission: Submission, video_id: str, frame: VIPSegFrame, there: set[str], problems: list[Problem]
) -> bool:
    if f"{frame.stem}.png" not in there:
        message = f"{png_name(video_id, frame.stem)} is missing"
        problems.append(Problem("missing-png", message, video_id, frame.stem))
        return False
    try:
        header = PngHeader.parse(submission.png_header(video_id, frame.stem))
    except DatasetError as error:
        problems.append(Problem("damaged-png", str(error), video_id, frame.stem))
        return False
    size = header.width, header.height
    try:
        header.check(frame.width, frame.height)
    except DatasetError as error:
        kind = "png-format" if size == (frame.width, frame.height) else "size"
        problems.append(Problem(kind, f"the PNG {error}", video_id, frame.stem))
        return False
    return True


def _check_video(path: Path, categories: frozenset[int], task: VideoTask) -> list[Problem]:
    submission, video_id = open_submission(path), task.video.video_id
    problems: list[Problem] = []
    classes: dict[int, int] = {}
    for frame, entry, readable in check_layout(submission, task, problems):
        findings: list[Finding] = []
        if entry is not None:
            segments = check_segments(entry, categories, classes, findings)
            if readable and segments is not None:
                try:
                    data = submission.png(video_id, frame.stem, frame.width, frame.height)
                    check_pixels(decode_ids(data, frame.width, frame.height), segments, findings)
                except DatasetError as error:
                    findings.append(("damaged-png", str(error)))
        problems += [Problem(kind, message, video_id, frame.stem) for kind, message in findings]
    return problems


def _find_extras(
    submission: Submission, dataset: VIPSeg, entries: Iterable[str], problems: list[Problem]
) -> None:
    known = {video.video_id for video in dataset.videos}
    extra = sorted((set(entries) | submission.videos()) - known)
    problems += [Problem("extra-video", "is not in the ground truth", name) for name in extra]
    expected = {png_name(video.video_id, frame.stem) for video in dataset.videos for frame in video.frames}
    problems += [
        Problem("extra-file", f"{name} is not looked for by the scorer")
        for name in unexpected_members(submission, expected)
        if name.split("/")[1:2] not in [[video_id] for video_id in extra]
    ]


def _some(label: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{label} {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
