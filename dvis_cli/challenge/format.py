"""What a challenge's format can do: be written, exported, validated and paired with ground truth for scoring."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from operator import methodcaller
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from dvis_cli.challenge.archive import FolderWriter, ZipWriter, zip_writer
from dvis_cli.challenge.problems import Problem, ValidationReport
from dvis_cli.challenge.writing import VideoWriter
from dvis_cli.config import TaskName
from dvis_cli.datasets.names import error_in, safe_name
from dvis_cli.datasets.parallel import parallel_map
from dvis_cli.errors import DatasetError, OutputError
from dvis_cli.export.result import find_results

Truth = TypeVar("Truth")
OnVideo = Callable[[str], None]


class Prediction(Protocol):
    """The prediction for one video of a ground truth; can be sent to another process."""

    @property
    def name(self) -> str: ...

    def problems(self) -> list[Problem]:
        """All that is wrong with it."""
        ...

    def feed(self, collectors: Mapping[str, Any]) -> None:
        """Add the video to metrics. Raises `DatasetError`."""
        ...


@dataclass(slots=True)
class ExportReport:
    """What was made."""

    path: Path
    videos: int = 0
    frames: int = 0
    unnamed: list[str] = field(default_factory=list)  # videos whose frames are numbered 000000, 000001, ...
    numbers: dict[str, int] = field(default_factory=dict)  # results.json: a result's name -> its video_id
    tubes: int = 0


class Format(ABC, Generic[Truth]):
    """A challenge's files.

    Attributes:
        task: what is predicted.
        truth_type: the class of its ground truth.
        parts: the hidden folder of a run with the parts of finished videos.
    """

    task: TaskName
    truth_type: type[Truth]
    parts: str

    @abstractmethod
    def writer(self, run: Path, video_id: str, number: int) -> VideoWriter:
        """The writer of one video; `number` is its place in the split, from 1."""

    @abstractmethod
    def assemble(self, run: Path, video_ids: Sequence[str]) -> Path:
        """Make what a scorer reads out of finished videos, in their order."""

    def finished(self, run: Path) -> set[str]:
        """The videos of a run that need not be done again."""
        return {path.stem for path in (run / self.parts).glob("*.json")}

    def complete(self, run: Path, video_ids: Sequence[str]) -> Path:
        """`assemble`, or OutputError where a video is not finished."""
        missing = sorted(set(video_ids) - self.finished(run))
        if missing:
            raise OutputError(f"{len(missing)} videos are not finished in {run}: {', '.join(missing[:5])}")
        return self.assemble(run, video_ids)

    def part_path(self, run: Path, video_id: str) -> Path:
        """The part of a finished video."""
        return run / self.parts / f"{video_id}.json"

    @abstractmethod
    def open_truth(self, path: Path, split: str) -> Truth:
        """Open a dataset's folder or json. Raises `DatasetError`."""

    @abstractmethod
    def checks(
        self, path: Path, truth: Truth, problems: list[Problem]
    ) -> tuple[Sequence[Prediction], list[Problem]]:
        """What is to be checked video by video, and what is there too much; other problems are added."""

    def validate(
        self, path: Path, truth: Truth, workers: int = 1, on_video: OnVideo = lambda name: None
    ) -> ValidationReport:
        """Check a submission.

        Args:
            path: the submission, a file or folder.
            truth: the split; its annotations are not needed.
            workers: processes.
            on_video: called as each video is done.

        Raises:
            DatasetError: `path` does not exist. Everything else is in the report.
        """
        report = ValidationReport(path, len(lengths(truth)), sum(lengths(truth).values()))
        try:
            checks, extras = self.checks(path, truth, report.problems)
        except DatasetError as error:
            if not path.exists():
                raise
            report.problems.append(Problem("archive", str(error)))
            return report
        for check, problems in zip(
            checks, parallel_map(methodcaller("problems"), checks, workers), strict=True
        ):
            report.problems += problems
            on_video(check.name)
        report.problems += extras
        return report

    @abstractmethod
    def pairs(self, path: Path, truth: Truth) -> Sequence[Prediction]:
        """Prediction and truth of every video, in the truth's order. Raises `DatasetError` where they do not fit."""

    @abstractmethod
    def collectors(self, truth: Truth, metrics: Sequence[str], windows: Sequence[int]) -> dict[str, Any]:
        """Empty metrics by name. Raises `UsageError` for one that is not known."""


