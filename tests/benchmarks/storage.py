"""What results take up, in bytes a frame and in files: `python tests/benchmarks/storage.py VIDEO...`.

Sizes depend on what is in a picture, so the maps are either a model's (`--model tiny`, or a trained checkpoint, which
is the measurement that counts) or, without `--model`, made of the video's own edges: a watershed from `--regions`
places that are the same in every frame. Such maps are as ragged as the picture is, and flicker.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dvis_cli.batch.work import make_durable
from dvis_cli.datasets.categories import vipseg_categories
from dvis_cli.pipeline import segment_video
from dvis_cli.structures import PanopticFrame, Segment
from dvis_cli.video import Selection, open_video
from dvis_cli.writers.video_folder import Outputs, VideoFolderWriter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--model", help="segment with this; without it, the picture's own regions")
    parser.add_argument("--short-side", type=int, default=360)
    parser.add_argument("--regions", type=int, nargs="+", default=[20, 60])
    parser.add_argument("--frames", type=int, default=120, help="of each video, at most")
    options = parser.parse_args()
    print(
        "video                      size   frames  segments    source     PNG  overlay    json  on disk   fsync"
    )
    print(
        "                                                     ------------ bytes a frame ------------  ms/frame"
    )
    for path in options.videos:
        for regions in [None] if options.model else options.regions:
            measure(path, regions, options)


def measure(path: Path, regions: int | None, options: argparse.Namespace) -> None:
    source = open_video(path, Selection(max_frames=options.frames))
    if regions is None:
        video = segment_video(source, options.model, short_side=options.short_side)
        frames, segments, run = iter(video), lambda: video.segments, video.describe()
    else:
        maps = EdgeRegions(source.info.height, source.info.width, regions)
        frames, segments = (maps(frame) for frame in source), lambda: maps.segments
        run = {"model": {"name": "regions"}}
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / "result"
        count = write(target, source.info, frames, segments, run)
        started = time.perf_counter()
        make_durable(target)
        durable = (time.perf_counter() - started) / count
        sizes = {p: p.stat().st_size for p in target.rglob("*") if p.is_file()}
        kinds = {
            suffix: sum(s for p, s in sizes.items() if p.suffix == suffix)
            for suffix in (".png", ".mp4", ".json")
        }
        blocks = sum(p.stat().st_blocks * 512 for p in sizes)
    whole = open_video(path).info.frames or count
    per_frame = [path.stat().st_size / whole, *(size / count for size in kinds.values()), blocks / count]
    print(
        f"{path.name[:22]:22} {source.info.width:4} x {source.info.height:<4} {count:6} {len(segments()):9}  "
        + " ".join(f"{one:8.0f}" for one in per_frame)
        + f" {durable * 1000:7.2f}",
        flush=True,
    )


def write(
    target: Path, info: Any, frames: Iterator[PanopticFrame], segments: Any, run: dict[str, Any]
) -> int:
    """As `save_video` does, without sound."""
    count = 0
    with VideoFolderWriter(target, info, Outputs(), run=run) as writer:
        for frame in frames:
            writer.add(frame)
            count += 1
        writer.finish(segments())
    return count


class EdgeRegions:
    """Maps that follow the edges of a picture, with about as many segments as asked for."""

    def __init__(self, height: int, width: int, regions: int) -> None:
        rows = max(round((regions * height / width) ** 0.5), 1)
        columns = max(round(regions / rows), 1)
        self._seeds = np.zeros((height, width), np.int32)
        rng = np.random.default_rng(1)
        categories = vipseg_categories()
        self.segments = []
        for i in range(rows * columns):
            y, x = (
                (i // columns + rng.uniform(0.2, 0.8)) / rows,
                (i % columns + rng.uniform(0.2, 0.8)) / columns,
            )
            cv2.circle(self._seeds, (int(x * width), int(y * height)), 3, i + 1, -1)
            self.segments.append(Segment(i + 1, categories[int(rng.integers(len(categories)))], 0.9))

    def __call__(self, frame: Any) -> PanopticFrame:
        ids = cv2.watershed(cv2.GaussianBlur(frame.rgb, (0, 0), 2), self._seeds.copy())
        ids[ids < 0] = 0  # the lines between them, and the picture's border
        ids = np.where(ids == 0, cv2.dilate(ids.astype(np.float32), np.ones((3, 3))).astype(np.int32), ids)
        present = {int(i): self.segments[int(i) - 1] for i in np.unique(ids) if i}
        return PanopticFrame(frame.index, frame.pts, frame.rgb, ids, present, frame.name)


if __name__ == "__main__":
    main()
