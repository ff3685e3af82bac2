"""People of a static street camera: boxes of a detector joined to tracks, masks from the difference to the
background.

    python walkers.py DATA CLIP      needs DATA/boxes/<clip>.json (boxes.py)
      -> DATA/people/<clip>/<00000>.png, uint8, 0 = nobody, k = track k, 255 = something moved, unclear what
         DATA/people/<clip>.json, the tracks' boxes

labels/<clip>_tracks.json corrects the tracks by hand, in this order:
  "drop": [track, ...] or [track, first, last], "split": [[track, frame, new track], ...],
  "merge": [[kept, joined], ...], "boxes": [[track, {frame: [x0, y0, x1, y1], ...}], ...] (interpolated between
      them,
  in place of what the track had there). "thin": a polygon where what is low and wide is no part of a person (a
      tape in
  the wind). "unsure": [[track, first, last], ...], void in the data set (dataset.py).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from clips import CLIPS, frame_path
from difference import foreground, lab
from scipy.optimize import linear_sum_assignment

LABELS = Path(__file__).parent / "labels"
SCORE, STRONG = 0.3, 0.45  # a track takes boxes above SCORE, only boxes above STRONG start one
MOVED = 0.18  # least part of a box that differs from the background
MAX_GAP = 15  # frames that a track may be unseen
REACH, REACH_GAP = (
    0.35,
    0.04,
)  # how far a box may be from where it is expected, in its heights, + per unseen frame
MIN_LENGTH = 5  # boxes of a track
OTHER = 255
SHAPE = (48, 24)  # rows, columns of a track's shape prior
MIN_AREA = 25  # pixels of a person; a smaller mask is dropped
THIN = 7  # pixels
LOOSE_AREA = 40  # pixels: a moving part of nobody's that is at least as large becomes OTHER


def colours(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Lab histogram (2, 6 * 6 * 6) of the upper and lower half of the masked pixels; each sums to 1."""
    out = np.full((2, 216), 1e-3)
    half = image.shape[0] // 2
    for part, (pixels, inside) in enumerate(
        ((image[:half], mask[:half]), (image[half:], mask[half:])),
    ):
        np.add.at(out[part], bins(pixels[inside]), 1)
    return out / out.sum(1, keepdims=True)


def bins(pixels: np.ndarray) -> np.ndarray:
    """Lab (..., 3) -> bin of the histogram (...)."""
    scaled = (pixels - np.array([0, -40, -40])) / np.array([100, 80, 80]) * 6
    index = np.clip(scaled.astype(int), 0, 5)
    return (index[..., 0] * 6 + index[..., 1]) * 6 + index[..., 2]


@dataclass
class Track:
    boxes: dict[int, np.ndarray]  # frame -> x0, y0, x1, y1
    look: np.ndarray
    speed: np.ndarray = field(default_factory=lambda: np.zeros(2))

    @property
    def last(self) -> int:
        return max(self.boxes)

    def expected(self, frame: int) -> np.ndarray:
        last = self.last
        return self.boxes[last] + np.tile(self.speed, 2) * (frame - last)

    def add(self, frame: int, box: np.ndarray, look: np.ndarray) -> None:
        last = self.last
        moved = (centre(box) - centre(self.boxes[last])) / (frame - last)
        self.speed = 0.75 * self.speed + 0.25 * moved
        self.look = 0.9 * self.look + 0.1 * look
        self.boxes[frame] = box


def centre(box: np.ndarray) -> np.ndarray:
    """Middle of the upper edge: the head, which is hidden least."""
    return np.array([(box[0] + box[2]) / 2, box[1]])


def cost(track: Track, frame: int, box: np.ndarray, look: np.ndarray) -> float:
    expected = track.expected(frame)
    height = max(expected[3] - expected[1], 20)
    far = np.abs(centre(box) - centre(expected)).max() / height
    unlike = 1 - np.sqrt(track.look * look).sum(1).mean()
    if far > REACH + REACH_GAP * (frame - track.last):
        return 9.0
    return far + 0.8 * unlike + 0.02 * (frame - track.last)


