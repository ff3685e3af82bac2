"""COCO: frames (`coco`), tracks of a video as YouTube-VIS has them (`coco-video`), and what Python gets of a video."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dvis_cli.coco_masks import rle
from dvis_cli.files import output_errors
from dvis_cli.structures import Category, FinishedFrame, InstanceFrame, Segment, VideoInfo
from dvis_cli.writers.panoptic_png import write_panoptic_png

from .job import ByObject, Job, Writer
from .seen import Seen, seen_in


class CocoFrames(Writer):
    """`panoptic.json` with `panoptic/000000.png`, `instances.json` of the things, and `images/` where they are wanted.

    Masks of `--task instance` may overlap, which a panoptic map cannot show: there are instances only.
    """

    def __init__(self, path: Path, job: Job) -> None:
        super().__init__(path, job)
        self.folder()
        self._frames = [image_entry(index, job) for index in range(len(job.names))]
        self._instances = _AnnotationFile(path / "instances.json", job, images=self._frames)
        self._panoptic: _AnnotationFile | None = None
        self._annotations = 0

    def add(self, frame: FinishedFrame) -> None:
        found = list(seen_in(frame, self.job.chosen))
        for one in found:
            if one.segment.category.isthing or isinstance(frame, InstanceFrame):
                self._annotations += 1
                self._instances.put(instance_entry(self._annotations, frame.index, one, self.job))
        if not isinstance(frame, InstanceFrame):
            self._add_map(frame.index, found)
        self.add_image(frame, "images", f"{self.job.names[frame.index]}.jpg")

    def close(self) -> None:
        self._instances.close()
        if self._panoptic is not None:
            self._panoptic.close()

    def abort(self) -> None:
        self._instances.abort()
        if self._panoptic is not None:
            self._panoptic.abort()

    def _add_map(self, index: int, found: list[Seen]) -> None:
        if self._panoptic is None:
            self.folder("panoptic")
            self._panoptic = _AnnotationFile(self.path / "panoptic.json", self.job, images=self._frames)
        ids = np.zeros(self.job.size, np.int32)
        for one in found:
            x, y, width, height = one.box
            ids[y : y + height, x : x + width][one.inside] = one.segment.id
        name = f"{self.job.names[index]}.png"
        write_panoptic_png(self.path / "panoptic" / name, ids)
        infos = [
            {"id": one.id, "category_id": one.category.id, "iscrowd": 0, "bbox": seen.box, "area": seen.area}
            for seen in found
            for one in [seen.segment]
        ]
        self._panoptic.put({"image_id": index + 1, "file_name": name, "segments_info": infos})


class CocoVideo(Writer):
    """One json: `videos`, `categories`, and an annotation an object with a run-length code or null for each frame."""

    def __init__(self, path: Path, job: Job) -> None:
        super().__init__(path, job)
        self._masks = ByObject()

    def add(self, frame: FinishedFrame) -> None:
        for one in seen_in(frame, self.job.chosen):
            text = json.dumps({"counts": one.counts, "area": one.area, "bbox": one.box})
            self._masks.put(one.segment.id, frame.index, text)

    def close(self) -> None:
        job = self.job
        files = [f"{job.info.name}/{name}.jpg" for name in job.names]
        video = {"id": 1, "name": job.info.name, **_size(job), "length": len(job.names)}
        video |= {"fps": job.info.fps, "file_names": files}
        seen = (entry for segment in job.segments if (entry := self._track(segment)))
        file = _AnnotationFile(self.path, job, videos=[video])
        for entry in seen:
            file.put(entry)
        file.close()
        self._masks.close()

    def abort(self) -> None:
        self._masks.close()

    def _track(self, segment: Segment) -> dict[str, Any]:
        """The annotation of one object; empty where no pixel of it is seen."""
        job, count = self.job, len(self.job.names)
        masks: list[Any] = [None] * count
        boxes, areas = masks.copy(), masks.copy()
        for frame, text in self._masks.of(segment.id):
            row = json.loads(text)
            masks[frame], boxes[frame], areas[frame] = rle(row["counts"], job.size), row["bbox"], row["area"]
        return {
            "id": job.number(segment),
            "video_id": 1,
            "category_id": segment.category.id,
            "score": round(float(segment.score), 6),
            "iscrowd": 0,
            **_size(job),
            "length": count,
            "segmentations": masks,
            "bboxes": boxes,
            "areas": areas,
        } if any(masks) else {}  # fmt: skip


class _AnnotationFile:
    """A COCO json whose annotations are written as they come; `listed` are its images, or its videos."""

    def __init__(self, path: Path, job: Job, **listed: list[dict[str, Any]]) -> None:
        self._path, self._first = path, True
        about = {"description": f"{job.info.name}, segmented by dvis", "fps": job.info.fps}
        head = {"info": about, "licenses": [], **listed, "categories": categories(job.categories())}
        with output_errors(path):
            self._file = path.open("w", encoding="utf-8")
            self._file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "annotations": [\n')

    def put(self, entry: dict[str, Any]) -> None:
        with output_errors(self._path):
            self._file.write(("" if self._first else ",\n") + json.dumps(entry, ensure_ascii=False))
        self._first = False

    def close(self) -> None:
        with output_errors(self._path):
            self._file.write("]}\n")
            self._file.close()

    def abort(self) -> None:
        with suppress(OSError):  # what waits to be written does not matter any more
            self._file.close()


def image_entry(index: int, job: Job) -> dict[str, Any]:
    """A frame in `images`."""
    entry = {"id": index + 1, "file_name": f"{job.names[index]}.jpg", **_size(job)}
    return {**entry, "frame": index, "time": round(job.pts[index], 6)}


def _size(job: Job) -> dict[str, int]:
    return {"width": job.info.width, "height": job.info.height}


def instance_entry(id: int, index: int, one: Seen, job: Job) -> dict[str, Any]:
    """An object in a frame in `annotations`; `track_id` is its id in the result."""
    return {
        "id": id,
        "image_id": index + 1,
        "category_id": one.segment.category.id,
        "track_id": job.number(one.segment),
        "segmentation": rle(one.counts, one.size),
        "area": one.area,
        "bbox": one.box,
        "iscrowd": 0,
        "score": round(float(one.segment.score), 6),
        "attributes": {"track_id": job.number(one.segment)},  # where CVAT and Datumaro look for it
    }


def categories(found: Iterable[Category]) -> list[dict[str, Any]]:
    """`categories` of COCO's panoptic files, which the others take as well."""
    return [
        {"id": one.id, "name": one.name, "supercategory": ""}
        | {"isthing": int(one.isthing), "color": list(one.color)}
        for one in found
    ]


