"""What is in a split, counted, and what its json promises but the folder does not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from dvis_cli.datasets.pictures import read_picture
from dvis_cli.datasets.vipseg import VIPSeg, VIPSegVideo
from dvis_cli.errors import DatasetError


def describe_split(
    name: str, dataset: VIPSeg, check: bool = False, on_video: Callable[[str], None] = lambda video_id: None
) -> dict[str, Any]:
    """Counts of a split as one json document.

    Args:
        name: the split.
        dataset: the split, open.
        check: also decode every picture and compare sizes and ids with the json; without it only names are
            looked at.
        on_video: called as each video is done.
    """
    sizes: Counter[str] = Counter()
    classes: Counter[int] = Counter()
    tubes, longest = 0, 0
    folders = ["images", "panomasksRGB"] if dataset.annotated else ["images"]
    absent = {folder for folder in folders if not (dataset.root / folder).is_dir()}
    problems = [f"there is no folder {dataset.root / folder}" for folder in sorted(absent)]
    for video in dataset.videos:
        longest = max(longest, len(video.frames))
        segments: dict[int, int] = {}
        for frame in video.frames:
            sizes[f"{frame.width}x{frame.height}"] += 1
            segments.update({segment["id"]: segment["category_id"] for segment in frame.segments})
        tubes += len(segments)
        classes.update(segments.values())
        problems += _problems(dataset, video, absent, check)
        on_video(video.video_id)
    seen = [category for category in dataset.categories if classes[category.id]]
    return {
        "split": name,
        "videos": len(dataset.videos),
        "frames": sum(sizes.values()),
        "longest_video": longest,
        "segments": tubes,
        "annotated": dataset.annotated,
        "sizes": dict(sizes.most_common()),
        "classes_seen": len(seen),
        "things_seen": sum(category.isthing for category in seen),
        "stuff_seen": sum(not category.isthing for category in seen),
        "classes": [
            {"id": c.id, "name": c.name, "isthing": c.isthing, "segments": classes[c.id]} for c in seen
        ],
        "problems": problems,
    }


def _problems(dataset: VIPSeg, video: VIPSegVideo, absent: set[str], check: bool) -> Iterator[str]:
    try:
        paths = [] if "images" in absent else dataset.image_paths(video)
    except DatasetError as error:
        yield str(error)
        paths = []
    for frame, path in zip(video.frames, paths, strict=False):
        if check:
            try:
                read_picture(path, frame.width, frame.height)
            except DatasetError as error:
                yield str(error)
    for frame in video.frames if dataset.annotated and "panomasksRGB" not in absent else ():
        if check:
            yield from _mask_problems(dataset, video, frame)
        elif not dataset.mask_path(video, frame).is_file():
            yield f"video '{video.video_id}': mask {dataset.mask_path(video, frame)} is missing"


def _mask_problems(dataset: VIPSeg, video: VIPSegVideo, frame: Any) -> Iterator[str]:
    import numpy as np

    try:
        ids = dataset.read_ids(video, frame)
    except DatasetError as error:
        yield str(error)
        return
    there = set(np.unique(ids).tolist()) - {0}
    listed = {segment["id"] for segment in frame.segments}
    if there != listed:
        odd = sorted(there ^ listed)[:5]
        yield f"{dataset.mask_path(video, frame)}: ids {odd} are not in both the PNG and the json"
