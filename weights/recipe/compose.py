"""Clips made by pasting cut-out people over backgrounds, with labels, in VIPSeg's layout (split "train").

    python compose.py DATA OUT --clips 200 [--frames 12] [--people 2 7] [--tall 50 300] [--seed 0]

Needs cutouts.py's sequences. A clip has a moving crop of one background, some people (`--people`, at least and
at most) who walk as they did where they were cut out (forwards and back, mirrored, faster or slower, of one size
in `--tall`), up to two cars, all hiding one another by the height of their feet, and colour, blur and noise of
its own. The same seed gives the same clips.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import backgrounds
import cv2
import numpy as np
from layout import NAMES, Split, category_of

WIDTH, HEIGHT = 640, 480
FIRST = 1000  # segment id of what is pasted first
CARS = (0, 2)  # how many, at least and at most
CARS_TALL = (40, 160)  # pixels
CAR_SPEED = 6.0  # pixels a frame, standard deviation
SOLID = 0.5  # alpha from which a pixel is the person's


@dataclass(frozen=True)
class Crowd:
    people: tuple[int, int] = (2, 7)  # how many, at least and at most
    tall: tuple[int, int] = (50, 300)  # pixels


@dataclass
class Actor:
    category: int
    pictures: list[np.ndarray]  # BGRA
    path: np.ndarray  # float (T, 2), where the feet are, output pixels


def walk(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Positions in a run of ``length`` frames for ``count`` output frames: forwards, and back at the end."""
    rate = rng.choice([0.5, 1, 1, 1, 2])
    at = rng.integers(length) + rate * np.arange(count)
    around = np.mod(at, max(2 * (length - 1), 1))
    return np.minimum(around, 2 * (length - 1) - around).astype(int).clip(0, length - 1)


def coloured(rng: np.random.Generator, picture_gain: np.ndarray, hue: int, picture: np.ndarray) -> np.ndarray:
    hsv = cv2.cvtColor(picture[..., :3], cv2.COLOR_BGR2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + hue) % 180
    bgr = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR).astype(np.float32) * picture_gain
    return np.dstack([np.clip(bgr, 0, 255).astype(np.uint8), picture[..., 3]])


def actor(rng: np.random.Generator, source: Path, frames: int, heights: tuple[int, int]) -> Actor:
    with np.load(source) as run:
        names = sorted(name for name in run.files if name != "feet")
        feet, pictures = run["feet"], [run[name] for name in names]
    kind = source.stem.partition("_")[0]
    tall = float(np.exp(rng.uniform(*np.log(heights))))
    scale = tall / np.median([p.shape[0] for p in pictures])
    scale = min(scale, 2.5)
    mirrored = bool(rng.random() < 0.5)
    gain, hue = rng.uniform(0.7, 1.3, 3) * rng.uniform(0.8, 1.2), int(rng.integers(-12, 13))
    order = walk(rng, frames, len(pictures))
    shown = []
    for index in order:
        picture = coloured(rng, gain, hue, pictures[index][:, ::-1] if mirrored else pictures[index])
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        shown.append(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=how))
    moved = (feet[order] - feet[order][0]) * scale * ([-1, 1] if mirrored else [1, 1])
    start = np.array([rng.uniform(0, WIDTH), rng.uniform(0.45 * HEIGHT, 1.1 * HEIGHT)])
    drift = rng.normal(0, 0.006 * tall, 2)
    if kind == "car":
        drift += np.array([rng.normal(0, CAR_SPEED), 0])
    return Actor(NAMES[kind].id, shown, start + moved + drift * np.arange(frames)[:, None])