def lengths(truth: Any) -> dict[str, int]:
    """The videos of a ground truth: names and numbers of frames."""
    return {video.name: len(video.stems) for video in truth.videos}


def results_in(run: Path) -> dict[str, Path]:
    """The result folders of `dvis segment` that a path names, by name. Raises `DatasetError` for an unsafe one."""
    return {safe_name(folder.name, "output folder"): folder for folder in find_results(run.resolve())}


@dataclass(frozen=True)
class RunVideo:
    """One video of a run; can be sent to another process."""

    name: str
    place: Path  # a result folder of `dvis segment`, or a submission


V = TypeVar("V", bound=RunVideo)


def videos_of(runs: Iterable[Path], find: Callable[[Path], Iterable[V]]) -> list[V]:
    """The videos of some runs, by name. Raises `DatasetError` where two runs have one of the same name."""
    found: dict[str, V] = {}
    for run in runs:
        for video in find(run):
            other = found.setdefault(video.name, video)
            if other != video:
                raise DatasetError(
                    f"video '{video.name}' is in {other.place} and in {video.place}; leave one out"
                )
    return [found[name] for name in sorted(found)]


# --- formats of PNGs ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExportFrame:
    """One frame on its way into a submission."""

    stem: str
    png: bytes
    entry: Any = None  # in the submission's json


class PngVideo(RunVideo, ABC):
    """One with a PNG a frame."""

    @abstractmethod
    def load(self) -> tuple[list[ExportFrame], bool]:
        """Its frames, and whether these have names of their own. Raises `DatasetError`."""


class PngFormat(Format[Truth]):
    """A format with a PNG a frame."""

    zip_only: bool

    @abstractmethod
    def find(self, run: Path) -> Iterable[PngVideo]:
        """The videos in a run. Raises `DatasetError`."""

    @abstractmethod
    def png_name(self, video_id: str, stem: str) -> str:
        """A PNG's path in the submission."""

    def index(self, archive: Any, entries: dict[str, str]) -> None:
        """Write what comes last: of each video, the json of its frames' entries."""

    def finished(self, run: Path) -> set[str]:
        return {name for name in super().finished(run) if (run / self.png_name(name, "")).parent.is_dir()}

    def export(
        self,
        runs: Sequence[Path],
        target: Path,
        overwrite: bool = False,
        workers: int = 1,
        on_video: Callable[[str, int], None] = lambda name, total: None,
    ) -> ExportReport:
        """Make a submission of earlier results.

        Args:
            runs: result folders of `dvis segment`, folders of them, or submissions, in any mix.
            target: the zip, or where the format allows it a folder. Folders are never replaced.
            overwrite: replace an existing zip.
            workers: processes.
            on_video: called as each video is in, with the number of all.

        Raises:
            DatasetError: a run holds no results, or two hold a video of the same name.
            OutputError: the target exists or cannot be written; nothing half-written stays.
        """
        videos = videos_of(runs, self.find)
        report, entries = ExportReport(target, len(videos)), dict[str, str]()
        zipped = self.zip_only or target.suffix.lower() == ".zip"
        opened: AbstractContextManager[ZipWriter | FolderWriter]
        opened = zip_writer(target, overwrite) if zipped else FolderWriter(target)
        with opened as archive:
            for video, (frames, named) in zip(videos, parallel_map(_load, videos, workers), strict=True):
                for frame in frames:
                    archive.write(self.png_name(video.name, frame.stem), frame.png)
                entries[video.name] = json.dumps([frame.entry for frame in frames])
                report.frames += len(frames)
                report.unnamed += [] if named else [video.name]
                on_video(video.name, len(videos))
            self.index(archive, entries)
        return report


def _load(video: PngVideo) -> tuple[list[ExportFrame], bool]:
    with error_in(f"video '{video.name}' in {video.place}"):
        return video.load()
