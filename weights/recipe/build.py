"""All labelled pictures as data sets: `train` and `val` in VIPSeg's layout, `stills` in COCO's panoptic layout.

    python build.py PICTURES FILMS OPINIONS DATA OUT

PICTURES holds davis/, coco/, ccp/ and teachers/, FILMS folders of frames, OPINIONS what teach.py wrote, DATA what the
scripts for the hand-labelled clips made. `train`: DAVIS and the street clip, which is also in
`street` by itself. `stills`: COCO, CCP and single frames of the films. `val`: what is never trained on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from clips import CLIPS, frame_path
from dataset import Labels
from layout import CATEGORIES, NAMES, Split
from sources import Hands, Picture, held_out, pictures
from truth import STUFF, Labeller, Opinion, Truth

SAME = 0.4  # overlap with which an object that a teacher found is the one of the frame before
FIRST_BY_HAND, FIRST_BY_TEACHER = 1000, 2000  # segment ids
SPLIT_FRAMES = 100  # of a training video at most


def teacher_labels(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the classes of both teachers, by number."""
    ade = [
        line.split("\t")[1]
        for line in (folder / "ade20k_labels.txt").read_text().splitlines()
        if "\t" in line
    ]
    voc = (folder / "coral_pascal_voc_segmentation_labels.txt").read_text().splitlines()[:21]
    return ["none", *ade], [name.strip() for name in voc]


class Numbering:
    """Segment ids that hold over a video."""

    def __init__(self) -> None:
        self.stuff = {name: index + 1 for index, name in enumerate(STUFF)}
        self.before: dict[int, tuple[str, npt.NDArray[np.bool_]]] = {}
        self.next = FIRST_BY_TEACHER

    def __call__(self, truth: Truth) -> tuple[npt.NDArray[np.int32], dict[int, int]]:
        """ids and category of each."""
        ids, segments = np.zeros_like(truth.ids), {}
        now = {}
        for number, name in sorted(truth.names.items()):
            mask = truth.ids == number
            if name in STUFF:
                new = self.stuff[name]
            elif number in truth.by_hand:
                new = FIRST_BY_HAND + truth.by_hand[number]
            else:
                new = self._linked(name, mask)
                now[new] = (name, mask)
            ids[mask] = new
            segments[new] = NAMES[name].id
        self.before = now
        return ids, segments

    def _linked(self, name: str, mask: npt.NDArray[np.bool_]) -> int:
        for number, (other, old) in self.before.items():
            if other == name and (mask & old).sum() > SAME * (mask | old).sum():
                del self.before[number]
                return number
        self.next += 1
        return self.next


class Stills:
    """Single images in COCO's panoptic layout."""

    def __init__(self, root: Path, split: str) -> None:
        self.root, self.split = root, split
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        (root / split).mkdir(parents=True, exist_ok=True)
        (root / f"panoptic_{split}").mkdir(parents=True, exist_ok=True)

    def add(self, stem: str, image: npt.NDArray[np.uint8], truth: Truth) -> None:
        ids, (height, width) = truth.ids, truth.ids.shape
        cv2.imwrite(str(self.root / self.split / f"{stem}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 93])
        rgb = np.stack([ids & 255, (ids >> 8) & 255, (ids >> 16) & 255], -1).astype(np.uint8)
        cv2.imwrite(str(self.root / f"panoptic_{self.split}" / f"{stem}.png"), rgb[..., ::-1])
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": f"{stem}.jpg", "width": width, "height": height})
        segments = [{"id": n, "category_id": NAMES[name].id, "iscrowd": 0} for n, name in truth.names.items()]
        self.annotations.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": segments})

    def close(self) -> None:
        listed = [
            {"id": c.id, "name": c.name, "isthing": int(c.isthing), "color": list(c.color)}
            for c in CATEGORIES
        ]
        document = {"images": self.images, "annotations": self.annotations, "categories": listed}
        (self.root / f"panoptic_{self.split}.json").write_text(json.dumps(document))


class Truths:
    """Pictures with their truth."""

    def __init__(self, data: Path, opinions: Path) -> None:
        ade, voc = teacher_labels(data / "teachers")
        self.labeller, self.hands, self.opinions = Labeller(ade, voc), Hands(data, voc), opinions

    def __call__(self, picture: Picture) -> tuple[npt.NDArray[np.uint8], Truth] | None:
        """Image BGR and truth; None where no teacher has been asked."""
        path = self.opinions / f"{picture.key}.npz"
        if not path.exists():
            return None
        image = np.asarray(cv2.imread(str(picture.path)), np.uint8)
        opinion = Opinion.read(path)
        hand = self.hands(picture, image.shape[:2], opinion)
        return image, self.labeller.label(image.shape[:2], opinion, hand)


def add_video(split: Split, name: str, listed: Iterable[Picture], truths: Truths) -> None:
    """Frames of one video."""
    numbering = Numbering()
    split.begin(name)
    for picture in listed:
        made = truths(picture)
        if made is not None:
            image, truth = made
            split.add(picture.stem, image, *numbering(truth))


def add_clips(split: Split, root: Path, part: str) -> None:
    """The hand-labelled clips whose people have been made."""
    for clip in CLIPS.values():
        span = clip.train if part == "train" else clip.val
        if span is None or not (root / "people" / clip.name).is_dir():
            continue
        labels, frames = Labels(root, clip), range(*span, clip.step)
        for start in range(0, len(frames), SPLIT_FRAMES if part == "train" else len(frames)):
            split.begin(f"{clip.name}_{frames[start]:03d}")
            for index in frames[start : start + SPLIT_FRAMES] if part == "train" else frames:
                split.add(
                    f"{index:05d}", cv2.imread(str(frame_path(root, clip.name, index))), *labels.frame(index)
                )


def main(data: Path, films: Path, opinions: Path, clips: Path, out: Path) -> None:
    truths = Truths(data, opinions)
    train, val, stills = Split(out, "train"), Split(out, "val"), Stills(out / "stills", "train")
    for (source, video), group in groupby(pictures(data, films), key=lambda p: (p.source, p.video)):
        listed = list(group)
        if source == "davis":
            add_video(val if held_out(listed[0], data) else train, f"davis_{video}", listed, truths)
            continue
        for picture in listed:
            if held_out(picture, data):
                add_video(val, picture.key, [picture], truths)
            elif (made := truths(picture)) is not None:
                stills.add(picture.key, *made)
        print(source, video, flush=True)
    street = Split(out / "street", "train")
    add_clips(train, clips, "train")
    add_clips(street, clips, "train")
    add_clips(val, clips, "val")
    for part in (train, street, val, stills):
        part.close()


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main(*(Path(name) for name in sys.argv[1:6]))
