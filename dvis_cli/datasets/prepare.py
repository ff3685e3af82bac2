"""Raw VIPSeg to the 720P layout that training and evaluation read.

    RAW/imgs/<video_id>/<stem>.jpg       OUT/images/<video_id>/<stem>.jpg
    RAW/panomasks/<video_id>/<stem>.png  OUT/panomasksRGB/<video_id>/<stem>.png
    RAW/{train,val,test}.txt             OUT/panoptic_gt_VIPSeg_{train,val,test}.json

Sizes, resampling, JPEG quality, ids and json follow the official conversion (see `segment_ids` for the
one thing it leaves to chance). What each finished video adds to the json is kept in `OUT/.prepare/`, so that
a second run goes on where the first one stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dvis_cli.datasets.categories import vipseg_by_id
from dvis_cli.datasets.names import error_in, read_json, safe_name, stem_of
from dvis_cli.datasets.parallel import parallel_map
from dvis_cli.datasets.segment_ids import SegmentIds
from dvis_cli.datasets.vipseg import JSON_PREFIX, split_document
from dvis_cli.errors import DatasetError, OutputError
from dvis_cli.files import atomic_path, atomic_text

HEIGHT = 720  # pixels of every converted frame
SPLITS = ("train", "val", "test")
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
LEDGER = ".prepare"


@dataclass(frozen=True, slots=True)
class VideoTask:
    """One video to convert; the test split has no masks."""

    video_id: str
    annotated: bool


@dataclass(frozen=True, slots=True)
class VideoReport:
    """What was done for a video."""

    video_id: str
    frames: int
    resumed: bool  # found finished
    without_mask: int  # images of an annotated video that have no mask: left out, as officially
    mask_size_differs: int  # frames whose mask was not of the image's size


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What the whole conversion did."""

    splits: dict[str, int]  # split -> videos
    videos: tuple[VideoReport, ...]


def prepare_vipseg(
    raw: Path,
    out: Path,
    splits: Sequence[str] | None = None,
    workers: int = 1,
    on_video: Callable[[str, int], None] = lambda video_id, total: None,
) -> PrepareReport:
    """Convert raw VIPSeg.

    Args:
        raw: folder with `imgs/`, `panomasks/` and the lists `train.txt`, `val.txt`, `test.txt`.
        out: folder of the 720P layout; finished videos in it are kept.
        splits: which lists to convert, default all that are there.
        workers: processes.
        on_video: called as each video is done, with the number of all.

    Raises:
        DatasetError: the raw data is not what the layout promises (told before any work where possible).
        OutputError: `out` cannot be written.
    """
    lists = _read_lists(raw, splits)
    tasks = _plan(raw, lists)
    reports = []
    for report in parallel_map(partial(convert_video, raw, out), tasks, workers):
        reports.append(report)
        on_video(report.video_id, len(tasks))
    for split, names in lists.items():
        ordered = names if split == "test" else sorted(names)
        _write_split(out, split, ordered)
    return PrepareReport({split: len(names) for split, names in lists.items()}, tuple(reports))


def _read_lists(raw: Path, splits: Sequence[str] | None) -> dict[str, list[str]]:
    if not raw.is_dir():
        raise DatasetError(f"raw dataset folder {raw} does not exist")
    wanted = [split for split in SPLITS if (raw / f"{split}.txt").is_file()] if splits is None else splits
    if not wanted:
        raise DatasetError(
            f"{raw} has none of train.txt, val.txt, test.txt: the lists of each split's videos"
        )
    lists: dict[str, list[str]] = {}
    for split in wanted:
        path = raw / f"{safe_name(split, 'split')}.txt"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error
        names = [safe_name(line.strip(), f"{path.name}: video") for line in lines if line.strip()]
        lists[split] = list(dict.fromkeys(names))
    return lists


def _plan(raw: Path, lists: dict[str, list[str]]) -> list[VideoTask]:
    tasks: dict[str, VideoTask] = {}
    for split, names in lists.items():
        for name in names:
            task = VideoTask(name, annotated=split != "test")
            if tasks.setdefault(name, task) != task:
                raise DatasetError(f"video '{name}' is in test.txt and in another list")
    for folder in ("imgs", "panomasks"):
        needed = [task.video_id for task in tasks.values() if folder == "imgs" or task.annotated]
        missing = [name for name in needed if not (raw / folder / name).is_dir()]
        if missing:
            some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise DatasetError(f"{raw / folder} lacks {len(missing)} of {len(needed)} listed videos: {some}")
    return list(tasks.values())


