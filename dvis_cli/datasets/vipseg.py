"""A split of VIPSeg in its 720P layout. The json is read and checked at once, pictures when they are needed.

DIR/images/<video_id>/<stem>.jpg
DIR/panomasksRGB/<video_id>/<stem>.png
DIR/panoptic_gt_VIPSeg_{train,val,test}.json
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dvis_cli.datasets.categories import parse_label_set, vipseg_categories
from dvis_cli.datasets.id_map import LARGEST_SIDE, read_ids
from dvis_cli.datasets.names import error_in, list_of, read_json, safe_name, stem_of, value_of, whole
from dvis_cli.datasets.pictures import read_picture
from dvis_cli.errors import DatasetError
from dvis_cli.structures import Category

JSON_PREFIX = "panoptic_gt_VIPSeg_"
IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg", ".JPG", ".PNG", ".JPEG")
LARGEST_ID = 256**3 - 1


@dataclass(frozen=True, slots=True)
class VIPSegFrame:
    """One frame as its json describes it."""

    stem: str  # file name without suffix: the image's, the mask's and the prediction's
    width: int  # pixels
    height: int
    segments: tuple[Mapping[str, Any], ...]  # segments_info: id, category_id, iscrowd, area in pixels


@dataclass(frozen=True, slots=True)
class VIPSegVideo:
    """One video; a segment's id is the same in all its frames."""

    video_id: str
    frames: tuple[VIPSegFrame, ...]  # in the order of the json, which scorers pair by

    @property
    def name(self) -> str:
        return self.video_id

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(frame.stem for frame in self.frames)


class VIPSeg:
    """One split: `videos`, `categories` (contiguous order) and the way to their pictures.

    Args:
        json_path: the split's json. `images/` and `panomasksRGB/` beside it may be missing until they are needed.

    Raises:
        DatasetError: what is wrong in the json, with video and frame.
    """

    def __init__(self, json_path: Path) -> None:
        self.root, self.json_path = json_path.parent, json_path
        document = read_json(json_path)
        with error_in(str(json_path)):
            self.categories = parse_categories(document)
            self.videos = _parse_videos(document, {category.id for category in self.categories})

    @classmethod
    def open(cls, root: Path, split: str) -> VIPSeg:
        """Read `root/panoptic_gt_VIPSeg_<split>.json`."""
        if not root.is_dir():
            raise DatasetError(f"dataset folder {root} does not exist")
        path = root / f"{JSON_PREFIX}{safe_name(split, 'split')}.json"
        if not path.is_file():
            there = ", ".join(splits_of(root)) or "none; make them with dvis dataset prepare-vipseg"
            raise DatasetError(f"{path} does not exist; splits in {root}: {there}")
        return cls(path)

    @property
    def path(self) -> Path:
        """The split's json."""
        return self.json_path

    @property
    def annotated(self) -> bool:
        """Whether there is any ground truth (the test split has none)."""
        return any(frame.segments for video in self.videos for frame in video.frames)

    def image_paths(self, video: VIPSegVideo) -> list[Path]:
        """The images of a video, in order.

        Raises:
            DatasetError: one is missing.
        """
        folder = self.root / "images" / video.video_id
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        paths = []
        for frame in video.frames:
            name = next((frame.stem + end for end in IMAGE_SUFFIXES if frame.stem + end in there), None)
            if name is None:
                raise DatasetError(f"video '{video.video_id}': image {folder / frame.stem}.jpg is missing")
            paths.append(folder / name)
        return paths

    def mask_path(self, video: VIPSegVideo, frame: VIPSegFrame) -> Path:
        """Where the frame's ground truth is."""
        return mask_path(self.root, video.video_id, frame.stem)

    def read_ids(self, video: VIPSegVideo, frame: VIPSegFrame) -> npt.NDArray[np.uint32]:
        """The frame's ground truth: (height, width) uint32 ids, 0 = void.

        Raises:
            DatasetError: missing, damaged, or not of the size that the json gives.
        """
        return read_ids(self.mask_path(video, frame), frame.width, frame.height)

    def read_picture(self, video: VIPSegVideo, frame: VIPSegFrame) -> npt.NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB; DatasetError if missing, damaged or of another size."""
        folder = self.root / "images" / video.video_id
        paths = [folder / (frame.stem + suffix) for suffix in IMAGE_SUFFIXES]
        path = next((path for path in paths if path.is_file()), paths[0])
        return read_picture(path, frame.width, frame.height)


def mask_path(root: Path, video_id: str, stem: str) -> Path:
    """Where a frame's ground truth is."""
    return root / "panomasksRGB" / video_id / f"{stem}.png"