def paste(image: np.ndarray, ids: np.ndarray, picture: np.ndarray, feet: np.ndarray, value: int) -> None:
    height, width = picture.shape[:2]
    x, y = round(feet[0] - width / 2), round(feet[1] - height)
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, image.shape[1]), min(y + height, image.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    part = picture[y0 - y : y1 - y, x0 - x : x1 - x]
    alpha = part[..., 3:].astype(np.float32) / 255
    under = image[y0:y1, x0:x1]
    image[y0:y1, x0:x1] = np.round(under * (1 - alpha) + part[..., :3] * alpha).astype(np.uint8)
    ids[y0:y1, x0:x1][alpha[..., 0] >= SOLID] = value


def camera(rng: np.random.Generator, size: tuple[int, int], frames: int) -> list[np.ndarray]:
    """Affine maps (2, 3) from output to background pixels: a slow pan and zoom of a crop."""
    width, height = size
    zoom = (
        rng.uniform(0.55, 1.0)
        * min(width / WIDTH, height / HEIGHT)
        * np.exp(rng.normal(0, 0.004) * np.arange(frames))
    )
    zoom = np.minimum(zoom, min(width / WIDTH, height / HEIGHT))
    room = np.array([width, height]) - zoom[:, None] * [WIDTH, HEIGHT]
    pan = rng.uniform(0, 1, 2) + rng.normal(0, 0.01, 2) * np.arange(frames)[:, None] * (rng.random() < 0.7)
    corner = np.clip(pan, 0, 1) * room
    flip = rng.random() < 0.5
    maps = []
    for z, (x, y) in zip(zoom, corner, strict=True):
        maps.append(np.array([[-z, 0, x + z * (WIDTH - 1)], [0, z, y]] if flip else [[z, 0, x], [0, z, y]]))
    return maps


def finish(
    rng: np.random.Generator, image: np.ndarray, gain: np.ndarray, gamma: float, blur: float
) -> np.ndarray:
    out = 255 * np.clip(image.astype(np.float32) / 255 * gain, 0, 1) ** gamma
    if blur > 0.3:
        out = cv2.GaussianBlur(out, (0, 0), blur)
    noise = cv2.resize(rng.normal(0, 3, (HEIGHT // 2, WIDTH // 2)).astype(np.float32), (WIDTH, HEIGHT))
    return np.clip(out + noise[..., None], 0, 255).astype(np.uint8)


def clip(rng: np.random.Generator, scene: tuple, sources: list[Path], frames: int, crowd: Crowd):
    """Yield (image, ids, segments) of one clip."""
    back, labels, names = scene
    segments = {number + 1: category_of(name) for number, name in enumerate(names)}
    cast = []
    for kind, (least, most), tall in (("person", crowd.people, crowd.tall), ("car", CARS, CARS_TALL)):
        some = [source for source in sources if source.stem.startswith(f"{kind}_")]
        count = rng.integers(least, most + 1) if some else 0
        cast += [actor(rng, some[rng.integers(len(some))], frames, tall) for _ in range(count)]
    segments.update({FIRST + number: one.category for number, one in enumerate(cast)})
    gain, gamma, blur = rng.uniform(0.75, 1.2, 3), rng.uniform(0.75, 1.35), rng.uniform(0, 1.2)
    for index, matrix in enumerate(camera(rng, back.shape[1::-1], frames)):
        how = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REFLECT}
        image = cv2.warpAffine(back, matrix, (WIDTH, HEIGHT), **how)
        how["flags"] = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        ids = cv2.warpAffine(labels, matrix, (WIDTH, HEIGHT), **how).astype(np.int32)
        for number in sorted(range(len(cast)), key=lambda k: cast[k].path[index, 1]):
            paste(image, ids, cast[number].pictures[index], cast[number].path[index], FIRST + number)
        yield finish(rng, image, gain, gamma, blur), ids, segments


def main() -> None:
    cv2.setNumThreads(1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--people", type=int, nargs=2, default=Crowd.people)
    parser.add_argument("--tall", type=int, nargs=2, default=Crowd.tall)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sources = sorted((given.data / "cutouts").glob("*.npz"))
    scenes = [backgrounds.load(given.data, name) for name in [*backgrounds.PHOTOS, *backgrounds.STREETS]]
    crowd = Crowd(tuple(given.people), tuple(given.tall))
    split = Split(given.out, "train")
    for number in range(given.clips):
        rng = np.random.default_rng([given.seed, number])
        split.begin(f"pasted_{given.seed}_{number:05d}")
        made = clip(rng, scenes[rng.integers(len(scenes))], sources, given.frames, crowd)
        for index, (image, ids, segments) in enumerate(made):
            split.add(f"{index:05d}", image, ids, segments)
    split.close()


if __name__ == "__main__":
    main()
