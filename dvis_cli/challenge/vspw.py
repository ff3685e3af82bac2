"""VSPW: `<video>/<stem>.png`, folder or zip, one 8-bit channel of class ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dvis_cli.challenge.archive import open_archive
from dvis_cli.challenge.format import ExportFrame, PngFormat, results_in
from dvis_cli.challenge.metrics.semantic import Semantics
from dvis_cli.challenge.problems import Problem
from dvis_cli.challenge.vspw_truth import (
    IGNORE,
    ClassMap,
    SemanticTruth,
    TruthMaps,
    check_header,
    decode_classes,
    open_semantic_truth,
)
from dvis_cli.challenge.writing import VideoWriter
from dvis_cli.datasets.id_map import HEADER_BYTES, PngHeader
from dvis_cli.datasets.names import stem_of
from dvis_cli.errors import DatasetError, OutputError
from dvis_cli.export.result import open_result
from dvis_cli.structures import FinishedFrame, InstanceFrame, Segment
from dvis_cli.writers.semantic_png import write_class_png


class VspwWriter(VideoWriter):
    """PNGs, and a mark that they are complete."""

    def __enter__(self) -> VspwWriter:
        self._frames = 0
        return super().__enter__()

    def add(self, frame: FinishedFrame) -> None:
        assert not isinstance(frame, InstanceFrame)
        classes = {id: segment.category.id for id, segment in frame.segments.items()}
        unfit = [number for number in classes.values() if not 0 <= number < IGNORE]
        if unfit:
            raise OutputError(
                f"category id {unfit[0]} does not fit VSPW's maps: ids must lie in 0..{IGNORE - 1}"
            )
        write_class_png(self.new_png(frame), frame.ids, classes)
        self._frames += 1

    def part(self, segments: Iterable[Segment]) -> dict[str, Any]:
        return {"video_id": self.video_id, "frames": self._frames}


@dataclass(frozen=True)
class _PredictedMaps:
    """The predicted maps of one video; can be sent to another process."""

    place: Path  # a result folder, or a submission, folder or zip
    name: str
    stems: tuple[str, ...]
    files: tuple[str, ...]  # paths in `place`
    named: bool = True  # the stems are the source's, not numbers

    def read(self, position: int) -> bytes:
        """The PNG of a frame. Raises `DatasetError`."""
        return open_archive(self.place).read(self.files[position])

    def load(self) -> tuple[list[ExportFrame], bool]:
        frames = [ExportFrame(stem, self.read(place)) for place, stem in enumerate(self.stems)]
        for frame in frames:
            try:
                check_header(PngHeader.parse(frame.png))
            except DatasetError as error:
                raise DatasetError(f"frame '{frame.stem}': the map {error}") from error
        return frames, self.named

    def positions(self, stems: Sequence[str]) -> list[int | None]:
        """The prediction of each true frame: by name, and by order where frames have no names."""
        if not self.named and len(self.stems) == len(stems):
            return list(range(len(stems)))
        by_stem = {stem: position for position, stem in enumerate(self.stems)}
        return [by_stem.get(stem) for stem in stems]


def find_maps(path: Path) -> dict[str, _PredictedMaps]:
    """Predicted maps by video: of a submission, or of results of `dvis segment`.

    Raises:
        DatasetError: there is nothing of the kind.
    """
    found = {}
    for name, folder in results_in(path).items():
        result = open_result(folder, "semantic")
        found[name] = _PredictedMaps(folder, name, result.stems, tuple(result.pngs), result.named)
    if not found:
        archive = open_archive(path, "a folder or zip with <video>/<stem>.png")
        for name in sorted(archive.folders()):
            files = sorted(file for file in archive.names(name) if file.endswith(".png"))
            stems, members = tuple(map(stem_of, files)), tuple(f"{name}/{file}" for file in files)
            if files:
                found[name] = _PredictedMaps(path.resolve(), name, stems, members)
    if not found:
        raise DatasetError(f"{path} holds no maps: expected <video>/<stem>.png, or results of dvis segment")
    return found


@dataclass(frozen=True)
class _Video:
    """The true and the predicted maps of one video; can be sent to another process."""

    truth: TruthMaps
    prediction: _PredictedMaps | None
    classes: frozenset[int]

    @property
    def name(self) -> str:
        return self.truth.name

    @property
    def positions(self) -> list[int | None]:
        """Of each true frame, the prediction's frame."""
        return self.prediction.positions(self.truth.stems) if self.prediction else []

    def feed(self, collectors: Mapping[str, Semantics]) -> None:
        collectors["semantic"].add_video(self.name, self.frames())

    def frames(self) -> Iterator[tuple[ClassMap, ClassMap]]:
        """Truth and prediction of each frame. Raises `DatasetError` where one cannot be read."""
        for place, position in enumerate(self.positions):
            assert self.prediction is not None and position is not None
            try:
                predicted = decode_classes(self.prediction.read(position))
            except DatasetError as error:
                raise DatasetError(f"{self.name}/{self.truth.stems[place]}: {error}") from error
            yield self.truth.read(place), predicted

    def problems(self) -> list[Problem]:
        if self.prediction is None:
            return [Problem("missing-video", "has no maps", self.name)]
        found = [
            self._problem(place, stem, self.prediction, position)
            for place, (stem, position) in enumerate(zip(self.truth.stems, self.positions, strict=True))
        ]
        taken = set(self.positions)
        extra = [stem for place, stem in enumerate(self.prediction.stems) if place not in taken]
        return [
            *(problem for problem in found if problem is not None),
            *(Problem("extra-file", "is no frame of the ground truth", self.name, stem) for stem in extra),
        ]

    def _problem(
        self, place: int, stem: str, prediction: _PredictedMaps, position: int | None
    ) -> Problem | None:
        """The first thing that is wrong with a map."""
        if position is None:
            return Problem("missing-png", "has no map", self.name, stem)
        height, width = self.truth.size(place)
        kind = "damaged-png"
        try:
            archive = open_archive(prediction.place)
            header = PngHeader.parse(archive.read(prediction.files[position], head=HEADER_BYTES))
            if (header.height, header.width) != (height, width):
                message = f"the PNG is {header.width}x{header.height} pixels, must be {width}x{height}"
                return Problem("size", message, self.name, stem)
            kind = "png-channels"
            check_header(header)
            kind = "damaged-png"
            values: list[Any] = np.unique(decode_classes(prediction.read(position))).tolist()
        except DatasetError as error:
            return Problem(kind, str(error), self.name, stem)
        strange = [value for value in values if value not in self.classes]
        if strange:
            return Problem("unknown-class", f"values {strange[:5]} are no classes", self.name, stem)
        return None