def link(detections: dict[int, list[tuple[np.ndarray, np.ndarray, float]]]) -> list[Track]:
    """Join boxes frame by frame, at least total cost."""
    tracks: list[Track] = []
    for frame in sorted(detections):
        found = detections[frame]
        alive = [track for track in tracks if frame - track.last <= MAX_GAP]
        table = np.array([[cost(track, frame, box, look) for box, look, _ in found] for track in alive])
        taken = set()
        if table.size:
            for row, column in zip(*linear_sum_assignment(table), strict=True):
                if table[row, column] < 1.1:
                    alive[row].add(frame, *found[column][:2])
                    taken.add(column)
        for number, (box, look, score) in enumerate(found):
            if number not in taken and score > STRONG:
                tracks.append(Track({frame: box}, look))
    return [track for track in tracks if len(track.boxes) >= MIN_LENGTH]


def detect(root: Path, clip: str, background: np.ndarray) -> dict[int, list]:
    """Boxes over things that moved, with their colours and scores."""
    given = json.loads((root / "boxes" / f"{clip}.json").read_text())
    out = {}
    for name, rows in given.items():
        frame = int(name)
        image = lab(cv2.imread(str(frame_path(root, clip, frame))))
        changed, shadow = foreground(image, background)
        changed &= ~shadow
        out[frame] = []
        for *numbers, score in rows:
            box = np.clip(np.array(numbers), 0, np.array(image.shape[1::-1] * 2))
            x0, y0, x1, y1 = box.astype(int)
            inside = changed[y0:y1, x0:x1]
            if score >= SCORE and inside.size and inside.mean() > MOVED:
                out[frame].append((box, colours(image[y0:y1, x0:x1], inside), score))
    return out


def corrected(tracks: dict[int, dict[int, np.ndarray]], fix: dict) -> dict[int, dict[int, np.ndarray]]:
    """Apply the hand-written corrections, then fill each track's gaps by interpolation."""
    for entry in fix.get("drop", []):
        track, first, last = entry if isinstance(entry, list) else (entry, 0, 10**9)
        tracks[track] = {f: b for f, b in tracks[track].items() if not first <= f <= last}
    for track, frame, new in fix.get("split", []):
        moved = {f: b for f, b in tracks[track].items() if f >= frame}
        tracks[track] = {f: b for f, b in tracks[track].items() if f < frame}
        tracks.setdefault(new, {}).update(moved)
    for kept, joined in fix.get("merge", []):
        tracks[kept].update(tracks.pop(joined))
    for track, boxes in fix.get("boxes", []):
        own = tracks.setdefault(track, {})
        frames = sorted(int(f) for f in boxes)
        for frame in [f for f in own if frames[0] < f < frames[-1]]:
            del own[frame]
        own.update({int(f): np.array(b, float) for f, b in boxes.items()})
    return {name: filled(boxes) for name, boxes in tracks.items() if boxes}


