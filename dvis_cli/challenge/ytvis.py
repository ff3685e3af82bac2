"""YouTube-VIS and OVIS: `results.json`, alone or in a folder or zip.

One list of {video_id, category_id, score, segmentations}; segmentations has an entry for every frame of the video: a
mask as COCO run lengths, or null where there is none.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvis_cli.challenge.archive import open_archive, refuse_existing, zip_writer
from dvis_cli.challenge.format import ExportReport, Format, RunVideo, results_in, videos_of
from dvis_cli.challenge.metrics.instance import InstanceAP
from dvis_cli.challenge.problems import Problem
from dvis_cli.challenge.writing import VideoWriter, json_list, write_text
from dvis_cli.challenge.ytvis_truth import (
    InstanceTruth,
    InstanceVideo,
    mask_code,
    open_instance_truth,
)
from dvis_cli.coco_masks import rle
from dvis_cli.datasets.names import error_in
from dvis_cli.errors import DatasetError
from dvis_cli.export.result import open_result
from dvis_cli.structures import FinishedFrame, InstanceFrame, MaskTube, Segment

JSON_NAME = "results.json"
LARGEST_JSON = 4 * 2**30  # bytes
MOST_TUBES = 100  # of a class in a video that are scored


def tube_entry(number: int, tube: MaskTube, size: tuple[int, int]) -> dict[str, Any]:
    """A tube of `results.json`; `number` is its video's, `size` (height, width)."""
    return {
        "video_id": number,
        "category_id": tube.category_id,
        "score": tube.score,
        "segmentations": [None if counts is None else rle(counts, size) for counts in tube.frames],
    }


class YtvisWriter(VideoWriter):
    """Holds the run lengths of the whole video: some hundred bytes for a tube in a frame."""

    def __init__(self, part: Path, video_id: str, number: int) -> None:
        super().__init__(part, video_id)
        self.number, self._size = number, (0, 0)
        self._masks: list[Mapping[int, str]] = []

    def add(self, frame: FinishedFrame) -> None:
        assert isinstance(frame, InstanceFrame)
        self._size = (frame.rgb.shape[0], frame.rgb.shape[1])
        self._masks.append(frame.masks)

    def part(self, segments: Iterable[Segment]) -> list[dict[str, Any]]:
        tubes = [
            MaskTube(segment.category.id, [masks.get(segment.id) for masks in self._masks], segment.score)
            for segment in segments
        ]
        return [tube_entry(self.number, tube, self._size) for tube in tubes]


def read_results(path: Path) -> list[Any]:
    """The list in `results.json`, its entries not yet looked at.

    Raises:
        DatasetError: it is missing, no json, or no list.
    """
    if not path.exists():
        raise DatasetError(f"{path} does not exist; expected {JSON_NAME}, or a folder or zip with it")
    alone = path.is_file() and path.suffix.lower() != ".zip"
    with error_in(str(path)):
        archive = open_archive(path.parent if alone else path)
        entries = archive.read_json(path.name if alone else JSON_NAME, LARGEST_JSON)
    if not isinstance(entries, list):
        raise DatasetError(f"{path}: {JSON_NAME} must be a list of predictions")
    return entries