class VspwFormat(PngFormat[SemanticTruth]):
    """Video semantic segmentation as VSPW's server reads it."""

    task, truth_type, parts, zip_only = "semantic", SemanticTruth, ".maps", False

    def writer(self, run: Path, video_id: str, number: int = 0) -> VspwWriter:
        return VspwWriter(self.part_path(run, video_id), video_id, run / video_id)

    def assemble(self, run: Path, video_ids: Sequence[str]) -> Path:
        return run

    def png_name(self, video_id: str, stem: str) -> str:
        return f"{video_id}/{stem}.png"

    def find(self, run: Path) -> list[_PredictedMaps]:
        return list(find_maps(run).values())

    def open_truth(self, path: Path, split: str) -> SemanticTruth:
        return open_semantic_truth(path, split)

    def lengths(self, truth: SemanticTruth) -> dict[str, int]:
        return {video.name: len(video.stems) for video in truth.videos}

    def describe(self, truth: SemanticTruth) -> tuple[Path, dict[int, str]]:
        return truth.path, {id: truth.names.get(id, f"class {id}") for id in truth.class_ids}

    def checks(
        self, path: Path, truth: SemanticTruth, problems: list[Problem]
    ) -> tuple[list[_Video], list[Problem]]:
        found, classes = find_maps(path), frozenset(truth.class_ids)
        checks = [_Video(video, found.get(video.name), classes) for video in truth.videos]
        names = sorted(found.keys() - {video.name for video in truth.videos})
        extras = [Problem("extra-video", "is not in the ground truth", name) for name in names]
        archive = open_archive(path)
        extras += [Problem("archive", f"{name} {what}") for name, what in archive.complaints]
        unexpected = archive.unexpected(file for maps in found.values() for file in maps.files)
        extras += [Problem("extra-file", f"{name} is not looked for") for name in unexpected]
        return checks, extras

    def pairs(self, path: Path, truth: SemanticTruth) -> list[_Video]:
        found, classes = find_maps(path), frozenset(truth.class_ids)
        missing = [video.name for video in truth.videos if video.name not in found]
        if missing:
            raise DatasetError(f"{path} has no maps of {len(missing)} videos: {', '.join(missing[:5])}")
        videos = [_Video(video, found[video.name], classes) for video in truth.videos]
        for video in videos:
            stems, there = video.truth.stems, found[video.name].stems
            absent = [stem for stem, place in zip(stems, video.positions, strict=True) if place is None]
            if absent:
                raise DatasetError(
                    f"{path}: video '{video.name}' has {len(there)} frames, and {len(absent)} of the ground "
                    f"truth's {len(stems)} are missing: {', '.join(absent[:5])}"
                )
        return videos

    def collectors(
        self, truth: SemanticTruth, metrics: Sequence[str], windows: Sequence[int]
    ) -> dict[str, Semantics]:
        return {"semantic": Semantics(truth.class_ids)}


VSPW = VspwFormat()
