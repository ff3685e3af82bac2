"""A film to measure with, where none is named: things that move over a textured ground, encoded as most videos are."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

FPS = 25
SPEED = 7  # pixels a frame


def write_film(path: Path, size: tuple[int, int], frames: int) -> None:
    """Write an mp4 of (height, width) pixels, both even."""
    height, width = size
    random = np.random.default_rng(0)
    coarse = random.integers(40, 216, (-(-height // 16), -(-width // 16) + 8, 3), np.uint8)
    ground = coarse.repeat(16, axis=0).repeat(16, axis=1)[:height]
    side = max(8, height // 6)
    things = [(random.integers(0, (height - side, width)), random.integers(0, 256, 3)) for _ in range(12)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            shift = index * 2 % (ground.shape[1] - width)
            picture = ground[:, shift : shift + width].copy()
            for number, ((y, x), colour) in enumerate(things):
                left = int(x + (number % 3 - 1) * SPEED * index) % max(1, width - side)
                picture[y : y + side, left : left + side] = colour
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
