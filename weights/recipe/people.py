"""People of the pose2sim clips: ISNet's masks cleaned, differences to the empty room and from clip to clip.

    python people.py DATA [CLIP ...]      -> DATA/people/<clip>/<00000>.png
        uint8: 0 nobody, 1 man, 2 bystander, 3 woman, 255 unsure

The "multi" clips are the "single" clips, frame by frame, with a second person put in and other colours. So the
man and the bystander are carried over (a homography), and the woman is what differs after the colours are
matched. labels/people_fix.json: clip -> "hulls": frame -> a polygon around the man, from which a picture of the
empty room is put together where ISNet has no masks of him.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from clips import CLIPS, Clip, frame_path
from difference import lab
from follow import BOXES, interpolated
from scene import between

IDS = {"unsure": 255, "bystander": 2, "man": 1, "woman": 3}  # in the order of painting
FIX = Path(__file__).parent / "labels" / "people_fix.json"
FOREGROUND = 128
DIFFERENCE, DIFFERENCE_TO_MAN = 22, 38  # grey levels, the largest of the three channels
WOMAN_HOLE, WOMAN_PART = 900, 0.12  # pixels; share of the largest part
FAR, SAME = 12, 4  # Lab units from the empty room: somebody is there, nobody is whatever ISNet says
BESIDE = 41  # pixels around ISNet's mask (width of the square) where the difference counts as well
MARGIN = 9  # pixels (width of the square) around an outline that still may be the man
SHADOW, SHADOW_CHROMA = -0.45, 6.0  # a shadow darkens by less than this share and changes the chroma by less
HOLE = 300  # pixels
PART = 0.05  # of the largest part: smaller parts of a person are dropped
REACH = 0.15  # of the box's height: how far the woman may reach out of her box


def read(root: Path, clip: str, person: str, index: int, still: bool = False) -> np.ndarray | None:
    """ISNet's mask; of a person who stands still, the mask of the nearest frame that has one."""
    folder = root / "foreground" / clip / person
    path = folder / f"{index:05d}.png"
    if still and not path.exists():
        path = min(folder.glob("*.png"), key=lambda other: abs(int(other.stem) - index), default=path)
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.exists() else None
    return None if mask is None else mask >= FOREGROUND


def cleaned(
    mask: np.ndarray, box: np.ndarray, reach: float = 0.12, kernel: int = 3, part: float = PART
) -> np.ndarray:
    """bool (H, W): the large parts inside of the box (grown by ``reach``), holes of a few pixels closed."""
    work = (mask & within(box, mask.shape, reach)).astype(np.uint8)
    work = cv2.morphologyEx(work, cv2.MORPH_OPEN, np.ones((kernel, kernel), np.uint8))
    count, parts, stats, _ = cv2.connectedComponentsWithStats(work)
    if count < 2:
        return np.zeros(mask.shape, bool)
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = np.isin(parts, 1 + np.where(areas >= part * areas.max())[0])
    return filled(kept)


class Single:
    """The man, and who stands by, in a one-person clip."""

    def __init__(self, root: Path, clip: str):
        self.root, self.clip = root, clip
        self.boxes = json.loads(BOXES.read_text())[clip]
        hulls = json.loads(FIX.read_text()).get(clip, {}).get("hulls", {})
        self.cluttered = bool(hulls)  # where still things near him are foreground to ISNet
        self.room = empty_room(root, clip, hulls, self.boxes["man"])

    def masks(self, index: int, image: np.ndarray) -> dict[str, np.ndarray]:
        """bool (H, W) for each person, and "unsure"."""
        out = {}
        if "bystander" in self.boxes:
            seen = read(self.root, self.clip, "bystander", index, still=True)
            if seen is not None:
                out["bystander"] = cleaned(seen, interpolated(self.boxes["bystander"], index), 0.0, part=0.5)
        man, unsure = self.man(read(self.root, self.clip, "man", index), image)
        box = interpolated(self.boxes["man"], index)
        out["man"] = cleaned(man, box)
        out["unsure"] = unsure & within(box, unsure.shape, 0.12)
        return out

    def man(self, given: np.ndarray | None, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is not the empty room; with ISNet's mask, that and what differs beside it. Then: where unsure."""
        room, known = self.room
        moved, distance = differing(lab(image), room)
        if given is None:
            closed = cv2.morphologyEx(
                (moved & known).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8)
            )
            return filled(closed > 0), ~known
        beside = cv2.dilate(given.astype(np.uint8), np.ones((BESIDE, BESIDE), np.uint8)) > 0
        same = known & (distance < SAME) & self.cluttered
        return filled((given & ~same) | (moved & known & beside)), np.zeros(known.shape, bool)


def within(box: np.ndarray, shape: tuple[int, ...], reach: float) -> np.ndarray:
    """bool (H, W): the box, grown by ``reach`` of its height."""
    x0, y0, x1, y1 = box
    grow = reach * (y1 - y0)
    inside = np.zeros(shape, bool)
    inside[max(int(y0 - grow), 0) : int(y1 + grow), max(int(x0 - grow), 0) : int(x1 + grow)] = True
    return inside


