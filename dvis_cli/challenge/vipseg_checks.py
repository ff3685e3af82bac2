"""Will VIPSeg's scorer take a submission? All that is wrong with it at once, in the scorer's terms."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dvis_cli.challenge.archive import Archive, open_archive
from dvis_cli.challenge.metrics.overlap import FrameOverlap, frame_overlap
from dvis_cli.challenge.metrics.stq import STQ
from dvis_cli.challenge.metrics.vpq import VPQ
from dvis_cli.challenge.problems import Problem
from dvis_cli.datasets.id_map import HEADER_BYTES, PngHeader, decode_ids, read_ids
from dvis_cli.datasets.names import safe_name, stem_of
from dvis_cli.datasets.vipseg import LARGEST_ID, VIPSeg, VIPSegFrame, mask_path
from dvis_cli.errors import DatasetError
from dvis_cli.writers.segments_json import measure_segments

JSON_NAME, PNG_FOLDER = "pred.json", "pan_pred"
EXPECTED = f"a folder or zip with {JSON_NAME} and {PNG_FOLDER}/"
LARGEST_JSON = 256 * 2**20  # bytes; VIPSeg's own splits need 10 to 20 MB


def png_name(video_id: str, stem: str) -> str:
    """`pan_pred/<video_id>/<stem>.png`"""
    return f"{PNG_FOLDER}/{video_id}/{stem}.png"


def read_png(archive: Archive, video_id: str, frame: VIPSegFrame) -> bytes:
    """A predicted PNG, which may be as large as one of the frame's size can be."""
    return archive.read(png_name(video_id, frame.stem), 4 * frame.width * frame.height + 2**20)


def annotations_of(archive: Archive) -> list[Any]:
    """The list in `pred.json`, its entries not yet looked at.

    Raises:
        DatasetError: missing, not json, or without the list.
    """
    try:
        document = json.loads(archive.read(JSON_NAME, LARGEST_JSON))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{JSON_NAME} is not json: {error}") from error
    entries = document.get("annotations") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise DatasetError(f'{JSON_NAME} must hold {{"annotations": [...]}}')
    return entries


def find_checks(
    path: Path, truth: VIPSeg, problems: list[Problem]
) -> tuple[list[PredictedVideo], list[Problem]]:
    """The checks of all videos that have a prediction, and what is there too much; other problems are added."""
    archive = open_archive(path, EXPECTED)
    problems += [Problem("archive", f"{name} {what}") for name, what in archive.complaints]
    try:
        entries = _entries_by_video(annotations_of(archive), problems)
    except DatasetError as error:
        problems.append(Problem("json", str(error)))
        return [], []
    categories = frozenset(category.id for category in truth.categories)
    checks = []
    for video in truth.videos:
        if video.video_id in entries:
            facts = (video.video_id, video.frames, entries[video.video_id], categories)
            checks.append(PredictedVideo(path, truth.root, *facts))
        else:
            problems.append(Problem("missing-video", "has no prediction in pred.json", video.video_id))
    known = {video.video_id for video in truth.videos}
    extra = sorted((entries.keys() | archive.folders(PNG_FOLDER)) - known)
    expected = [png_name(video.video_id, frame.stem) for video in truth.videos for frame in video.frames]
    extras = [Problem("extra-video", "is not in the ground truth", name) for name in extra]
    extras += [
        Problem("extra-file", f"{name} is not looked for by the scorer")
        for name in archive.unexpected([JSON_NAME, *expected])
        if name.split("/")[1:2] not in [[video_id] for video_id in extra]
    ]
    return checks, extras


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


