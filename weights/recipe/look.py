"""Pictures to look at: a coordinate grid over a frame, and an overlay of polygons.

python look.py grid IMAGE OUT [x0 y0 x1 y1] [--zoom 3] [--step 20]
python look.py polygons LABELS.json IMAGE OUT [x0 y0 x1 y1] [--zoom 2]
python look.py sheet FRAMES MASKS OUT --frames FIRST LAST STEP [--columns 3]     # a folder of frames, one of masks
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from polygons import COLOURS, draw


def window(image: np.ndarray, box: list[int], zoom: float) -> tuple[np.ndarray, tuple[int, int]]:
    x0, y0, x1, y1 = box or [0, 0, image.shape[1], image.shape[0]]
    part = image[y0:y1, x0:x1]
    return cv2.resize(part, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC), (x0, y0)


def grid(image: np.ndarray, box: list[int], zoom: float, step: int) -> np.ndarray:
    """Lines every ``step`` pixels of the frame, every second one numbered."""
    out, (x0, y0) = window(image, box, zoom)
    lines = out.copy()
    height, width = out.shape[:2]
    for axis, start, length in ((0, x0, width), (1, y0, height)):
        for value in range(-(-start // step) * step, int(start + length / zoom) + 1, step):
            at = int((value - start) * zoom)
            ends = ((at, 0), (at, height)) if axis == 0 else ((0, at), (width, at))
            cv2.line(lines, *ends, (0, 255, 255), 1)
    out = cv2.addWeighted(out, 0.65, lines, 0.35, 0)
    for axis, start, length in ((0, x0, width), (1, y0, height)):
        for value in range(-(-start // (2 * step)) * 2 * step, int(start + length / zoom) + 1, 2 * step):
            at = int((value - start) * zoom)
            for place in (10, (height if axis == 0 else width) // 2):
                where = (at + 2, place) if axis == 0 else (place - 8, at + 11)
                for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
                    cv2.putText(
                        out, str(value), where, cv2.FONT_HERSHEY_SIMPLEX, 0.36, colour, thick, cv2.LINE_AA
                    )
    return out


def overlay(
    image: np.ndarray, ids: np.ndarray, names: dict[int, str], box: list[int], zoom: float
) -> np.ndarray:
    """Segments in colour with their borders and names; void stays as it is."""
    tint = image.copy()
    for value in names:
        tint[ids == value] = COLOURS[value % len(COLOURS)]
    mixed = cv2.addWeighted(image, 0.6, tint, 0.4, 0)
    out, (x0, y0) = window(mixed, box, zoom)
    big = cv2.resize(
        ids[y0 : y0 + int(out.shape[0] / zoom), x0 : x0 + int(out.shape[1] / zoom)].astype(np.int32),
        (out.shape[1], out.shape[0]),
        interpolation=cv2.INTER_NEAREST,
    )
    edge = np.zeros(big.shape, bool)
    edge[:, 1:] |= big[:, 1:] != big[:, :-1]
    edge[1:] |= big[1:] != big[:-1]
    out[edge] = (255, 255, 255)
    for value, name in names.items():
        inside = (big == value).astype(np.uint8)
        if inside.sum() > 150:
            far = cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, 3)
            y, x = np.unravel_index(far.argmax(), far.shape)
            for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
                cv2.putText(out, name, (max(0, x - 4 * len(name)), y), 0, 0.4, colour, thick, cv2.LINE_AA)
    return out


def sheet(
    frames: Path, masks: Path, which: list[int], columns: int, box: list[int], zoom: float
) -> np.ndarray:
    """A contact sheet of mask outlines, each id in its colour with its number (masks uint8, 0 = nothing)."""
    tiles = []
    for index in range(*which):
        ids = cv2.imread(str(masks / f"{index:05d}.png"), cv2.IMREAD_GRAYSCALE)
        image = cv2.imread(str(frames / f"{index:05d}.jpg"))
        tile, _ = window(image, box, zoom)
        for value in np.unique(ids[ids > 0]):
            part, _ = window((ids == value).astype(np.uint8), box, zoom)
            colour = COLOURS[int(value) * 7 % len(COLOURS)] if value < 255 else (128, 128, 128)
            borders, _ = cv2.findContours(part, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(tile, borders, -1, colour, 1)
            if value < 255 and part.any():
                y, x = (int(v) for v in np.argwhere(part)[0])
                cv2.putText(tile, str(value), (x - 8, y - 3), 0, 0.55, (0, 0, 0), 3, cv2.LINE_AA)
                cv2.putText(tile, str(value), (x - 8, y - 3), 0, 0.55, colour, 1, cv2.LINE_AA)
        cv2.putText(tile, str(index), (4, tile.shape[0] - 6), 0, 0.6, (255, 255, 255), 2, cv2.LINE_AA)
        tiles.append(tile)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def main() -> None:
    cv2.setNumThreads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["grid", "polygons", "sheet"])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--box", nargs=4, type=int, default=[])
    parser.add_argument("--zoom", type=float, default=2)
    parser.add_argument("--step", type=int, default=20)
    parser.add_argument("--frames", nargs=3, type=int, default=[0, 100, 10])
    parser.add_argument("--columns", type=int, default=3)
    given = parser.parse_args()
    if given.what == "sheet":
        frames, masks, out = given.files
        cv2.imwrite(out, sheet(Path(frames), Path(masks), given.frames, given.columns, given.box, given.zoom))
        return
    image = cv2.imread(given.files[-2])
    if given.what == "grid":
        picture = grid(image, given.box, given.zoom, given.step)
    else:
        labels = json.loads(Path(given.files[0]).read_text())
        ids, segments = draw(labels, image.shape[1], image.shape[0])
        names = {number + 1: segment for number, segment in enumerate(segments)}
        picture = overlay(image, ids, names, given.box, given.zoom)
    cv2.imwrite(given.files[-1], picture)


if __name__ == "__main__":
    main()
