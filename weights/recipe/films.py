"""Frames of films without labels, for the teachers.

python films.py VIDEOS FILMS      10 s; VIDEOS: Intel's sample-videos
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import cv2

HEIGHT = 360  # pixels at most
STEPS = {"bottle-detection": 99, "car-detection": 10, "one-by-one-person-detection": 30, "classroom": 4,
         "face-demographics-walking": 2, "people-detection": 2, "person-bicycle-car-detection": 2,
         "store-aisle-detection": 4, "worker-zone-detection": 4}  # fmt: skip
STEP = 6  # of the others


def main(videos: Path, out: Path) -> None:
    for path in sorted(p for p in videos.iterdir() if p.suffix in (".mp4", ".mkv")):
        folder = out / path.stem
        folder.mkdir(parents=True, exist_ok=True)
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index % STEPS.get(path.stem, STEP):
                    continue
                image = frame.to_ndarray(format="bgr24")
                if image.shape[0] > HEIGHT:
                    width = round(image.shape[1] * HEIGHT / image.shape[0])
                    image = cv2.resize(image, (width, HEIGHT), interpolation=cv2.INTER_AREA)
                cv2.imwrite(str(folder / f"{index:05d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 93])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