def splits_of(root: Path) -> list[str]:
    """The splits that have a json in `root`: train, val, test first."""
    names = {path.stem[len(JSON_PREFIX) :] for path in root.glob(f"{JSON_PREFIX}*.json")}
    usual = [name for name in ("train", "val", "test") if name in names]
    return usual + sorted(names - set(usual))


def split_document(
    entries: Mapping[str, Mapping[str, Any]], categories: Iterable[Category]
) -> dict[str, Any]:
    """The json of a split, from the `images` and `annotations` of each video."""
    return {
        "videos": [{"video_id": name, "images": one["images"]} for name, one in entries.items()],
        "annotations": [
            {"video_id": name, "annotations": one["annotations"]} for name, one in entries.items()
        ],
        "categories": [
            {"id": one.id, "name": one.name, "isthing": int(one.isthing), "color": list(one.color)}
            for one in categories
        ],
    }


def parse_categories(document: Any) -> tuple[Category, ...]:
    """The categories of a split's json, things before stuff; VIPSeg's own where it has none."""
    entries = document.get("categories") if isinstance(document, dict) else None
    if not entries:
        return vipseg_categories()
    found = parse_label_set(entries, "categories")
    return tuple(sorted(found, key=lambda category: (not category.isthing, category.id)))


def _parse_videos(document: Any, categories: set[int]) -> tuple[VIPSegVideo, ...]:
    if not isinstance(document, dict) or not isinstance(document.get("videos"), list):
        raise DatasetError("must hold videos, annotations and categories")
    annotations: dict[str, Any] = {}
    for entry in list_of(document.get("annotations"), "annotations"):
        annotations[safe_name(value_of(entry, "video_id"), "video_id")] = entry
    videos: dict[str, VIPSegVideo] = {}
    for entry in document["videos"]:
        name = safe_name(value_of(entry, "video_id"), "video_id")
        if name in videos:
            raise DatasetError(f"video '{name}' is listed twice")
        with error_in(f"video '{name}'"):
            if name not in annotations:
                raise DatasetError("no entry in annotations")
            videos[name] = VIPSegVideo(name, _parse_frames(entry, annotations[name], categories))
    return tuple(videos.values())


def _parse_frames(video: Any, annotation: Any, categories: set[int]) -> tuple[VIPSegFrame, ...]:
    images = list_of(value_of(video, "images"), "images")
    truths = list_of(value_of(annotation, "annotations"), "annotations")
    if len(images) != len(truths):
        raise DatasetError(f"{len(images)} images but {len(truths)} annotations")
    frames = []
    for image, truth in zip(images, truths, strict=True):
        image_id, file_name = str(value_of(image, "id")), safe_name(value_of(truth, "file_name"), "file_name")
        if str(truth.get("image_id", image_id)) != image_id:
            raise DatasetError(f"image '{image_id:.80}' stands beside annotation '{truth['image_id']!s:.80}'")
        frames.append(
            VIPSegFrame(
                stem=stem_of(file_name),
                width=whole(value_of(image, "width"), f"frame {file_name}: width", 1, LARGEST_SIDE),
                height=whole(value_of(image, "height"), f"frame {file_name}: height", 1, LARGEST_SIDE),
                segments=parse_segments(value_of(truth, "segments_info"), categories, f"frame {file_name}: "),
            )
        )
    if len({frame.stem for frame in frames}) != len(frames):
        raise DatasetError("two frames have the same file name")
    return tuple(frames)


def parse_segments(
    entries: Any, categories: set[int], where: str = "", areas: bool = True
) -> tuple[Mapping[str, Any], ...]:
    """The `segments_info` of a frame, checked; errors begin with `where`. With `areas` every segment must have one."""
    seen = set()
    for entry in list_of(entries, "segments_info"):
        number = whole(value_of(entry, "id"), f"{where}segment id", 1, LARGEST_ID)
        category = value_of(entry, "category_id")
        if type(category) is not int or category not in categories:
            raise DatasetError(f"{where}segment {number} has unknown category_id {category!r:.40}")
        if number in seen:
            raise DatasetError(f"{where}segment {number} is listed twice")
        seen.add(number)
        if areas:
            whole(value_of(entry, "area"), f"{where}area of segment {number}", 0, LARGEST_SIDE**2)
    return tuple(entries)