def coco_document(
    frames: Iterable[FinishedFrame],
    info: VideoInfo,
    stuff: bool = False,
    number: Callable[[Segment], int] = lambda segment: segment.id,
) -> dict[str, Any]:
    """`images`, `annotations` and `categories` as in COCO's instance files, for `pycocotools.coco.COCO().dataset`.

    Args:
        stuff: whether stuff is annotated, too.
        number: a segment's `track_id`.
    """
    names: list[str] = []
    pts: list[float] = []
    job = Job(info, lambda segment: stuff or segment.category.isthing, pts=pts, names=names, number=number)
    found: list[tuple[Segment, dict[str, Any]]] = []
    for frame in frames:
        names.append(frame.name or f"{frame.index:06d}")
        pts.append(frame.pts)
        for one in seen_in(frame, job.chosen):
            found.append((one.segment, instance_entry(len(found) + 1, frame.index, one, job)))
    classes: dict[int, Category] = {}
    for segment, entry in found:
        classes[segment.category.id] = segment.category
        entry["score"] = round(float(segment.score), 6)  # of a video that ran meanwhile, the last word
    return {
        "images": [image_entry(index, job) for index in range(len(names))],
        "annotations": [entry for _, entry in found],
        "categories": categories(classes[id] for id in sorted(classes)),
    }


def masks_of(frames: Iterable[FinishedFrame], ids: Sequence[int]) -> Iterator[np.ndarray]:
    """(len(ids), height, width) bool of every frame: where each segment is."""
    for frame in frames:
        yield np.array([frame.mask(id) for id in ids], bool).reshape(len(ids), *frame.rgb.shape[:2])
