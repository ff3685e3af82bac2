"""Predicted instances: `results.json` as YouTube-VIS and OVIS have it, or what `dvis segment` wrote.

results.json, alone, in a folder or in a zip: a list of {video_id, category_id, score, segmentations}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dvis_cli.datasets.instances import InstanceTruth, InstanceVideo, mask_code
from dvis_cli.datasets.outputs import output_folders, output_tubes, read_output
from dvis_cli.datasets.parallel import parallel_map
from dvis_cli.datasets.problems import Problem, ValidationReport
from dvis_cli.datasets.submission import open_submission
from dvis_cli.errors import DatasetError
from dvis_cli.structures import MaskTube

JSON_NAME = "results.json"
LARGEST_JSON = 4 * 2**30  # bytes
LOOKED_AT = 100  # tubes of a class in a video


@dataclass(frozen=True)
class PredictedVideo:
    """The predictions for one video of the ground truth; can be sent to another process."""

    video: InstanceVideo
    known: frozenset[int]  # category ids
    entries: tuple[Any, ...] = ()  # of results.json
    folder: Path | None = None  # of `dvis segment`

    def tubes(self) -> list[MaskTube]:
        """Read them.

        Raises:
            DatasetError: they do not fit the video.
        """
        if self.folder is None:
            return [parse_tube(entry, self.video, self.known) for entry in self.entries]
        output = read_output(self.folder, "instance")
        size, tubes = output_tubes(output)
        count = len(self.video.stems)
        if len(output.stems) != count or size != self.video.size:
            raise DatasetError(
                f"{self.folder} has {len(output.stems)} frames of {size[1]}x{size[0]} pixels, the ground truth "
                f"{count} of {self.video.size[1]}x{self.video.size[0]}"
            )
        if output.named and output.stems != self.video.stems:
            raise DatasetError(f"{self.folder}: its frames are not those of the ground truth, in its order")
        strange = sorted({tube.category_id for tube in tubes} - self.known)
        if strange:
            raise DatasetError(
                f"{self.folder} has classes that the ground truth does not know: {strange[:5]}"
            )
        return tubes


def find_predictions(path: Path, truth: InstanceTruth) -> list[PredictedVideo]:
    """The predictions for every video of the ground truth, in its order.

    Raises:
        DatasetError: there are none, or they are of other videos.
    """
    folders = output_folders(path) if path.is_dir() and not (path / JSON_NAME).is_file() else []
    if folders:
        by_name = {folder.name: folder for folder in folders}
        missing = [video.name for video in truth.videos if video.name not in by_name]
        if missing:
            raise DatasetError(f"{path} has no result for {len(missing)} videos: {', '.join(missing[:5])}")
        return [PredictedVideo(v, truth.known, folder=by_name[v.name]) for v in truth.videos]
    by_number: dict[int, list[Any]] = {video.number: [] for video in truth.videos}
    for entry in read_results(path):
        number = entry.get("video_id") if isinstance(entry, dict) else None
        if type(number) is not int or number not in by_number:
            raise DatasetError(f"{path}: video_id {number!r:.40} is not in {truth.path}")
        by_number[number].append(entry)
    return [PredictedVideo(v, truth.known, tuple(by_number[v.number])) for v in truth.videos]


def read_results(path: Path) -> list[Any]:
    """The list in `results.json`, its entries not yet looked at.

    Raises:
        DatasetError: it is missing, no json, or no list.
    """
    try:
        if path.is_file() and path.suffix.lower() != ".zip":
            if path.stat().st_size > LARGEST_JSON:
                raise DatasetError(f"is larger than the {LARGEST_JSON} bytes it may have")
            data = path.read_bytes()
        elif path.exists():
            data = open_submission(path).read(JSON_NAME, LARGEST_JSON)
        else:
            raise DatasetError(f"does not exist; expected {JSON_NAME}, or a folder or zip with it")
        entries = json.loads(data)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: {JSON_NAME} is not json: {error}") from error
    if not isinstance(entries, list):
        raise DatasetError(f"{path}: {JSON_NAME} must be a list of predictions")
    return entries


def parse_tube(entry: Any, video: InstanceVideo, known: frozenset[int]) -> MaskTube:
    """One entry of `results.json`. Raises `DatasetError` with the first problem."""
    problems = list(_problems_of(entry, video, known))
    if problems:
        raise DatasetError(f"video '{video.name}' (video_id {video.number}): {problems[0].message}")
    codes = [mask_code(mask, video.size) for mask in entry["segmentations"]]
    return MaskTube(entry["category_id"], codes, float(entry["score"]))


def validate_results(
    path: Path,
    truth: InstanceTruth,
    workers: int = 1,
    on_video: Callable[[str], None] = lambda name: None,
) -> ValidationReport:
    """Check `results.json` against the videos and categories of a ground truth (annotations are not needed).

    Args:
        path: the json, or a folder or zip with it.
        truth: the split.
        workers: processes.
        on_video: called as each video is done.

    Raises:
        DatasetError: `path` does not exist. Everything else is in the report.
    """
    if not path.exists():
        raise DatasetError(f"{path} does not exist; expected {JSON_NAME}, or a folder or zip with it")
    report = ValidationReport(path, len(truth.videos), sum(len(video.stems) for video in truth.videos))
    try:
        entries = read_results(path)
    except DatasetError as error:
        report.problems.append(Problem("archive", str(error)))
        return report
    by_number: dict[int, list[Any]] = {video.number: [] for video in truth.videos}
    for position, entry in enumerate(entries):
        number = entry.get("video_id") if isinstance(entry, dict) else None
        if type(number) is int and number in by_number:
            by_number[number].append(entry)
        else:
            kind = "unknown-video" if isinstance(entry, dict) and "video_id" in entry else "tube"
            report.problems.append(Problem(kind, f"entry {position}: video_id {number!r:.40} is not known"))
    tasks = [(video, tuple(by_number[video.number])) for video in truth.videos]
    found = parallel_map(partial(_check_video, truth.known), tasks, workers)
    for (video, _), problems in zip(tasks, found, strict=True):
        report.problems += problems
        on_video(video.name)
    return report


def _check_video(known: frozenset[int], task: tuple[InstanceVideo, tuple[Any, ...]]) -> list[Problem]:
    video, entries = task
    if not entries:
        return [Problem("no-tubes", "has no prediction", video.name)]
    problems = [problem for entry in entries for problem in _problems_of(entry, video, known)]
    counts: dict[Any, int] = {}
    for entry in entries:
        category = entry.get("category_id")
        if type(category) is int:
            counts[category] = counts.get(category, 0) + 1
    problems += [
        Problem("many-tubes", f"has {count} tubes of category {category}", video.name)
        for category, count in counts.items()
        if count > LOOKED_AT
    ]
    return problems


def _problems_of(entry: Any, video: InstanceVideo, known: frozenset[int]) -> list[Problem]:
    """All that is wrong with one entry."""
    if not isinstance(entry, dict):
        return [Problem("tube", f"{entry!r:.40} is no object", video.name)]
    problems = []
    category, score, masks = (entry.get(key) for key in ("category_id", "score", "segmentations"))
    if type(category) is not int or category not in known:
        problems.append(Problem("unknown-category", f"category_id {category!r:.40} is not known", video.name))
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        problems.append(Problem("tube", f"score {score!r:.40} is no number", video.name))
    if not isinstance(masks, list):
        return [*problems, Problem("tube", "segmentations is no list", video.name)]
    if len(masks) != len(video.stems):
        message = f"has {len(masks)} segmentations, the video {len(video.stems)} frames"
        return [*problems, Problem("mask-count", message, video.name)]
    for stem, mask in zip(video.stems, masks, strict=True):
        try:
            if isinstance(mask, list):
                raise DatasetError("a predicted mask must be run lengths, not polygons")
            mask_code(mask, video.size)
        except DatasetError as error:
            problems.append(Problem("mask", str(error), video.name, stem))
    return problems
