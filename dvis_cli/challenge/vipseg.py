"""VIPSeg: `pred.json` and `pan_pred/<video_id>/<stem>.png`, ids as colours.

{"annotations": [{"video_id", "annotations": [{"file_name", "segments_info": [{id, category_id, area, bbox}]}]}]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvis_cli.challenge.archive import ZipWriter, open_archive
from dvis_cli.challenge.format import ExportFrame, PngFormat, PngVideo, results_in
from dvis_cli.challenge.metrics.stq import STQ
from dvis_cli.challenge.metrics.vpq import VPQ
from dvis_cli.challenge.problems import UNSCORED, Problem
from dvis_cli.challenge.vipseg_checks import (
    JSON_NAME,
    PNG_FOLDER,
    PredictedVideo,
    annotations_of,
    find_checks,
    png_name,
)
from dvis_cli.challenge.writing import VideoWriter, json_list, write_text
from dvis_cli.datasets.id_map import LARGEST_SIDE, PngHeader, decode_ids
from dvis_cli.datasets.names import error_in, safe_name, stem_of
from dvis_cli.datasets.vipseg import VIPSeg
from dvis_cli.errors import DatasetError, UsageError
from dvis_cli.export.result import SEGMENTS_NAME, open_result
from dvis_cli.structures import FinishedFrame, InstanceFrame, Segment
from dvis_cli.writers.panoptic_png import write_panoptic_png
from dvis_cli.writers.segments_json import measure_segments

METRICS = ("vpq", "stq")
DOCUMENT = '{"annotations": [', ", ", "]}\n"  # around and between the videos of `pred.json`


def frame_annotation(
    stem: str, measured: Iterable[tuple[Any, ...]], categories: Mapping[int, int]
) -> dict[str, Any]:
    """A frame's entry in `pred.json`.

    Args:
        stem: the frame's file name without suffix.
        measured: its segments, of `measure_segments` of its map, so that the two agree.
        categories: segment id -> dataset category id.

    Raises:
        KeyError: an id in the map has no category.
    """
    segments = [
        {"id": number, "category_id": categories[number], "iscrowd": 0, "bbox": list(box), "area": area}
        for number, area, box in measured
    ]
    return {"file_name": f"{stem}.png", "segments_info": segments}


class VIPSegWriter(VideoWriter):
    """PNGs and the video's entry of `pred.json`."""

    def __enter__(self) -> VIPSegWriter:
        self._frames: list[tuple[str, list[tuple[Any, ...]]]] = []
        return super().__enter__()

    def add(self, frame: FinishedFrame) -> None:
        assert not isinstance(frame, InstanceFrame)
        path = self.new_png(frame)
        write_panoptic_png(path, frame.ids)
        self._frames.append((path.stem, list(measure_segments(frame.ids))))

    def part(self, segments: Iterable[Segment]) -> dict[str, Any]:
        categories = {segment.id: segment.category.id for segment in segments}
        entries = [frame_annotation(stem, measured, categories) for stem, measured in self._frames]
        return {"video_id": self.video_id, "annotations": entries}


@dataclass(frozen=True)
class _RunVideo(PngVideo):
    """One video of a run: a result folder, or with `frames` (its entries in `pred.json`) of a submission."""

    frames: list[Any] | None = None

    def load(self) -> tuple[list[ExportFrame], bool]:
        archive = open_archive(self.place)
        if self.frames is None:
            result = open_result(self.place, "panoptic")
            categories = {segment.id: segment.category.id for segment in result.segments}
            files = zip(result.stems, result.pngs, strict=True)
            return [_annotated(stem, archive.read(file), categories) for stem, file in files], result.named
        found = []
        try:
            for frame in self.frames:
                stem = stem_of(safe_name(frame["file_name"], "file_name"))
                categories = {segment["id"]: segment["category_id"] for segment in frame["segments_info"]}
                found.append(_annotated(stem, archive.read(png_name(self.name, stem)), categories))
        except (KeyError, TypeError):
            raise DatasetError(f"{JSON_NAME} is not what a scorer reads; dvis validate tells more") from None
        return found, True