@dataclass(frozen=True, slots=True)
class PredictedVideo:
    """The prediction for one video of the ground truth; can be sent to another process."""

    path: Path
    root: Path  # of the ground truth
    name: str
    frames: tuple[VIPSegFrame, ...]  # of the ground truth
    entries: tuple[Any, ...]  # of pred.json
    categories: frozenset[int]  # that are known

    def feed(self, collectors: Mapping[str, VPQ | STQ]) -> None:
        tables = list(self._tables(open_archive(self.path)))
        for collector in collectors.values():
            collector.add_video(self.name, tables)

    def _tables(self, archive: Archive) -> Iterator[FrameOverlap]:
        for frame, entry in zip(self.frames, self.entries, strict=True):
            size = frame.width, frame.height
            try:
                truth = read_ids(mask_path(self.root, self.name, frame.stem), *size)
                predicted = decode_ids(read_png(archive, self.name, frame), *size)
                yield frame_overlap(truth, frame.segments, predicted, entry["segments_info"])
            except DatasetError as error:
                raise DatasetError(f"video '{self.name}', frame '{frame.stem}': {error}") from error

    def problems(self, pixels: bool = True) -> list[Problem]:
        """What is wrong with names, counts, sizes and segments, and with `pixels` what the decoded PNGs show."""
        archive = open_archive(self.path)
        problems: list[Problem] = []
        entries = self._entries_by_frame(problems)
        self._check_order(list(entries), problems)
        there = archive.names(f"{PNG_FOLDER}/{self.name}")
        readable = [self._check_file(archive, frame, there, problems) for frame in self.frames]
        classes: dict[int, int] = {}
        for frame, decodable in zip(self.frames, readable, strict=True):
            entry = entries.get(frame.stem)
            segments = None if entry is None else self._check_segments(frame, entry, classes, problems)
            if pixels and decodable and segments is not None:
                self._check_pixels(archive, frame, segments, problems)
        return problems

    def _add(self, problems: list[Problem], kind: str, message: str, stem: str | None = None) -> None:
        problems.append(Problem(kind, message, self.name, stem))

    def _entries_by_frame(self, problems: list[Problem]) -> dict[str, Mapping[str, Any]]:
        """File stem -> entry, in the order of `pred.json`."""
        entries: dict[str, Mapping[str, Any]] = {}
        for position, entry in enumerate(self.entries):
            name = entry.get("file_name") if isinstance(entry, dict) else None
            try:
                stem = stem_of(safe_name(name, "file_name"))
            except DatasetError as error:
                self._add(problems, "json", f"annotations[{position}]: {error}")
                continue
            if stem in entries:
                self._add(problems, "json", "is in pred.json twice", stem)
            entries.setdefault(stem, entry)
        return entries

    def _check_order(self, found: list[str], problems: list[Problem]) -> None:
        """The scorer pairs frames by order, so names and their order must be the ground truth's."""
        stems = [frame.stem for frame in self.frames]
        if len(self.entries) != len(stems):
            message = f"has {len(self.entries)} frames, the ground truth {len(stems)}"
            absent = [stem for stem in stems if stem not in found]
            self._add(problems, "frame-count", message + _some(", missing", absent))
        for name in (name for name in found if name not in set(stems)):
            self._add(problems, "frame-name", "is no frame of the ground truth", name)
        expected = [stem for stem in stems if stem in set(found)]
        order = [name for name in found if name in set(stems)]
        wrong = next((i for i, (a, b) in enumerate(zip(expected, order, strict=True)) if a != b), None)
        if wrong is not None:
            message = f"frame {wrong} is {order[wrong]}, the ground truth has {expected[wrong]} there"
            self._add(problems, "frame-order", message)

    def _check_file(
        self, archive: Archive, frame: VIPSegFrame, there: set[str], problems: list[Problem]
    ) -> bool:
        """Whether the frame's PNG is worth decoding."""
        name = png_name(self.name, frame.stem)
        if f"{frame.stem}.png" not in there:
            self._add(problems, "missing-png", f"{name} is missing", frame.stem)
            return False
        try:
            header = PngHeader.parse(archive.read(name, head=HEADER_BYTES))
        except DatasetError as error:
            self._add(problems, "damaged-png", str(error), frame.stem)
            return False
        try:
            header.check(frame.width, frame.height)
        except DatasetError as error:
            fits = (header.width, header.height) == (frame.width, frame.height)
            self._add(problems, "png-format" if fits else "size", f"the PNG {error}", frame.stem)
            return False
        return True

    def _check_segments(
        self, frame: VIPSegFrame, entry: Mapping[str, Any], classes: dict[int, int], problems: list[Problem]
    ) -> dict[int, Mapping[str, Any]] | None:
        """The frame's segments with a usable id, by id; `classes` are those of the video so far."""
        segments: dict[int, Mapping[str, Any]] = {}
        listed = entry.get("segments_info")
        if not isinstance(listed, list):
            self._add(problems, "json", "has no list segments_info", frame.stem)
            return None
        for segment in listed:
            number = segment.get("id") if isinstance(segment, dict) else None
            if type(number) is not int or not 1 <= number <= LARGEST_ID:
                message = f"segment id {number!r:.40} is no whole number 1..{LARGEST_ID}"
                self._add(problems, "bad-id", message, frame.stem)
                continue
            if number in segments:
                self._add(problems, "bad-id", f"segment {number} is listed twice", frame.stem)
                continue
            segments[number] = segment
            category = segment.get("category_id")
            if type(category) is not int or category not in self.categories:
                message = f"segment {number} has category_id {category!r:.40}"
                self._add(problems, "unknown-category", message, frame.stem)
            elif classes.setdefault(number, category) != category:
                message = f"segment {number} is of class {category}, before of {classes[number]}"
                self._add(problems, "class-change", message, frame.stem)
                classes[number] = category
        return segments

    def _check_pixels(
        self, archive: Archive, frame: VIPSegFrame, segments: Mapping[int, Any], problems: list[Problem]
    ) -> None:
        try:
            ids = decode_ids(read_png(archive, self.name, frame), frame.width, frame.height)
        except DatasetError as error:
            self._add(problems, "damaged-png", str(error), frame.stem)
        else:
            for kind, message in _differences(ids, segments):
                self._add(problems, kind, message, frame.stem)


def _differences(ids: npt.NDArray[np.uint32], segments: Mapping[int, Any]) -> list[tuple[str, str]]:
    """Kind and message of all in which a frame's (H, W) ids and its segments disagree."""
    seen = {number: (area, box) for number, area, box in measure_segments(ids)}
    found = [
        ("id-not-in-json", f"segment {number} is in the PNG and not in pred.json")
        for number in seen
        if number not in segments
    ]
    for number, segment in segments.items():
        if number not in seen:
            found.append(("id-not-in-png", f"segment {number} is in pred.json and not in the PNG"))
            continue
        area, (x, y, width, height) = seen[number]
        if not _equal(segment.get("area"), area):
            found.append(("area", f"segment {number} has area {segment.get('area')!r:.40}, not {area}"))
        # The reference's own writer gives last minus first pixel; COCO counts both. Scorers read neither.
        box, exclusive = [x, y, width, height], [x, y, width - 1, height - 1]
        if not _box_is(segment.get("bbox"), box) and not _box_is(segment.get("bbox"), exclusive):
            found.append(("box", f"segment {number} has bbox {segment.get('bbox')!r:.60}, not {box}"))
    return found


def _box_is(value: Any, box: Sequence[int]) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_equal, value, box))


def _equal(value: Any, number: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == number


def _some(label: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{label} {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
