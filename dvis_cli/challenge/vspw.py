"""VSPW: `<video>/<stem>.png`, folder or zip, one 8-bit channel of class ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dvis_cli.challenge.archive import open_archive
from dvis_cli.challenge.format import ExportFrame, PngFormat, PngVideo, results_in
from dvis_cli.challenge.metrics.semantic import Semantics
from dvis_cli.challenge.problems import Problem
from dvis_cli.challenge.vspw_truth import IGNORE, ClassMap, SemanticTruth, TruthMaps, open_semantic_truth
from dvis_cli.challenge.writing import VideoWriter
from dvis_cli.datasets.id_map import HEADER_BYTES, PngHeader, decode_classes
from dvis_cli.datasets.names import error_in, stem_of
from dvis_cli.errors import DatasetError, OutputError
from dvis_cli.export.result import open_result
from dvis_cli.structures import FinishedFrame, InstanceFrame, Segment
from dvis_cli.writers.semantic_png import write_class_png


class VspwWriter(VideoWriter):
    """PNGs, and a mark that they are complete."""

    def add(self, frame: FinishedFrame) -> None:
        assert not isinstance(frame, InstanceFrame)
        classes = {id: segment.category.id for id, segment in frame.segments.items()}
        unfit = [number for number in classes.values() if not 0 <= number < IGNORE]
        if unfit:
            raise OutputError(
                f"category id {unfit[0]} does not fit VSPW's maps: ids must lie in 0..{IGNORE - 1}"
            )
        write_class_png(self.new_png(frame), frame.ids, classes)

    def part(self, segments: Iterable[Segment]) -> dict[str, Any]:
        return {"video_id": self.video_id}


@dataclass(frozen=True)
class _PredictedMaps(PngVideo):
    """The predicted maps of one video."""

    files: Mapping[str, str]  # stem -> path in `place`, in order
    named: bool = True  # the stems are the source's, not numbers

    def read(self, file: str) -> bytes:
        """A PNG. Raises `DatasetError`."""
        return open_archive(self.place).read(file)

    def load(self) -> tuple[list[ExportFrame], bool]:
        frames = [ExportFrame(stem, self.read(file)) for stem, file in self.files.items()]
        for frame in frames:
            with error_in(f"frame '{frame.stem}': the map"):
                PngHeader.parse(frame.png).check_map()
        return frames, self.named

    def files_of(self, stems: Sequence[str]) -> list[str | None]:
        """The prediction of each true frame: by name, and by order where frames have no names."""
        if not self.named and len(self.files) == len(stems):
            return list(self.files.values())
        return [self.files.get(stem) for stem in stems]


def find_maps(path: Path) -> dict[str, _PredictedMaps]:
    """Predicted maps by video: of a submission, or of results of `dvis segment`.

    Raises:
        DatasetError: there is nothing of the kind.
    """
    found = {}
    for name, folder in results_in(path).items():
        result = open_result(folder, "semantic")
        files = dict(zip(result.stems, result.pngs, strict=True))
        found[name] = _PredictedMaps(name, folder, files, result.named)
    if not found:
        archive = open_archive(path, "a folder or zip with <video>/<stem>.png")
        for name in sorted(archive.folders()):
            pngs = sorted(file for file in archive.names(name) if file.endswith(".png"))
            if pngs:
                files = {stem_of(file): f"{name}/{file}" for file in pngs}
                found[name] = _PredictedMaps(name, path.resolve(), files)
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
    def files(self) -> list[str | None]:
        """Of each true frame, the prediction's file."""
        return self.prediction.files_of(self.truth.stems) if self.prediction else []

    def feed(self, collectors: Mapping[str, Semantics]) -> None:
        collectors["semantic"].add_video(self.name, self.frames())

    def frames(self) -> Iterator[tuple[ClassMap, ClassMap]]:
        """Truth and prediction of each frame. Raises `DatasetError` where one cannot be read."""
        for place, file in enumerate(self.files):
            assert self.prediction is not None and file is not None
            with error_in(f"{self.name}/{self.truth.stems[place]}"):
                predicted = decode_classes(self.prediction.read(file))
            yield self.truth.read(place), predicted

    def problems(self) -> list[Problem]:
        if self.prediction is None:
            return [Problem("missing-video", "has no maps", self.name)]
        files = self.files
        found = {stem: self._wrong(place, files[place]) for place, stem in enumerate(self.truth.stems)}
        found |= {
            stem: ("extra-file", "is no frame of the ground truth")
            for stem, file in self.prediction.files.items()
            if file not in files
        }
        return [Problem(*wrong, self.name, stem) for stem, wrong in found.items() if wrong is not None]

    def _wrong(self, place: int, file: str | None) -> tuple[str, str] | None:
        """Kind and message of the first thing that is wrong with a map."""
        if file is None or self.prediction is None:
            return "missing-png", "has no map"
        height, width = self.truth.size(place)
        kind = "damaged-png"
        try:
            header = PngHeader.parse(open_archive(self.prediction.place).read(file, head=HEADER_BYTES))
            if (header.height, header.width) != (height, width):
                return "size", f"the PNG is {header.width}x{header.height} pixels, must be {width}x{height}"
            kind = "png-channels"
            header.check_map()
            kind = "damaged-png"
            values = np.unique(decode_classes(self.prediction.read(file))).tolist()
        except DatasetError as error:
            return kind, str(error)
        strange = [value for value in values if value not in self.classes]
        return ("unknown-class", f"values {strange[:5]} are no classes") if strange else None


class VspwFormat(PngFormat[SemanticTruth]):
    """Video semantic segmentation as VSPW's server reads it."""

    task, truth_type, parts, zip_only = "semantic", SemanticTruth, ".maps", False
    open_truth = staticmethod(open_semantic_truth)

    def writer(self, run: Path, video_id: str, number: int = 0) -> VspwWriter:
        return VspwWriter(self.part_path(run, video_id), video_id, run / video_id)

    def assemble(self, run: Path, video_ids: Sequence[str]) -> Path:
        return run

    def png_name(self, video_id: str, stem: str) -> str:
        return f"{video_id}/{stem}.png"

    def find(self, run: Path) -> list[_PredictedMaps]:
        return list(find_maps(run).values())

    def checks(
        self, path: Path, truth: SemanticTruth, problems: list[Problem]
    ) -> tuple[list[_Video], list[Problem]]:
        found, classes = find_maps(path), frozenset(truth.class_ids)
        checks = [_Video(video, found.get(video.name), classes) for video in truth.videos]
        names = sorted(found.keys() - {video.name for video in truth.videos})
        extras = [Problem("extra-video", "is not in the ground truth", name) for name in names]
        archive = open_archive(path)
        extras += [Problem("archive", f"{name} {what}") for name, what in archive.complaints]
        unexpected = archive.unexpected(file for maps in found.values() for file in maps.files.values())
        extras += [Problem("extra-file", f"{name} is not looked for") for name in unexpected]
        return checks, extras

    def pairs(self, path: Path, truth: SemanticTruth) -> list[_Video]:
        videos, _ = self.checks(path, truth, [])
        missing = [video.name for video in videos if video.prediction is None]
        if missing:
            raise DatasetError(f"{path} has no maps of {len(missing)} videos: {', '.join(missing[:5])}")
        for video in videos:
            stems, there = video.truth.stems, video.prediction.files if video.prediction else {}
            absent = [stem for stem, file in zip(stems, video.files, strict=True) if file is None]
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
