"""Results of `dvis segment --task instance` -> one `results.json` as YouTube-VIS and OVIS servers read it.

A run is any of: a result (a folder with `segments.json` and `masks.jsonl`); a folder of such; a `results.json`, or a
folder or zip with one. A video's number is the dataset's where its json is given, else its place by name, from 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvis_cli.datasets.instances import InstanceTruth
from dvis_cli.datasets.outputs import output_folders, output_tubes, read_output
from dvis_cli.datasets.results import JSON_NAME, PredictedVideo, read_results
from dvis_cli.errors import DatasetError, OutputError
from dvis_cli.structures import MaskTube
from dvis_cli.writers.run_parts import write_whole
from dvis_cli.writers.submission_zip import ZipTarget
from dvis_cli.writers.ytvis_submission import tube_entry


@dataclass(slots=True)
class YtvisReport:
    """What was made."""

    path: Path
    numbers: dict[str, int] = field(default_factory=dict)  # name of a result's folder -> its video_id
    tubes: int = 0


def export_ytvis(
    runs: Sequence[Path],
    target: Path,
    truth: InstanceTruth | None = None,
    overwrite: bool = False,
    on_video: Callable[[str], None] = lambda name: None,
) -> YtvisReport:
    """Make a submission.

    Args:
        runs: results, see the module.
        target: a zip with `results.json` where its name ends in .zip, else the json itself.
        truth: the dataset, for its numbers of the videos; frames and classes are checked against it.
        overwrite: replace an existing file.
        on_video: called as each result's folder is in.

    Raises:
        DatasetError: a run is not what it should be, or of a video that the dataset does not have.
        OutputError: the target exists or cannot be written; nothing half-written stays.
    """
    if target.is_dir() or (target.exists() and not overwrite):
        raise OutputError(f"{target} already exists; add --overwrite to replace it, or choose another name")
    folders, files = find_results(runs)
    if folders and files and truth is None:
        raise DatasetError(
            f"{files[0]} has numbers of videos and {folders[0]} has none; give the dataset with --gt"
        )
    report = YtvisReport(target, _numbers(folders, truth))
    pieces = _pieces(report, folders, files, truth, on_video)
    if target.suffix.lower() == ".zip":
        with ZipTarget(target, overwrite) as archive:
            archive.write_text(JSON_NAME, pieces)
    else:
        write_whole(target, pieces)
    return report


def find_results(runs: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Result folders by name, and runs with a `results.json`.

    Raises:
        DatasetError: a run holds neither, or two hold a video of the same name.
    """
    folders: dict[str, Path] = {}
    files = []
    for run in runs:
        if run.is_file() or (run / JSON_NAME).is_file():
            files.append(run)
            continue
        found = output_folders(run) if run.is_dir() else []
        if not found:
            raise DatasetError(f"{run} holds no results: expected segments.json in it, or {JSON_NAME}")
        for folder in found:
            other = folders.setdefault(folder.name, folder)
            if other != folder:
                raise DatasetError(f"video '{folder.name}' is in {other} and in {folder}; leave one out")
    return [folders[name] for name in sorted(folders)], files


def _numbers(folders: Sequence[Path], truth: InstanceTruth | None) -> dict[str, int]:
    if truth is None:
        return {folder.name: number for number, folder in enumerate(folders, start=1)}
    known = {video.name: video.number for video in truth.videos}
    strange = [folder.name for folder in folders if folder.name not in known]
    if strange:
        raise DatasetError(f"{truth.path} has no video '{strange[0]}'; folders must have the videos' names")
    return {folder.name: known[folder.name] for folder in folders}


def _pieces(
    report: YtvisReport,
    folders: Sequence[Path],
    files: Sequence[Path],
    truth: InstanceTruth | None,
    on_video: Callable[[str], None],
) -> Iterator[str]:
    """The text of `results.json`, an entry a line, one video at a time in memory."""
    yield "["
    for entry in _entries(report.numbers, folders, files, truth, on_video):
        yield ("\n" if report.tubes == 0 else ",\n") + json.dumps(entry)
        report.tubes += 1
    yield "\n]\n"


def _entries(
    numbers: dict[str, int],
    folders: Sequence[Path],
    files: Sequence[Path],
    truth: InstanceTruth | None,
    on_video: Callable[[str], None],
) -> Iterator[Any]:
    for file in files:
        yield from read_results(file)
    by_number = {video.number: video for video in truth.videos} if truth else {}
    for folder in folders:
        number = numbers[folder.name]
        if truth is None:
            size, tubes = output_tubes(read_output(folder, "instance"))
        else:
            size = by_number[number].size
            tubes = PredictedVideo(by_number[number], truth.known, folder=folder).tubes()
        for tube in _best_first(tubes):
            yield tube_entry(number, tube.category_id, tube.score, tube.frames, size)
        on_video(folder.name)


def _best_first(tubes: Sequence[MaskTube]) -> list[MaskTube]:
    return sorted(tubes, key=lambda tube: -tube.score)
