"""What results take up and cost apart from the network: `python tests/benchmarks/results.py VIDEO...`.

Sizes depend on what is in a picture, so the maps are either a model's (`--model tiny`, or a trained checkpoint, which
is the measurement that counts) or, without `--model`, made of the video's own edges: a watershed from `--regions`
places that are the same in every frame. Such maps are as ragged as the picture is, and flicker.

Times are those of all threads on their cores, so another program's load does not count.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dvis_cli.datasets.categories import vipseg_categories
from dvis_cli.run.video import segment_video
from dvis_cli.structures import Frame, PanopticFrame, Segment, VideoInfo
from dvis_cli.video import Selection, open_video
from dvis_cli.video.preprocess import plan_geometry, preprocess
from dvis_cli.writers.video_folder import Outputs, VideoFolderWriter

HEAD = """\
                                             bytes a frame                          ms of a core a frame
video                    size  frames segments  source     PNG overlay    json on disk  decode  resize   maps overlay"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--model", help="segment with this; without it, the picture's own regions")
    parser.add_argument("--short-side", type=int, default=720, help="pixels in the network")
    parser.add_argument("--regions", type=int, nargs="+", default=[20, 60])
    parser.add_argument("--frames", type=int, default=60, help="of each video, at most")
    options = parser.parse_args()
    print(HEAD)
    for path in options.videos:
        selection = Selection(max_frames=options.frames)
        frames, decode = timed(lambda: list(open_video(path, selection)))  # noqa: B023 - called at once
        info = open_video(path, selection).info
        geometry = plan_geometry(info.height, info.width, options.short_side, 1333, 32)
        _, resize = timed(lambda: [preprocess(f.rgb, geometry, (0,) * 3, (1,) * 3) for f in frames])  # noqa: B023
        if options.model:
            video = segment_video(
                path, options.model, short_side=options.short_side, max_frames=options.frames
            )
            results = [(list(video), video.segments)]
        else:
            results = [edge_regions(info, frames, count) for count in options.regions]
        for done, segments in results:
            costs = [decode / len(frames), resize / len(frames)]
            print(f"{path.name[:20]:20} {describe(path, info, done, segments, costs)}", flush=True)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What a piece of work returns, and the seconds of all cores that it took."""
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def describe(
    path: Path, info: VideoInfo, frames: list[PanopticFrame], segments: list[Segment], costs: list[float]
) -> str:
    with tempfile.TemporaryDirectory() as name:
        target, bare = Path(name) / "result", Path(name) / "bare"
        _, everything = timed(lambda: write(target, info, frames, segments, Outputs()))
        _, maps = timed(lambda: write(bare, info, frames, segments, Outputs(overlay=None)))
        files = [(p.suffix, p.stat()) for p in target.rglob("*") if p.is_file()]
    count = len(frames)
    sizes = [path.stat().st_size / (open_video(path).info.frames or count)]
    sizes += [
        sum(s.st_size for suffix, s in files if suffix == kind) / count for kind in (".png", ".mp4", ".json")
    ]
    sizes.append(sum(s.st_blocks * 512 for _, s in files) / count)
    costs = [*costs, maps / count, (everything - maps) / count]
    return (
        f"{info.width:4} x {info.height:<4} {count:4} {len(segments):8} "
        + "".join(f"{one:8.0f}" for one in sizes)
        + "".join(f"{one * 1000:8.1f}" for one in costs)
    )


def write(
    target: Path, info: VideoInfo, frames: list[PanopticFrame], segments: list[Segment], outputs: Outputs
) -> None:
    """As `save_video` does, without sound."""
    with VideoFolderWriter(target, info, outputs, run={"model": {"name": "measured"}}) as writer:
        for frame in frames:
            writer.add(frame)
        writer.finish(segments)


def edge_regions(
    info: VideoInfo, frames: list[Frame], regions: int
) -> tuple[list[PanopticFrame], list[Segment]]:
    """Maps that follow the edges of the pictures, with about as many segments as asked for."""
    rows = max(round((regions * info.height / info.width) ** 0.5), 1)
    columns = max(round(regions / rows), 1)
    seeds = np.zeros((info.height, info.width), np.int32)
    rng = np.random.default_rng(1)
    segments = []
    for i in range(rows * columns):
        y, x = divmod(i, columns) + rng.uniform(0.2, 0.8, 2)
        cv2.circle(seeds, (int(x / columns * info.width), int(y / rows * info.height)), 3, i + 1, -1)
        segments.append(Segment(i + 1, vipseg_categories()[int(rng.integers(124))], 0.9))
    made = []
    for frame in frames:
        ids = cv2.watershed(cv2.GaussianBlur(frame.rgb, (0, 0), 2), seeds.copy())
        ids[ids < 0] = 0  # the lines between them, and the picture's border
        ids = np.where(ids == 0, cv2.dilate(ids.astype(np.float32), np.ones((3, 3))).astype(np.int32), ids)
        present = {int(i): segments[int(i) - 1] for i in np.unique(ids) if i}
        made.append(PanopticFrame(frame.index, frame.pts, frame.rgb, ids, present, frame.name))
    return made, segments


if __name__ == "__main__":
    main()