def _annotated(stem: str, png: bytes, categories: Mapping[int, int]) -> ExportFrame:
    header = PngHeader.parse(png)
    if not (0 < header.width <= LARGEST_SIDE and 0 < header.height <= LARGEST_SIDE):
        raise DatasetError(f"frame {stem}: {header.width}x{header.height} pixels are too many")
    try:
        with error_in(f"frame {stem}"):
            ids = decode_ids(png, header.width, header.height)
        return ExportFrame(stem, png, frame_annotation(stem, measure_segments(ids), categories))
    except KeyError as error:
        raise DatasetError(f"frame {stem}: id {error.args[0]} is in the PNG and not in the json") from None


class VIPSegFormat(PngFormat[VIPSeg]):
    """Video panoptic segmentation as VIPSeg's scorer reads it."""

    task, truth_type, parts, zip_only = "panoptic", VIPSeg, ".videos", True
    png_name, checks = staticmethod(png_name), staticmethod(find_checks)

    def writer(self, run: Path, video_id: str, number: int = 0) -> VIPSegWriter:
        folder = run / PNG_FOLDER / video_id
        return VIPSegWriter(self.part_path(run, video_id), video_id, folder)

    def assemble(self, run: Path, video_ids: Sequence[str]) -> Path:
        parts = (self.part_path(run, name).read_text("utf-8") for name in video_ids)
        write_text(run / JSON_NAME, json_list(*DOCUMENT, parts))
        return run / JSON_NAME

    def find(self, run: Path) -> Iterator[_RunVideo]:
        if not run.exists():
            raise DatasetError(f"{run} does not exist")
        found: list[_RunVideo] = []
        if run.is_file() or (run / JSON_NAME).is_file():
            for entry in annotations_of(open_archive(run)):
                entry = entry if isinstance(entry, dict) else {}
                name = safe_name(entry.get("video_id"), f"{run}: video_id")
                found.append(_RunVideo(name, run.resolve(), entry.get("annotations") or []))
        else:
            found = [_RunVideo(name, folder) for name, folder in results_in(run).items()]
        if not found:
            raise DatasetError(
                f"{run} holds no results: expected {SEGMENTS_NAME} in it or in its folders, or {JSON_NAME}"
            )
        yield from found

    def index(self, archive: ZipWriter, entries: dict[str, str]) -> None:
        parts = (
            f'{{"video_id": {json.dumps(name)}, "annotations": {text}}}' for name, text in entries.items()
        )
        archive.write_text(JSON_NAME, json_list(*DOCUMENT, parts))

    def open_truth(self, path: Path, split: str) -> VIPSeg:
        return VIPSeg.open(path, split) if path.is_dir() else VIPSeg(path)

    def pairs(self, path: Path, truth: VIPSeg) -> list[PredictedVideo]:
        """Raises `DatasetError` for all that would stop the scorer, short of decoding pixels."""
        if not truth.videos:
            raise DatasetError(f"{truth.json_path} lists no videos")
        if not truth.annotated:
            raise DatasetError(
                f"{truth.json_path} has no annotations (a test split?): nothing to compare with"
            )
        for video in truth.videos:
            for frame in video.frames:
                if not truth.mask_path(video, frame).is_file():
                    raise DatasetError(f"ground truth {truth.mask_path(video, frame)} is missing")
        problems: list[Problem] = []
        checks, _ = find_checks(path, truth, problems)
        problems += [problem for check in checks for problem in check.problems(pixels=False)]
        problems = [problem for problem in problems if problem.kind not in UNSCORED]
        if problems:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems, the first"
            raise DatasetError(
                f"{path} cannot be scored, {count}: {problems[0]}; "
                f"see all with: dvis validate {path} --gt {truth.json_path}"
            )
        return checks

    def collectors(
        self, truth: VIPSeg, metrics: Sequence[str], windows: Sequence[int]
    ) -> dict[str, VPQ | STQ]:
        unknown = [name for name in metrics if name not in METRICS]
        if unknown or not metrics:
            wrong = f"metric '{unknown[0]}' not known" if unknown else "no metric named"
            raise UsageError(f"{wrong}; known metrics: {', '.join(METRICS)}")
        made: dict[str, VPQ | STQ] = {"vpq": VPQ(truth.categories, windows), "stq": STQ(truth.categories)}
        return {name: made[name] for name in METRICS if name in metrics}


VIPSEG = VIPSegFormat()
