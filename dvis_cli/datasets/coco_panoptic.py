"""Single images with panoptic annotation, in COCO's layout. The json is read and checked at once.

DIR/<split>/<name>.jpg                       or DIR/images/<split>/
DIR/panoptic_<split>/<stem>.png              or DIR/annotations/panoptic_<split>/
DIR/annotations/panoptic_<split>.json        or DIR/panoptic_<split>.json
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dvis_cli.datasets.id_map import LARGEST_SIDE, read_ids
from dvis_cli.datasets.names import error_in, read_json, safe_name, stem_of, whole
from dvis_cli.datasets.pictures import read_picture
from dvis_cli.datasets.vipseg import parse_categories, parse_segments
from dvis_cli.errors import DatasetError

MASKS_PREFIX = "panoptic_"


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image as the json describes it: a video of one frame to whoever reads videos."""

    video_id: str  # the images' folder
    stem: str
    image_name: str
    mask_name: str
    width: int  # pixels
    height: int
    segments: tuple[Mapping[str, Any], ...]  # segments_info: id, category_id, iscrowd

    @property
    def frames(self) -> tuple[CocoImage, ...]:
        return (self,)


class CocoPanoptic:
    """One split: `videos` (of one image each), `categories` (things first), and the way to their pictures.

    Raises:
        DatasetError: what is wrong in the json, or that a folder is missing.
    """

    def __init__(self, json_path: Path, images: Path, masks: Path) -> None:
        self.json_path, self.image_folder, self.mask_folder = json_path, images, masks
        for folder in (images, masks):
            if not folder.is_dir():
                raise DatasetError(f"folder {folder} of {json_path} does not exist")
        document = read_json(json_path)
        with error_in(str(json_path)):
            if not isinstance(document, dict) or not document.get("categories"):
                raise DatasetError("must hold images, annotations and categories")
            self.categories = parse_categories(document)
            known = {category.id for category in self.categories}
            self.videos = _parse_images(document, images.name, known)

    @classmethod
    def find(cls, root: Path, split: str) -> Path | None:
        """The json of a split, if `root` has one."""
        name = f"{MASKS_PREFIX}{safe_name(split, 'split')}.json"
        return next((path for path in (root / "annotations" / name, root / name) if path.is_file()), None)

    @classmethod
    def open(cls, root: Path, split: str) -> CocoPanoptic:
        """Read a split of the folder `root`, e.g. `train2017`."""
        json_path = cls.find(root, split)
        if json_path is None:
            raise DatasetError(f"{root / 'annotations' / f'{MASKS_PREFIX}{split}.json'} does not exist")
        images, masks = root / split, root / f"{MASKS_PREFIX}{split}"
        if not images.is_dir() and (root / "images" / split).is_dir():
            images = root / "images" / split
        if not masks.is_dir() and (root / "annotations" / masks.name).is_dir():
            masks = root / "annotations" / masks.name
        return cls(json_path, images, masks)

    def read_picture(self, image: CocoImage, frame: CocoImage) -> npt.NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB; DatasetError if missing, damaged or of another size."""
        return read_picture(self.image_folder / image.image_name, image.width, image.height)

    def read_ids(self, image: CocoImage, frame: CocoImage) -> npt.NDArray[np.uint32]:
        """(height, width) uint32 ids, 0 = void; DatasetError if missing, damaged or of another size."""
        return read_ids(self.mask_folder / image.mask_name, image.width, image.height)


def _parse_images(document: dict[str, Any], folder: str, categories: set[int]) -> tuple[CocoImage, ...]:
    try:
        truths = {truth["image_id"]: truth for truth in document["annotations"]}
        listed = [(entry["id"], entry) for entry in document["images"]]
    except (KeyError, TypeError):
        raise DatasetError("must hold images and annotations, with id and image_id") from None
    images = []
    for number, entry in listed:
        if number in truths:
            with error_in(f"image {number!r:.40}"):
                try:
                    images.append(_parse_image(entry, truths[number], folder, categories))
                except (KeyError, TypeError, AttributeError) as error:
                    raise DatasetError(f"missing or wrong entry {error}") from None
    return tuple(images)


def _parse_image(
    entry: dict[str, Any], truth: dict[str, Any], folder: str, categories: set[int]
) -> CocoImage:
    name, mask = safe_name(entry["file_name"], "file_name"), safe_name(truth["file_name"], "file_name")
    width, height = (whole(entry[side], side, 1, LARGEST_SIDE) for side in ("width", "height"))
    segments = parse_segments(truth["segments_info"], categories, areas=False)
    return CocoImage(folder, stem_of(name), name, mask, width, height, segments)