@dataclass(frozen=True)
class PredictedVideo:
    """The predictions for one video of the ground truth; can be sent to another process."""

    video: InstanceVideo
    known: frozenset[int]  # category ids
    entries: tuple[Any, ...] = ()  # of results.json
    folder: Path | None = None  # of `dvis segment`

    @property
    def name(self) -> str:
        return self.video.name

    def feed(self, collectors: Mapping[str, InstanceAP]) -> None:
        collectors["ap"].add_video(self.name, self.video.size, self.video.tubes(), self.tubes())

    def tubes(self) -> list[MaskTube]:
        """Read them. Raises `DatasetError` where they do not fit the video."""
        if self.folder is not None:
            return self._output_tubes(self.folder)
        problem = next(self._wrong_entries(), None)
        if problem is not None:
            where = f"video '{self.name}' (video_id {self.video.number})"
            raise DatasetError(f"{where}: {problem.message}")
        return [
            MaskTube(
                entry["category_id"],
                [mask_code(mask, self.video.size) for mask in entry["segmentations"]],
                float(entry["score"]),
            )
            for entry in self.entries
        ]

    def _output_tubes(self, folder: Path) -> list[MaskTube]:
        result = open_result(folder, "instance")
        size, count = (result.info.height, result.info.width), len(self.video.stems)
        if len(result) != count or size != self.video.size:
            raise DatasetError(
                f"{folder} has {len(result)} frames of {size[1]}x{size[0]} pixels, the ground truth "
                f"{count} of {self.video.size[1]}x{self.video.size[0]}"
            )
        if result.named and result.stems != self.video.stems:
            raise DatasetError(f"{folder}: its frames are not those of the ground truth, in its order")
        tubes = result.tubes()
        strange = sorted({tube.category_id for tube in tubes} - self.known)
        if strange:
            raise DatasetError(f"{folder} has classes that the ground truth does not know: {strange[:5]}")
        return tubes

    def problems(self) -> list[Problem]:
        """All that is wrong with the entries."""
        if not self.entries:
            return [Problem("no-tubes", "has no prediction", self.name)]
        categories = [entry.get("category_id") for entry in self.entries]
        counts = Counter(category for category in categories if type(category) is int)
        return [
            *self._wrong_entries(),
            *(
                Problem("many-tubes", f"has {count} tubes of category {category}", self.name)
                for category, count in counts.items()
                if count > MOST_TUBES
            ),
        ]

    def _wrong_entries(self) -> Iterator[Problem]:
        for entry in self.entries:
            category, score, masks = (entry.get(key) for key in ("category_id", "score", "segmentations"))
            if type(category) is not int or category not in self.known:
                yield Problem("unknown-category", f"category_id {category!r:.40} is not known", self.name)
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                yield Problem("tube", f"score {score!r:.40} is no number", self.name)
            if not isinstance(masks, list):
                yield Problem("tube", "segmentations is no list", self.name)
            elif len(masks) != len(self.video.stems):
                message = f"has {len(masks)} segmentations, the video {len(self.video.stems)} frames"
                yield Problem("mask-count", message, self.name)
            else:
                yield from self._wrong_masks(masks)

    def _wrong_masks(self, masks: list[Any]) -> Iterator[Problem]:
        for stem, mask in zip(self.video.stems, masks, strict=True):
            try:
                if isinstance(mask, list):
                    raise DatasetError("a predicted mask must be run lengths, not polygons")
                mask_code(mask, self.video.size)
            except DatasetError as error:
                yield Problem("mask", str(error), self.name, stem)