def filled(boxes: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    frames = np.array(sorted(boxes))
    table = np.stack([boxes[f] for f in frames])
    every = np.arange(frames[0], frames[-1] + 1)
    columns = [np.interp(every, frames, table[:, k]) for k in range(4)]
    return {int(f): np.array(row) for f, row in zip(every, np.stack(columns, 1), strict=True)}


class Painter:
    """Gives each changed pixel to a track: by box, and where boxes overlap by the tracks' shapes and colours so far."""

    def __init__(self, thin: np.ndarray) -> None:
        self.thin = thin
        self.shape: dict[int, np.ndarray] = {}
        self.look: dict[int, np.ndarray] = {}

    def score(self, track: int, box: np.ndarray, image: np.ndarray, front: float) -> tuple[np.ndarray, tuple]:
        """log-likelihood (h, w) of the track in its padded box, and the box's window of the image."""
        height, width = image.shape[:2]
        pad = 0.12 * (box[3] - box[1]) * np.array([-1, -0.6, 1, 0.7])
        low = np.maximum(np.floor(box + pad), 0).astype(int)
        x0, y0, x1, y1 = np.minimum(low, [width - 1, height - 1, width, height])
        window = (slice(y0, y1), slice(x0, x1))
        size = (max(x1 - x0, 1), max(y1 - y0, 1))
        prior = self.shape.get(track)
        prior = np.full(size[::-1], 0.4) if prior is None else cv2.resize(prior, size)
        look = self.look.get(track)
        part = np.arange(size[1])[:, None] * 2 >= size[1]
        if look is None:
            likely = np.full(size[::-1], 0.02)
        else:
            index = bins(image[window])
            likely = np.where(part, look[1][index], look[0][index])
        return np.log(np.clip(prior, 0.02, 0.98)) + 0.7 * np.log(likely + 2e-3) + front, window

    def learn(self, track: int, mask: np.ndarray, image: np.ndarray, rate: float) -> None:
        shape = cv2.resize(mask.astype(np.float32), SHAPE[::-1], interpolation=cv2.INTER_AREA)
        look = colours(image, mask)
        old = self.shape.get(track)
        self.shape[track] = shape if old is None else (1 - rate) * old + rate * shape
        seen = self.look.get(track)
        self.look[track] = look if seen is None else (1 - rate) * seen + rate * look

    def paint(self, image: np.ndarray, background: np.ndarray, boxes: dict[int, np.ndarray]) -> np.ndarray:
        changed, shadow = foreground(image, background)
        owner = np.zeros(changed.shape, np.uint8)
        best = np.full(changed.shape, -np.inf)
        crowded = np.zeros(changed.shape, np.uint8)
        windows = {}
        for track, box in boxes.items():
            score, window = self.score(track, box, image, front=0.01 * box[3])
            windows[track] = window
            crowded[window] += 1
            better = score > best[window]
            best[window][better] = score[better]
            owner[window][better] = track
        masks = np.zeros(changed.shape, np.uint8)
        for track, window in windows.items():
            feet = np.arange(changed.shape[0])[:, None] > boxes[track][3] - 0.3 * (
                boxes[track][3] - boxes[track][1]
            )
            mine = (owner == track) & changed & ~(shadow & feet)
            mine[: window[0].start] = mine[window[0].stop :] = False
            mine = tidy(without_thin(mine, self.thin))
            if mine.sum() < MIN_AREA:
                continue
            masks[mine] = track
            alone = (crowded[window] == 1).mean() > 0.97
            self.learn(track, mine[window], image[window], 0.3 if alone else 0.03)
        loose = changed & ~shadow & (masks == 0)
        _, parts, stats, _ = cv2.connectedComponentsWithStats(loose.astype(np.uint8), connectivity=8)
        large = np.where(stats[:, cv2.CC_STAT_AREA] >= LOOSE_AREA)[0]
        masks[np.isin(parts, large[large > 0])] = OTHER
        return masks


def without_thin(mask: np.ndarray, zone: np.ndarray) -> np.ndarray:
    """Take off, inside of ``zone`` (bool), what is less than THIN pixels high."""
    solid = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((THIN, 1), np.uint8))
    solid = cv2.dilate(solid, np.ones((1, 3), np.uint8)) > 0
    return mask & (solid | ~zone)


def tidy(mask: np.ndarray) -> np.ndarray:
    """The largest part and what is not much smaller, small holes closed."""
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    closed = cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8))
    count, parts, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    if count < 2:
        return np.zeros(mask.shape, bool)
    areas = stats[1:, cv2.CC_STAT_AREA]
    keep = 1 + np.where(areas >= max(MIN_AREA // 2, 0.06 * areas.max()))[0]
    out = np.isin(parts, keep)
    holes, labels, hole_stats, _ = cv2.connectedComponentsWithStats((~out).astype(np.uint8), connectivity=4)
    small = [k for k in range(1, holes) if hole_stats[k, cv2.CC_STAT_AREA] < 12]
    return out | np.isin(labels, small)


def main(root: Path, clip: str) -> None:
    background = lab(cv2.imread(str(root / "median" / f"{clip}.png")))
    tracks = {k + 1: t.boxes for k, t in enumerate(link(detect(root, clip, background)))}
    fix = LABELS / f"{clip}_tracks.json"
    corrections = json.loads(fix.read_text()) if fix.exists() else {}
    tracks = corrected(tracks, corrections)
    out = root / "people" / clip
    out.mkdir(parents=True, exist_ok=True)
    rows = {
        str(k): {str(f): [round(float(v), 1) for v in b] for f, b in t.items()} for k, t in tracks.items()
    }
    (out.parent / f"{clip}.json").write_text(json.dumps(rows))
    thin = np.zeros(background.shape[:2], np.uint8)
    cv2.fillPoly(thin, [np.array(corrections.get("thin", []), np.int32).reshape(-1, 2)], 1)
    painter = Painter(thin > 0)
    for frame in range(CLIPS[clip].frames):
        image = lab(cv2.imread(str(frame_path(root, clip, frame))))
        boxes = {name: t[frame] for name, t in tracks.items() if frame in t}
        cv2.imwrite(str(out / f"{frame:05d}.png"), painter.paint(image, background, boxes))


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main(Path(sys.argv[1]), sys.argv[2])
