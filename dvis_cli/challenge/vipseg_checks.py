"""Will VIPSeg's scorer take a submission? All that is wrong with it at once, in the scorer's terms."""

from __future__ import annotations

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
from dvis_cli.datasets.names import error_in, safe_name, stem_of
from dvis_cli.datasets.vipseg import LARGEST_ID, VIPSeg, VIPSegFrame, mask_path
from dvis_cli.errors import DatasetError
from dvis_cli.writers.segments_json import measure_segments

JSON_NAME, PNG_FOLDER = "pred.json", "pan_pred"
EXPECTED = f"a folder or zip with {JSON_NAME} and {PNG_FOLDER}/"
LARGEST_JSON = 256 * 2**20  # bytes; VIPSeg's own splits need 10 to 20 MB
_Wrong = tuple[str, str, str | None]  # kind and message of a problem, stem of the frame


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
    document = archive.read_json(JSON_NAME, LARGEST_JSON)
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
            entry = entries[video.video_id]
            checks.append(PredictedVideo(path, truth.root, video.video_id, video.frames, entry, categories))
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
            with error_in(f"video '{self.name}', frame '{frame.stem}'"):
                truth = read_ids(mask_path(self.root, self.name, frame.stem), *size)
                predicted = decode_ids(read_png(archive, self.name, frame), *size)
                yield frame_overlap(truth, frame.segments, predicted, entry["segments_info"])

    def problems(self, pixels: bool = True) -> list[Problem]:
        """What is wrong with names, counts, sizes and segments, and with `pixels` what the decoded PNGs show."""
        return [Problem(kind, message, self.name, stem) for kind, message, stem in self._wrong(pixels)]

    def _wrong(self, pixels: bool) -> Iterator[_Wrong]:
        entries: dict[str, Mapping[str, Any]] = {}  # by file stem, in the order of `pred.json`
        for position, entry in enumerate(self.entries):
            try:
                name = entry.get("file_name") if isinstance(entry, dict) else None
                stem = stem_of(safe_name(name, "file_name"))
            except DatasetError as error:
                yield "json", f"annotations[{position}]: {error}", None
                continue
            if stem in entries:
                yield "json", "is in pred.json twice", stem
            entries.setdefault(stem, entry)
        yield from self._wrong_order(list(entries))
        archive = open_archive(self.path)
        there = archive.names(f"{PNG_FOLDER}/{self.name}")
        unreadable = {
            frame.stem: wrong for frame in self.frames for wrong in self._wrong_file(archive, frame, there)
        }
        yield from unreadable.values()
        classes: dict[int, int] = {}  # of the video's segments so far
        for frame in (frame for frame in self.frames if frame.stem in entries):
            listed = entries[frame.stem].get("segments_info")
            if not isinstance(listed, list):
                yield "json", "has no list segments_info", frame.stem
                continue
            segments: dict[int, Mapping[str, Any]] = {}
            found = [wrong for one in listed for wrong in self._wrong_segment(one, segments, classes)]
            if pixels and frame.stem not in unreadable:
                found += self._wrong_pixels(archive, frame, segments)
            yield from ((kind, message, frame.stem) for kind, message in found)

    def _wrong_order(self, found: list[str]) -> Iterator[_Wrong]:
        """The scorer pairs frames by order, so names and their order must be the ground truth's."""
        stems = [frame.stem for frame in self.frames]
        if len(self.entries) != len(stems):
            absent = [stem for stem in stems if stem not in found]
            some = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
            message = f"has {len(self.entries)} frames, the ground truth {len(stems)}"
            yield "frame-count", f"{message}, missing {some}" if some else message, None
        yield from (
            ("frame-name", "is no frame of the ground truth", name) for name in found if name not in stems
        )
        expected, order = [s for s in stems if s in found], [s for s in found if s in stems]
        for place, (right, there) in enumerate(zip(expected, order, strict=True)):
            if right != there:
                yield "frame-order", f"frame {place} is {there}, the ground truth has {right} there", None
                return

    def _wrong_file(self, archive: Archive, frame: VIPSegFrame, there: set[str]) -> Iterator[_Wrong]:
        """Why the frame's PNG is not worth decoding."""
        name = png_name(self.name, frame.stem)
        if f"{frame.stem}.png" not in there:
            yield "missing-png", f"{name} is missing", frame.stem
            return
        try:
            header = PngHeader.parse(archive.read(name, head=HEADER_BYTES))
        except DatasetError as error:
            yield "damaged-png", str(error), frame.stem
            return
        try:
            header.check(frame.width, frame.height)
        except DatasetError as error:
            fits = (header.width, header.height) == (frame.width, frame.height)
            yield "png-format" if fits else "size", f"the PNG {error}", frame.stem

    def _wrong_segment(
        self, segment: Any, segments: dict[int, Mapping[str, Any]], classes: dict[int, int]
    ) -> Iterator[tuple[str, str]]:
        """Kinds and messages; a segment with a usable id goes into its frame's `segments`."""
        number, category = (
            map(segment.get, ("id", "category_id")) if isinstance(segment, dict) else (None, None)
        )
        if type(number) is not int or not 1 <= number <= LARGEST_ID:
            yield "bad-id", f"segment id {number!r:.40} is no whole number 1..{LARGEST_ID}"
        elif number in segments:
            yield "bad-id", f"segment {number} is listed twice"
        else:
            segments[number] = segment
            if type(category) is not int or category not in self.categories:
                yield "unknown-category", f"segment {number} has category_id {category!r:.40}"
            elif classes.setdefault(number, category) != category:
                yield "class-change", f"segment {number} is of class {category}, before of {classes[number]}"
                classes[number] = category

    def _wrong_pixels(
        self, archive: Archive, frame: VIPSegFrame, segments: Mapping[int, Any]
    ) -> list[tuple[str, str]]:
        try:
            ids = decode_ids(read_png(archive, self.name, frame), frame.width, frame.height)
        except DatasetError as error:
            return [("damaged-png", str(error))]
        return _differences(ids, segments)


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