def convert_video(raw: Path, out: Path, task: VideoTask) -> VideoReport:
    """Convert one video and write its ledger entry, or find that this was done before."""
    images = sorted(
        path
        for path in (raw / "imgs" / task.video_id).iterdir()
        if path.suffix.lower() in FORMATS and not path.name.startswith(".")
    )
    masks = raw / "panomasks" / task.video_id
    paired = [
        path for path in images if not task.annotated or (masks / f"{stem_of(path.name)}.png").is_file()
    ]
    if not paired:
        raise DatasetError(f"video '{task.video_id}' has no frames{' with masks' if task.annotated else ''}")
    skipped = len(images) - len(paired)
    if _is_done(out, task, paired):
        return VideoReport(task.video_id, len(paired), True, skipped, 0)
    try:
        for folder in ("images", "panomasksRGB") if task.annotated else ("images",):
            (out / folder / task.video_id).mkdir(parents=True, exist_ok=True)
        entries, differing = _convert_frames(paired, masks, out, task)
        ledger = _ledger(out, task.video_id)
        ledger.parent.mkdir(parents=True, exist_ok=True)
        atomic_text(ledger, json.dumps(entries))
    except OSError as error:
        raise OutputError(f"cannot write {error.filename or out}: {error.strerror or error}") from error
    return VideoReport(task.video_id, len(paired), False, skipped, differing)


def _convert_frames(
    paths: Sequence[Path], masks: Path, out: Path, task: VideoTask
) -> tuple[dict[str, Any], int]:
    ids = SegmentIds(vipseg_by_id())
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    differing = 0
    for path in paths:
        stem = stem_of(path.name)
        picture = _open(path)
        size = int(HEIGHT * picture.width / picture.height), HEIGHT
        if size[0] < 1:
            raise DatasetError(
                f"{path} is {picture.width}x{picture.height} pixels: nothing left at height 720"
            )
        _save(picture.resize(size, Image.Resampling.BILINEAR), out / "images" / task.video_id / path.name)
        name, segments = path.name, list[dict[str, int]]()
        if task.annotated:
            name = f"{stem}.png"
            mask = _open(masks / name)
            differing += mask.size != picture.size
            raw_ids = _mask_values(mask.resize(size, Image.Resampling.NEAREST), masks / name)
            with error_in(str(masks / name)):
                rgb, segments = paint(raw_ids, ids)
            _save(Image.fromarray(rgb), out / "panomasksRGB" / task.video_id / name)
        images.append({"id": stem, "width": size[0], "height": size[1], "file_name": name})
        annotations.append({"image_id": stem, "file_name": name, "segments_info": segments})
    return {"annotated": task.annotated, "images": images, "annotations": annotations}, differing


def paint(
    raw_ids: npt.NDArray[np.uint16], ids: SegmentIds
) -> tuple[npt.NDArray[np.uint8], list[dict[str, int]]]:
    """Turn raw mask values into colours and the frame's `segments_info`.

    Args:
        raw_ids: (H, W) uint16; 0 void, 1..124 class, larger class x 100 + instance.
        ids: the video's ids, extended by what is new here.

    Returns:
        (H, W, 3) uint8 RGB, and the segments by ascending raw value.

    Raises:
        DatasetError: a value of no category.
    """
    counts = np.bincount(raw_ids.ravel())
    colors = np.zeros((len(counts), 3), dtype=np.uint8)
    segments: dict[int, dict[str, int]] = {}
    for value in np.flatnonzero(counts).tolist():
        if value == 0:
            continue
        number = ids.id_of(value)
        colors[value] = number & 255, number >> 8 & 255, number >> 16
        category = ids.category_of(value)
        entry = {"id": number, "category_id": category.id, "iscrowd": 0, "area": 0}
        segments.setdefault(number, entry)["area"] += int(counts[value])
    return colors[raw_ids], list(segments.values())


def _mask_values(mask: Image.Image, path: Path) -> npt.NDArray[np.uint16]:
    values = np.asarray(mask)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise DatasetError(f"{path} must have one channel of whole numbers, it is of mode {mask.mode}")
    if values.min() < 0 or values.max() > 65535:
        raise DatasetError(f"{path} holds {values.min()}..{values.max()}, not mask values")
    return values.astype(np.uint16)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path} cannot be read as an image: {error}") from error


def _save(image: Image.Image, path: Path) -> None:
    """Write in the format of the suffix, with Pillow's defaults (JPEG quality 75)."""
    with atomic_path(path) as partial:
        image.save(partial, format=FORMATS[path.suffix.lower()])


def _ledger(out: Path, video_id: str) -> Path:
    return out / LEDGER / f"{video_id}.json"


def _is_done(out: Path, task: VideoTask, images: Sequence[Path]) -> bool:
    try:
        entry = read_json(_ledger(out, task.video_id))
        stems = [image["id"] for image in entry["images"]]
        same = entry["annotated"] == task.annotated and stems == [stem_of(path.name) for path in images]
    except (DatasetError, KeyError, TypeError):
        return False
    pictures = [out / "images" / task.video_id / path.name for path in images]
    if task.annotated:
        pictures += [out / "panomasksRGB" / task.video_id / f"{stem}.png" for stem in stems]
    return same and all(path.is_file() for path in pictures)


def _write_split(out: Path, split: str, names: Sequence[str]) -> None:
    entries = {name: read_json(_ledger(out, name)) for name in names}
    categories = [category for _, category in sorted(vipseg_by_id().items())]
    atomic_text(out / f"{JSON_PREFIX}{split}.json", json.dumps(split_document(entries, categories)))
