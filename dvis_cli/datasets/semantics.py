"""Ground truth of semantic segmentation, and whether predicted maps fit it.

DIR/<video>/<stem>.png                               class ids, 255 = ignore
DIR/data/<video>/mask/<stem>.png and DIR/val.txt     VSPW as published: 1..124 are the classes 0..123
DIR/panomasksRGB and DIR/panoptic_gt_VIPSeg_val.json VIPSeg: a segment's class
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dvis_cli.datasets.categories import vipseg_by_id
from dvis_cli.datasets.class_maps import (
    IGNORE,
    PredictedMaps,
    check_header,
    decode_classes,
    find_maps,
    opened_zip,
    read_file,
)
from dvis_cli.datasets.id_map import HEADER_BYTES, PngHeader, read_ids
from dvis_cli.datasets.names import safe_name, stem_of
from dvis_cli.datasets.parallel import parallel_map
from dvis_cli.datasets.problems import Problem, ValidationReport
from dvis_cli.datasets.vipseg import VIPSeg, VIPSegVideo, mask_path, splits_of
from dvis_cli.errors import DatasetError

ClassMap = npt.NDArray[np.int32]
VOID = -1  # in maps that are read here: no class


class TruthMaps(Protocol):
    """The way to the true maps of one video; can be sent to another process."""

    @property
    def name(self) -> str: ...

    @property
    def stems(self) -> tuple[str, ...]: ...

    def size(self, position: int) -> tuple[int, int]:
        """(height, width) of a frame. Raises `DatasetError`."""
        ...

    def read(self, position: int) -> ClassMap:
        """A frame: (height, width) int32 class ids, -1 for none. Raises `DatasetError`."""
        ...


@dataclass(frozen=True)
class SemanticTruth:
    """A ground truth of any kind."""

    path: Path
    class_ids: tuple[int, ...]
    names: Mapping[int, str]  # of the classes, as far as they are known
    videos: tuple[TruthMaps, ...]


def open_semantic_truth(path: Path, split: str) -> SemanticTruth:
    """Open what `--gt` names.

    Raises:
        DatasetError: there is nothing of the kind, or it is not what it should be.
    """
    if path.is_file():
        return vipseg_semantics(VIPSeg.from_json(path))
    if not path.is_dir():
        raise DatasetError(f"{path} does not exist; expected maps, VSPW or VIPSeg")
    if splits_of(path):
        return vipseg_semantics(VIPSeg.open(path, split))
    if (path / "data").is_dir() and list(path.glob("*.txt")):
        return _published_vspw(path, split)
    videos = tuple(
        _Maps(
            folder, folder.name, tuple(sorted(stem_of(p.name) for p in folder.glob("*.png"))), shifted=False
        )
        for folder in sorted(path.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    )
    videos = tuple(video for video in videos if video.stems)
    if not videos:
        raise DatasetError(f"{path} holds no ground truth: expected <video>/<stem>.png, VSPW or VIPSeg")
    return SemanticTruth(path, tuple(range(IGNORE)), _vspw_names(), videos)


@dataclass(frozen=True)
class _Maps:
    """Maps of one video in a folder."""

    folder: Path
    name: str
    stems: tuple[str, ...]
    shifted: bool  # 0 is "ignore", k is class k - 1

    def _path(self, position: int) -> Path:
        return self.folder / f"{self.stems[position]}.png"

    def size(self, position: int) -> tuple[int, int]:
        path = self._path(position)
        try:
            with path.open("rb") as file:
                header = PngHeader.parse(file.read(HEADER_BYTES))
            check_header(header)
        except OSError as error:
            raise DatasetError(f"ground truth {path} cannot be read: {error.strerror}") from error
        except DatasetError as error:
            raise DatasetError(f"ground truth {path}: {error}") from error
        return header.height, header.width

    def read(self, position: int) -> ClassMap:
        path = self._path(position)
        try:
            classes = decode_classes(read_file(path))
        except DatasetError as error:
            raise DatasetError(f"ground truth {path}: {error}") from error
        classes[classes == IGNORE] = VOID
        if self.shifted:
            classes = np.where(classes > 0, classes - 1, VOID).astype(np.int32)
        return classes


@dataclass(frozen=True)
class _PanopticMaps:
    """The classes of the segments of a VIPSeg video."""

    root: Path
    video: VIPSegVideo

    @property
    def name(self) -> str:
        return self.video.video_id

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(frame.stem for frame in self.video.frames)

    def size(self, position: int) -> tuple[int, int]:
        frame = self.video.frames[position]
        return frame.height, frame.width

    def read(self, position: int) -> ClassMap:
        frame = self.video.frames[position]
        path = mask_path(self.root, self.video.video_id, frame.stem)
        values, places = np.unique(read_ids(path, frame.width, frame.height), return_inverse=True)
        classes = {segment["id"]: segment["category_id"] for segment in frame.segments}
        table = np.array([classes.get(int(value), VOID) for value in values], np.int32)
        return table[places].reshape(frame.height, frame.width)


def vipseg_semantics(dataset: VIPSeg) -> SemanticTruth:
    """The classes of a VIPSeg split; void and segments that the json does not list have none."""
    ids = tuple(sorted(category.id for category in dataset.categories))
    names = {category.id: category.name for category in dataset.categories}
    videos = tuple(_PanopticMaps(dataset.root, video) for video in dataset.videos)
    return SemanticTruth(dataset.json_path, ids, names, videos)


def _published_vspw(root: Path, split: str) -> SemanticTruth:
    list_path = root / f"{safe_name(split, 'split')}.txt"
    if not list_path.is_file():
        there = ", ".join(sorted(path.stem for path in root.glob("*.txt")))
        raise DatasetError(f"{list_path} does not exist; splits in {root}: {there}")
    names = [
        safe_name(line.strip(), "video") for line in read_file(list_path).decode().split("\n") if line.strip()
    ]
    videos = []
    for name in names:
        folder = root / "data" / name / "mask"
        stems = tuple(sorted(stem_of(path.name) for path in folder.glob("*.png")))
        if not stems:
            raise DatasetError(f"{folder} holds no masks, and {list_path} names the video")
        videos.append(_Maps(folder, name, stems, shifted=True))
    if not videos:
        raise DatasetError(f"{list_path} names no videos")
    return SemanticTruth(root, tuple(sorted(_vspw_names())), _vspw_names(), tuple(videos))


def _vspw_names() -> dict[int, str]:
    """VSPW's classes are VIPSeg's."""
    return {id: category.name for id, category in vipseg_by_id().items()}


# --- predictions against the truth ------------------------------------------------------------------------


@dataclass(frozen=True)
class MapPair:
    """The true and the predicted maps of one video; can be sent to another process."""

    truth: TruthMaps
    prediction: PredictedMaps
    positions: tuple[int, ...]  # of the prediction's frames, for each true frame

    def frames(self) -> Iterator[tuple[ClassMap, ClassMap]]:
        """Truth and prediction of each frame.

        Raises:
            DatasetError: one cannot be read.
        """
        for place, position in enumerate(self.positions):
            try:
                predicted = decode_classes(self.prediction.data(position))
            except DatasetError as error:
                where = f"{self.prediction.video}/{self.truth.stems[place]}"
                raise DatasetError(f"{where}: {error}") from error
            yield self.truth.read(place), predicted


def pair_maps(path: Path, truth: SemanticTruth) -> list[MapPair]:
    """The predictions for every video of a ground truth, in its order.

    Raises:
        DatasetError: one is missing, or its frames do not fit.
    """
    found = find_maps(path)
    pairs = []
    for video in truth.videos:
        if video.name not in found:
            missing = [other.name for other in truth.videos if other.name not in found]
            raise DatasetError(f"{path} has no maps of {len(missing)} videos: {', '.join(missing[:5])}")
        prediction = found[video.name]
        positions = _positions(video, prediction)
        absent = [stem for stem, place in zip(video.stems, positions, strict=True) if place is None]
        if absent:
            raise DatasetError(
                f"{path}: video '{video.name}' has {len(prediction.stems)} frames, and {len(absent)} of the ground "
                f"truth's {len(video.stems)} are missing: {', '.join(absent[:5])}"
            )
        pairs.append(MapPair(video, prediction, tuple(place for place in positions if place is not None)))
    return pairs


def _positions(video: TruthMaps, prediction: PredictedMaps) -> list[int | None]:
    """Where the prediction of each true frame is: by name, and by order where frames have no names."""
    if not prediction.named and len(prediction.stems) == len(video.stems):
        return list(range(len(video.stems)))
    by_stem = {stem: position for position, stem in enumerate(prediction.stems)}
    return [by_stem.get(stem) for stem in video.stems]


def validate_maps(
    path: Path,
    truth: SemanticTruth,
    workers: int = 1,
    on_video: Callable[[str], None] = lambda name: None,
) -> ValidationReport:
    """Check a submission of maps against a ground truth (of VIPSeg, its json is enough).

    Args:
        path: folder or zip with `<video>/<stem>.png`.
        truth: the split.
        workers: processes.
        on_video: called as each video is done.

    Raises:
        DatasetError: `path` does not exist. Everything else is in the report.
    """
    report = ValidationReport(path, len(truth.videos), sum(len(video.stems) for video in truth.videos))
    try:
        found = find_maps(path)
    except DatasetError as error:
        if not path.exists():
            raise
        report.problems.append(Problem("archive", str(error)))
        return report
    tasks = [(video, found.get(video.name)) for video in truth.videos]
    problems_of = parallel_map(partial(_check_video, frozenset(truth.class_ids)), tasks, workers)
    for (video, _), problems in zip(tasks, problems_of, strict=True):
        report.problems += problems
        on_video(video.name)
    known = {video.name for video in truth.videos}
    extra = sorted(found.keys() - known)
    report.problems += [Problem("extra-video", "is not in the ground truth", name) for name in extra]
    if path.is_file():
        archive = opened_zip(path)
        report.problems += [Problem("archive", f"{name} {what}") for name, what in archive.complaints]
        ours = {file for maps in found.values() for file in maps.files}
        report.problems += [
            Problem("extra-file", f"{name} is not looked for")
            for name in sorted(archive.members.keys() - ours)
        ]
    return report


def _check_video(classes: frozenset[int], task: tuple[TruthMaps, PredictedMaps | None]) -> list[Problem]:
    video, prediction = task
    if prediction is None:
        return [Problem("missing-video", "has no maps", video.name)]
    problems = []
    positions = _positions(video, prediction)
    for place, (stem, position) in enumerate(zip(video.stems, positions, strict=True)):
        if position is None:
            problems.append(Problem("missing-png", "has no map", video.name, stem))
        else:
            found = _problem_of_map(video.size(place), prediction, position, classes)
            problems += [Problem(kind, message, video.name, stem) for kind, message in found]
    used = set(positions)
    problems += [
        Problem("extra-file", "is no frame of the ground truth", video.name, stem)
        for position, stem in enumerate(prediction.stems)
        if position not in used
    ]
    return problems


def _problem_of_map(
    size: tuple[int, int], prediction: PredictedMaps, position: int, classes: frozenset[int]
) -> list[tuple[str, str]]:
    """The first thing that is wrong with a map: kind and message."""
    try:
        header = prediction.header(position)
    except DatasetError as error:
        return [("damaged-png", str(error))]
    if (header.height, header.width) != size:
        return [("size", f"the PNG is {header.width}x{header.height} pixels, must be {size[1]}x{size[0]}")]
    try:
        check_header(header)
    except DatasetError as error:
        return [("png-channels", str(error))]
    try:
        values: list[Any] = np.unique(decode_classes(prediction.data(position))).tolist()
    except DatasetError as error:
        return [("damaged-png", str(error))]
    strange = [value for value in values if value not in classes]
    return [("unknown-class", f"values {strange[:5]} are no classes")] if strange else []
