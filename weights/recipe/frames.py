"""Decode the clips to JPEG frames of the working size, and their temporal medians.

python frames.py DATA [CLIP ...]     -> DATA/frames/<clip>/<00000>.jpg, DATA/median/<clip>.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import cv2
import numpy as np
from clips import CLIPS, Clip, frame_path

MEDIAN_FRAMES = 120  # at most this many frames, evenly spread, make the median


def decode(root: Path, clip: Clip):
    """Yield (index, BGR uint8 (H, W, 3)) in the size of the file."""
    with av.open(str(root / "raw" / clip.path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            yield index, frame.to_ndarray(format="bgr24")


def extract(root: Path, clip: Clip) -> None:
    frame_path(root, clip.name, 0).parent.mkdir(parents=True, exist_ok=True)
    (root / "median").mkdir(exist_ok=True)
    kept = []
    every = max(1, clip.frames // MEDIAN_FRAMES)
    for index, image in decode(root, clip):
        small = cv2.resize(image, (clip.width, clip.height), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(frame_path(root, clip.name, index)), small, [cv2.IMWRITE_JPEG_QUALITY, 95])
        if index % every == 0:
            kept.append(small)
    cv2.imwrite(str(root / "median" / f"{clip.name}.png"), np.median(np.stack(kept), axis=0).astype(np.uint8))


if __name__ == "__main__":
    cv2.setNumThreads(1)
    for name in sys.argv[2:] or CLIPS:
        extract(Path(sys.argv[1]), CLIPS[name])
        print(name, flush=True)
