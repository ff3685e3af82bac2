"""One panoptic truth of a picture: masks made by hand, then the VOC teacher's objects, then the ADE20K teacher's stuff.

Where the sources are unsure or disagree there is nothing (id 0).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import yaml

CLASSES = yaml.safe_load((Path(__file__).parent / "labels" / "classes.yaml").read_text())
SPEC = {**CLASSES["things"], **CLASSES["stuff"]}  # VIPSeg name -> source -> names
STUFF = tuple(CLASSES["stuff"])
SURE = 0.55  # probability of a class of stuff from which it is taken
SURE_THING = 0.6  # and of an object of the VOC teacher
NOTHING = 0.6  # of the VOC teacher's background, for stuff to be taken
LEAST = {"window": 200, "door": 400, "painting_or_poster": 200, "bed": 1500}  # pixels of a 360-line picture
LEAST_OBJECT, LEAST_PIECE = 90, 60  # of an object, of a piece of stuff
FILL = 0.6  # share of its hull that a piece must fill to count as one object
TALL = (1.25, 4.5)  # height to width of one person who stands or walks

Mask = npt.NDArray[np.bool_]


def names_of(source: str) -> dict[str, str]:
    """A source's name of a class -> VIPSeg's."""
    return {theirs: name for name, spec in SPEC.items() for theirs in spec.get(source, [])}


@dataclass
class Opinion:
    """What the two teachers say: the best few classes of each cell."""

    ade: npt.NDArray[np.uint8]  # (4, h, w) class numbers
    ade_share: npt.NDArray[np.float32]  # (4, h, w) probability
    voc: npt.NDArray[np.uint8]  # (2, h, w)
    voc_share: npt.NDArray[np.float32]

    @classmethod
    def read(cls, path: Path) -> Opinion:
        """From a file that teach.py wrote."""
        with np.load(path) as file:
            return cls(
                file["ai"],
                file["ap"].astype(np.float32) / 255,
                file["vi"],
                file["vp"].astype(np.float32) / 255,
            )

    def share(self, source: str, classes: list[int], size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """(H, W): summed probability of some classes."""
        index, share = (self.ade, self.ade_share) if source == "ade20k" else (self.voc, self.voc_share)
        summed = (share * np.isin(index, classes)).sum(0)
        return cv2.resize(summed, size[::-1], interpolation=cv2.INTER_LINEAR)


@dataclass
class Hand:
    """What people drew into a picture."""

    objects: list[tuple[Mask, str]] = field(default_factory=list)  # later ones lie on top
    unknown: Mask | None = None  # something that must stay void
    complete: bool = False  # every object of the teacher's classes is drawn: what is not drawn is none
    not_teachers: frozenset[str] = frozenset()  # classes that the teacher mistakes here
    stuff: dict[str, str | None] = field(
        default_factory=dict
    )  # the teacher's class of stuff -> the right one, or None


@dataclass
class Truth:
    """ids 0 is void; `names[id]` is the VIPSeg class of a segment."""

    ids: npt.NDArray[np.int32]
    names: dict[int, str]
    by_hand: dict[int, int]  # id of a thing that people drew -> which of the picture's drawn objects it is


class Labeller:
    """Joins hands and teachers."""

    def __init__(self, ade_labels: list[str], voc_labels: list[str]) -> None:
        """Names of the teachers' classes by number."""
        ade, voc = names_of("ade20k"), names_of("voc")
        self.ade: dict[str, list[int]] = {}
        self.voc: dict[str, list[int]] = {}
        for number, label in enumerate(ade_labels):
            if label in ade and not (label == "pool" and ade_labels.index(label) != number):
                self.ade.setdefault(ade[label], []).append(number)
        for number, label in enumerate(voc_labels):
            if label in voc:
                self.voc.setdefault(voc[label], []).append(number)
        self.voc_objects = list(range(1, len(voc_labels)))

    def label(self, size: tuple[int, int], opinion: Opinion, hand: Hand) -> Truth:
        """`size`: (height, width)."""
        ids, names = np.zeros(size, np.int32), {}
        by_hand = np.zeros(size, bool)
        for mask, _ in hand.objects:
            by_hand |= mask
        nothing = opinion.share("voc", [0], size) >= NOTHING
        number = self._stuff(ids, names, opinion, nothing, hand)
        if not hand.complete:
            number = self._objects(ids, names, opinion, by_hand, hand, number)
        if hand.unknown is not None:
            ids[hand.unknown] = 0
        drawn: dict[int, int] = {}
        for index, (mask, name) in enumerate(hand.objects):
            if name in STUFF:
                number_of = next((n for n, known in names.items() if known == name), None)
                if number_of is None:
                    number += 1
                    number_of, names[number] = number, name
                ids[mask] = number_of
            else:
                number += 1
                ids[mask], names[number], drawn[number] = number, name, index
        left = set(np.unique(ids).tolist())
        return Truth(ids, {n: name for n, name in names.items() if n in left}, drawn)

    def _stuff(
        self, ids: npt.NDArray[np.int32], names: dict[int, str], opinion: Opinion, nothing: Mask, hand: Hand
    ) -> int:
        classes: dict[str, list[int]] = {}
        for name, numbers in self.ade.items():
            right = hand.stuff.get(name, name)
            if right is not None and np.isin(opinion.ade[0], numbers).any():
                classes.setdefault(right, []).extend(numbers)
        shares = {name: opinion.share("ade20k", numbers, ids.shape) for name, numbers in classes.items()}
        scale = ids.shape[0] * ids.shape[1] / (360 * 640)
        number = 0
        for name, share in shares.items():
            sure = (share >= SURE) & nothing
            if name in STUFF:
                kept = large(sure, LEAST_PIECE * scale)
                if kept.any():
                    number += 1
                    ids[kept], names[number] = number, name
                continue
            if hand.complete and "coco" in SPEC[name]:
                continue
            for piece in pieces(sure, LEAST[name] * scale):
                if filled(piece) >= FILL:
                    number += 1
                    ids[piece], names[number] = number, name
        return number

    def _objects(
        self,
        ids: npt.NDArray[np.int32],
        names: dict[int, str],
        opinion: Opinion,
        by_hand: Mask,
        hand: Hand,
        number: int,
    ) -> int:
        """The VOC teacher's, piece by piece; what is not safely one object is void."""
        scale = ids.shape[0] * ids.shape[1] / (360 * 640)
        near = cv2.dilate(by_hand.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        for name, numbers in self.voc.items():
            if not np.isin(opinion.voc[0], numbers).any():
                continue
            sure = (opinion.share("voc", numbers, ids.shape) >= SURE_THING) & ~by_hand
            if name in STUFF:
                continue
            for piece in pieces(sure, LEAST_OBJECT * scale):
                safe = name not in hand.not_teachers and filled(piece) >= FILL
                if name == "person":
                    rows, columns = np.flatnonzero(piece.any(1)), np.flatnonzero(piece.any(0))
                    tall = (rows[-1] - rows[0] + 1) / (columns[-1] - columns[0] + 1)
                    safe &= TALL[0] <= tall <= TALL[1]
                if (piece & near).sum() > 0.2 * piece.sum():
                    safe = False
                if safe:
                    number += 1
                    names[number] = name
                ids[piece & ~by_hand] = number if safe else 0
        return number


def pieces(mask: Mask, least: float) -> list[Mask]:
    """Connected pieces of at least so many pixels."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return [parts == k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] >= least]


def large(mask: Mask, least: float) -> Mask:
    """Without the pieces of fewer pixels."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    keep = stats[:, cv2.CC_STAT_AREA] >= least
    keep[0] = False
    return np.asarray(keep[parts], bool)


def filled(piece: Mask) -> float:
    """Share of its convex hull that a piece fills."""
    ys, xs = np.nonzero(piece)
    hull = cv2.convexHull(np.stack([xs, ys], 1).astype(np.int32))
    return float(len(xs) / max(1.0, cv2.contourArea(hull) + cv2.arcLength(hull, True) / 2 + 1))