def differing(image: np.ndarray, room: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two Lab pictures -> bool (H, W) differs and is no shadow, float32 (H, W) by how much."""
    delta = cv2.GaussianBlur(image - room, (0, 0), 1.0)
    chroma = np.hypot(delta[..., 1], delta[..., 2])
    distance = np.sqrt(delta[..., 0] ** 2 + 2 * chroma**2)
    shadow = (delta[..., 0] < 0) & (delta[..., 0] > SHADOW * room[..., 0]) & (chroma < SHADOW_CHROMA)
    return (distance > FAR) & ~shadow, distance


def empty_room(
    root: Path, clip: str, hulls: dict[str, list[float]], box_of: dict
) -> tuple[np.ndarray, np.ndarray]:
    """Lab (H, W, 3), each pixel's median over the frames where the man is not, and bool (H, W) where there were any.

    Where he is: ISNet's masks where no hulls are given, else the hulls written by hand and in other frames his box.
    """
    frames = range(0, CLIPS[clip].frames, CLIPS[clip].step)
    pictures = [cv2.imread(str(frame_path(root, clip, index))) for index in frames]
    outlines = []
    for index in frames:
        if not hulls:
            mask = cleaned(read(root, clip, "man", index), interpolated(box_of, index))
            outlines.append(cv2.convexHull(np.argwhere(mask)[:, ::-1].astype(np.int32)))
        else:
            x0, y0, x1, y1 = interpolated(box_of, index)
            outlines.append(np.int32([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]))
    for name, numbers in hulls.items():
        pictures.append(cv2.imread(str(frame_path(root, clip, int(name)))))
        outlines.append(np.array(numbers, np.float32).reshape(-1, 2).astype(np.int32))
    return median_outside(pictures, outlines)


def median_outside(pictures: list[np.ndarray], outlines: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Median (Lab) over the pictures of what lies outside of their outlines, and where anything does."""
    hidden = np.zeros((len(pictures), *pictures[0].shape[:2]), np.uint8)
    for layer, outline in zip(hidden, outlines, strict=True):
        cv2.fillPoly(layer, [outline.reshape(-1, 2)], 1)
        cv2.dilate(layer, np.ones((MARGIN, MARGIN), np.uint8), dst=layer)
    seen = len(pictures) - hidden.sum(0, dtype=np.int32)
    middle = np.maximum((seen - 1) // 2, 0)[None]
    channels = []
    for channel in range(3):  # hidden values sort to the end
        values = np.stack([p[..., channel] for p in pictures]).astype(np.int16) + np.int16(1000) * hidden
        values.sort(axis=0)
        channels.append(np.take_along_axis(values, middle, 0)[0])
    room = np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8)
    return lab(room), seen > 0


class Multi:
    """A two-person clip, from the one-person clip of the same camera."""

    def __init__(self, root: Path, clip: str):
        self.root, self.clip = root, clip
        self.source = f"single{clip[-1]}"
        self.single = Single(root, self.source)
        self.matrix = between(root, self.source, clip)
        self.woman = json.loads(BOXES.read_text())[clip]["woman"]
        self.tables = None

    def warped(self, picture: np.ndarray, flags: int) -> np.ndarray:
        size = picture.shape[1::-1]
        return cv2.warpPerspective(picture, self.matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)

    def masks(self, index: int, image: np.ndarray) -> dict[str, np.ndarray]:
        before = cv2.imread(str(frame_path(self.root, self.source, index)))
        out = {
            name: self.warped(mask.astype(np.uint8), cv2.INTER_NEAREST) > 0
            for name, mask in self.single.masks(index, before).items()
        }
        before = matched(self.warped(before, cv2.INTER_LINEAR), image)
        delta = cv2.GaussianBlur(np.abs(image.astype(np.float32) - before).max(2), (0, 0), 1.0)
        differs = delta > np.where(out["man"], DIFFERENCE_TO_MAN, DIFFERENCE)
        closed = cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0
        given = read(self.root, self.clip, "woman", index)
        if given is not None:
            beside = cv2.dilate(out["man"].astype(np.uint8), np.ones((BESIDE, BESIDE), np.uint8)) > 0
            closed |= given & ~out["man"] & (~beside | (delta > DIFFERENCE / 2))
        woman = cleaned(filled(closed, WOMAN_HOLE), interpolated(self.woman, index), REACH, 5, WOMAN_PART)
        out["woman"] = filled(woman, WOMAN_HOLE)
        return out


def filled(mask: np.ndarray, hole: int = HOLE) -> np.ndarray:
    """Holes smaller than ``hole`` pixels closed."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    return mask | np.isin(parts, [k for k in range(1, len(stats)) if stats[k, cv2.CC_STAT_AREA] < hole])


def matched(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """``source`` with each channel's levels mapped to what ``target`` mostly has there."""
    out = np.empty(source.shape, np.float32)
    levels = np.arange(256)
    for channel in range(3):
        s, t = source[::3, ::3, channel].ravel(), target[::3, ::3, channel].ravel()
        known = [v for v in levels[::4] if (np.abs(s.astype(int) - v) <= 4).sum() > 20]
        medians = [np.median(t[np.abs(s.astype(int) - v) <= 4]) for v in known]
        out[..., channel] = np.interp(levels, known, medians)[source[..., channel]]
    return out


def main(root: Path, names: list[str]) -> None:
    for name in names or [clip for clip in CLIPS if clip.startswith(("single", "multi"))]:
        clip: Clip = CLIPS[name]
        maker = (Single if name.startswith("single") else Multi)(root, name)
        out = root / "people" / name
        out.mkdir(parents=True, exist_ok=True)
        for index in range(0, clip.frames, clip.step):
            image = cv2.imread(str(frame_path(root, name, index)))
            ids = np.zeros(image.shape[:2], np.uint8)
            masks = maker.masks(index, image)
            for person, value in IDS.items():
                if person in masks:
                    ids[masks[person]] = value
            cv2.imwrite(str(out / f"{index:05d}.png"), ids)
        print(name, flush=True)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