class YtvisFormat(Format[InstanceTruth]):
    """Video instance segmentation as the YouTube-VIS and OVIS servers read it."""

    task, truth_type, parts = "instance", InstanceTruth, ".tubes"
    open_truth = staticmethod(open_instance_truth)

    def writer(self, run: Path, video_id: str, number: int) -> YtvisWriter:
        return YtvisWriter(self.part_path(run, video_id), video_id, number)

    def assemble(self, run: Path, video_ids: Sequence[str]) -> Path:
        parts = (json.loads(self.part_path(run, name).read_text("utf-8")) for name in video_ids)
        write_text(run / JSON_NAME, _document(entry for part in parts for entry in part))
        return run / JSON_NAME

    def checks(
        self, path: Path, truth: InstanceTruth, problems: list[Problem]
    ) -> tuple[list[PredictedVideo], list[Problem]]:
        return _by_video(read_results(path), truth, problems), []

    def pairs(self, path: Path, truth: InstanceTruth) -> list[PredictedVideo]:
        if not truth.annotated:
            raise DatasetError(f"{truth.path} has no annotations (a test split?): nothing to compare with")
        folders = {} if (path / JSON_NAME).is_file() else results_in(path)
        if folders:
            missing = [video.name for video in truth.videos if video.name not in folders]
            if missing:
                raise DatasetError(
                    f"{path} has no result for {len(missing)} videos: {', '.join(missing[:5])}"
                )
            return [PredictedVideo(video, truth.known, folder=folders[video.name]) for video in truth.videos]
        problems: list[Problem] = []
        found = _by_video(read_results(path), truth, problems)
        if problems:
            raise DatasetError(f"{path}: {problems[0]}; the ground truth is {truth.path}")
        return found

    def collectors(
        self, truth: InstanceTruth, metrics: Sequence[str], windows: Sequence[int]
    ) -> dict[str, InstanceAP]:
        return {"ap": InstanceAP([category.id for category in truth.categories])}

    def export(
        self,
        runs: Sequence[Path],
        target: Path,
        truth: InstanceTruth | None = None,
        overwrite: bool = False,
        on_video: Callable[[str, int], None] = lambda name, total: None,
    ) -> ExportReport:
        """Make a submission of earlier results.

        Args:
            runs: result folders, folders of them, or submissions.
            target: a zip with `results.json` where its name ends in .zip, else the json itself.
            truth: gives the videos their numbers, else 1, 2, ... by name; frames and classes are checked against it.
            overwrite: replace an existing file.
            on_video: called as each result is in, with the number of all.

        Raises:
            DatasetError: a run holds no results, or of a video that the dataset does not have.
            OutputError: the target exists or cannot be written; nothing half-written stays.
        """
        refuse_existing(target, overwrite)
        files = [run for run in runs if run.is_file() or (run / JSON_NAME).is_file()]
        results = videos_of([run for run in runs if run not in files], _results)
        if results and files and truth is None:
            raise DatasetError(
                f"{files[0]} has numbers of videos and {results[0].place} has none; give the dataset with --gt"
            )
        report = ExportReport(target, numbers=_numbers(results, truth))

        def entries() -> Iterator[Any]:
            for file in files:
                yield from read_results(file)
            for result in results:
                tubes, size = _tubes_of(result, truth)
                for tube in sorted(tubes, key=lambda tube: -tube.score):
                    yield tube_entry(report.numbers[result.name], tube, size)
                on_video(result.name, len(results))

        def counted() -> Iterator[Any]:
            for report.tubes, entry in enumerate(entries(), start=1):
                yield entry

        if target.suffix.lower() == ".zip":
            with zip_writer(target, overwrite) as archive:
                archive.write_text(JSON_NAME, _document(counted()))
        else:
            write_text(target, _document(counted()))
        return report


def _by_video(entries: list[Any], truth: InstanceTruth, problems: list[Problem]) -> list[PredictedVideo]:
    """The entries of each video; those of no video are problems."""
    by_number: dict[int, list[Any]] = {video.number: [] for video in truth.videos}
    for position, entry in enumerate(entries):
        number = entry.get("video_id") if isinstance(entry, dict) else None
        if type(number) is int and number in by_number:
            by_number[number].append(entry)
        else:
            kind = "unknown-video" if isinstance(entry, dict) and "video_id" in entry else "tube"
            problems.append(Problem(kind, f"entry {position}: video_id {number!r:.40} is not known"))
    return [PredictedVideo(video, truth.known, tuple(by_number[video.number])) for video in truth.videos]


def _results(run: Path) -> list[RunVideo]:
    found = [RunVideo(name, folder) for name, folder in results_in(run).items()]
    if not found:
        raise DatasetError(f"{run} holds no results: expected segments.json in it, or {JSON_NAME}")
    return found


def _numbers(results: Sequence[RunVideo], truth: InstanceTruth | None) -> dict[str, int]:
    if truth is None:
        return {result.name: number for number, result in enumerate(results, start=1)}
    known = {video.name: video.number for video in truth.videos}
    strange = [result.name for result in results if result.name not in known]
    if strange:
        raise DatasetError(f"{truth.path} has no video '{strange[0]}'; folders must have the videos' names")
    return {result.name: known[result.name] for result in results}


def _tubes_of(result: RunVideo, truth: InstanceTruth | None) -> tuple[list[MaskTube], tuple[int, int]]:
    """A result's tubes, and their (height, width)."""
    if truth is None:
        opened = open_result(result.place, "instance")
        return opened.tubes(), (opened.info.height, opened.info.width)
    video = next(video for video in truth.videos if video.name == result.name)
    return PredictedVideo(video, truth.known, folder=result.place).tubes(), video.size


def _document(entries: Iterable[Any]) -> Iterator[str]:
    """The text of `results.json`, an entry a line."""
    return json_list("[\n", ",\n", "\n]\n", map(json.dumps, entries))


YTVIS = YtvisFormat()
