"""Pictures with masks by hand: DAVIS 2016, COCO 2017, CCP; and films without any.

A picture's key is `<source>/<video or nothing>/<stem>`; `hand` turns what people drew into `truth.Hand`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import yaml
from truth import SPEC, Hand, Opinion, names_of

# Never trained on.
HELD_OUT_DAVIS = ("breakdance-flare", "car-turn", "goat", "horsejump-low", "lucia", "motorbike")
HELD_OUT_COCO = 60  # images, the first by id that remain after every fifth
DAVIS_STEP, CCP_STEP, FILM_STEP = 2, 6, 2  # every so manieth picture is used
BAGS = ("bag", "purse", "wallet", "accessories")
# What the ADE20K teacher mistakes in a whole film: its class -> the right one, or nothing.
ASPHALT = dict.fromkeys(
    ("path", "water", "sea", "wall", "ground", "floor", "sand", "building", "sky"), "road"
)
FILM_ERRORS: dict[str, dict[str, str | None]] = {
    "car-detection": {**ASPHALT},
    "person-bicycle-car-detection": {**ASPHALT},
    "bottle-detection": {"cupboard_or_showcase_or_storage_rack": None, "shelf": None},
}
JOINED = {"bicycle": "bicycle", "motorcycle": "motorbike", "horse": "horse"}  # VIPSeg's, the VOC teacher's


@dataclass(frozen=True)
class Picture:
    """One picture and where it is from."""

    source: str  # davis, coco, ccp, film
    video: str  # "" for single images
    stem: str
    path: Path

    @property
    def key(self) -> str:
        return "_".join(part for part in (self.source, self.video, self.stem) if part)


def pictures(data: Path, films: Path) -> Iterator[Picture]:
    """All that are used, in a fixed order."""
    for path in sorted((data / "coco" / "images").glob("*.jpg")):
        yield Picture("coco", "", path.stem, path)
    for folder in sorted((data / "davis" / "images").iterdir()):
        for path in sorted(folder.glob("*.jpg"))[::DAVIS_STEP]:
            yield Picture("davis", folder.name, path.stem, path)
    for path in sorted(films.glob("*/*.jpg"))[::FILM_STEP]:
        yield Picture("film", path.parent.name, path.stem, path)
    for path in sorted((data / "ccp" / "images").glob("*.jpg"))[::CCP_STEP]:
        yield Picture("ccp", "", path.stem, path)


def held_out(picture: Picture, data: Path) -> bool:
    """Whether it belongs to the split that is never trained on."""
    if picture.source == "davis":
        return picture.video in HELD_OUT_DAVIS
    return picture.source == "coco" and picture.stem in coco_held_out(data)


@lru_cache
def coco_held_out(data: Path) -> frozenset[str]:
    stems = sorted(path.stem for path in (data / "coco" / "images").glob("*.jpg"))
    return frozenset(stems[::9][:HELD_OUT_COCO])


class Hands:
    """What people drew, for each picture."""

    def __init__(self, data: Path, voc_labels: list[str]) -> None:
        self.data, self.voc_labels = data, voc_labels
        self.davis = yaml.safe_load((data / "davis" / "classes.yaml").read_text())
        self.tags = json.loads((data / "ccp" / "tags.json").read_text())
        coco = json.loads((data / "coco" / "instances.json").read_text())
        self.coco_names = {c["id"]: names_of("coco").get(c["name"]) for c in coco["categories"]}
        stems = {image["id"]: Path(image["file_name"]).stem for image in coco["images"]}
        self.coco: dict[str, list[dict]] = {}
        for annotation in coco["annotations"]:
            self.coco.setdefault(stems[annotation["image_id"]], []).append(annotation)

    def __call__(self, picture: Picture, size: tuple[int, int], opinion: Opinion) -> Hand:
        if picture.source == "davis":
            return self._davis(picture, size, opinion)
        if picture.source == "coco":
            return self._coco(picture, size)
        if picture.source == "ccp":
            return self._ccp(picture, size)
        return Hand(stuff=FILM_ERRORS.get(picture.video, {}))

    def _davis(self, picture: Picture, size: tuple[int, int], opinion: Opinion) -> Hand:
        path = self.data / "davis" / "masks" / picture.video / f"{picture.stem}.png"
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 127
        first, *others = self.davis[picture.video]
        animals = frozenset({"cat", "dog", "horse", "cattle", "other_animal"})
        teacher_errs = animals if first in animals else frozenset()
        if not others:
            known = first in SPEC
            return Hand([(mask, first)] if known else [], None if known else mask, False, teacher_errs)
        # Person and something else in one mask: split by what the teacher says of each pixel.
        person = opinion.share("voc", [self.voc_labels.index("person")], size)
        other = others[0]
        if other in JOINED:
            share = opinion.share("voc", [self.voc_labels.index(JOINED[other])], size)
            parts = [
                (mask & (share > 1.3 * person) & (share > 0.15), other),
                (mask & (person > 1.3 * share) & (person > 0.15), "person"),
            ]
            return Hand([(largest_parts(part), name) for part, name in parts], mask, False, teacher_errs)
        # The other is of no class: the person is where the teacher is sure, the rest of the mask is void.
        return Hand([(mask & (person > 0.5), "person")], mask, False, teacher_errs)

    def _coco(self, picture: Picture, size: tuple[int, int]) -> Hand:
        from pycocotools import mask as runs

        hand, unknown = Hand(complete=True), np.zeros(size, bool)
        for annotation in sorted(self.coco.get(picture.stem, []), key=lambda a: -a["area"]):
            drawn = runs.decode(annotation["segmentation"]).astype(bool)
            name = self.coco_names[annotation["category_id"]]
            if annotation["iscrowd"] or name is None:
                unknown |= drawn
                for mask, _ in hand.objects if not annotation["iscrowd"] else []:
                    mask &= ~drawn
            else:
                hand.objects.append((drawn, name))
        hand.unknown = unknown
        return hand

    def _ccp(self, picture: Picture, size: tuple[int, int]) -> Hand:
        path = self.data / "ccp" / "labels" / f"{picture.stem}.png"
        tags = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        bags = np.isin(tags, [self.tags.index(tag) for tag in BAGS])
        hand = Hand([((tags > 0) & ~bags, "person")])
        if bags.sum() > 150:
            hand.objects.append((bags, "bag_or_package"))
        return hand


def largest_parts(mask: npt.NDArray[np.bool_], share: float = 0.08) -> npt.NDArray[np.bool_]:
    """Without the pieces that are smaller than a share of the largest."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept: npt.NDArray[np.bool_] = np.isin(parts, 1 + np.flatnonzero(areas >= share * areas.max()))
    return kept
