"""One table of scores on the split that is never trained on: the model's modes, two scales fused, and both teachers.

    python judge.py OUT PICTURES MODEL [--modes minvis,online,offline,tta] [--videos davis,clips,coco] [--score S ...]

OUT is what build.py wrote, PICTURES holds teachers/. The columns:

    person, stuff   VPQ over windows of 1, 2, 4 and 6 frames on the clips whose every pixel people labelled
    tube            DAVIS: IoU of the object that people drew, over the whole clip, with its best segment of the right
                    class; of a teacher, which has no objects: frame by frame, with all pixels of the class
    coarse          mean IoU of sky, building, ground, plants, vehicle and person, on truth by hand (clips)
    all coarse      the same on everything, where stuff in DAVIS and COCO is the ADE20K teacher's own opinion
    VPQ             over all classes and videos, with the same reservation
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from build import FIRST_BY_HAND, FIRST_BY_TEACHER, teacher_labels
from layout import CATEGORIES
from teach import prepared
from teachers import DeepLab
from truth import names_of

from dvis_cli import load_model, segment_video
from dvis_cli.challenge.metrics.overlap import frame_overlap
from dvis_cli.challenge.metrics.vpq import VPQ
from dvis_cli.datasets.vipseg import VIPSeg, VIPSegVideo

WINDOWS = (1, 2, 4, 6)
GROUPS = {
    "sky": ["sky"],
    "building": ["building", "house", "tower"],
    "ground": ["road", "path", "ground", "grass", "sand", "crosswalk", "floor"],
    "plants": ["tree", "other_plant", "flower"],
    "vehicle": ["car", "bus", "truck", "train", "bicycle", "motorcycle"],
    "person": ["person"],
}
GROUP_OF = {name: index for index, names in enumerate(GROUPS.values()) for name in names}
NONE = len(GROUPS)  # group of every other class
BY_ID = {category.id: category for category in CATEGORIES}
# The ADE20K teacher's classes that stand for none of ours but belong to a group.
ADE_MORE = {"car": "car", "van": "car", "bus": "bus", "truck": "truck", "bicycle": "bicycle", "minibike": "motorcycle",
            "person": "person", "tower": "building", "house": "building"}  # fmt: skip
Ids = npt.NDArray[np.integer[Any]]


@dataclass
class Scores:
    """What is summed up over the videos."""

    clips: VPQ = field(default_factory=lambda: VPQ(CATEGORIES, WINDOWS))
    every: VPQ = field(default_factory=lambda: VPQ(CATEGORIES, WINDOWS))
    tubes: dict[str, float] = field(default_factory=dict)
    coarse: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((NONE + 1, NONE + 1), np.int64))
    all_coarse: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((NONE + 1, NONE + 1), np.int64)
    )
    seconds: float = 0.0

    def row(self) -> dict[str, float | None]:
        clips, every = self.clips.result(), self.every.result()
        person = next(i for i, c in enumerate(CATEGORIES) if c.name == "person")
        of_person = [w.per_class()[person, 0] for w in clips.windows.values()]
        return {
            "person": float(np.mean(of_person)) if len(of_person) else None,
            "stuff": clips.mean(isthing=False),
            "tube": 100 * float(np.mean(list(self.tubes.values()))) if self.tubes else None,
            "coarse": mean_iou(self.coarse),
            "all coarse": mean_iou(self.all_coarse),
            "VPQ": every.mean(),
            "things": every.mean(isthing=True),
            "all stuff": every.mean(isthing=False),
            "seconds": self.seconds,
        }


def mean_iou(counts: npt.NDArray[np.int64]) -> float | None:
    """Percent, over the groups that the truth has."""
    inner = np.diag(counts)[:NONE]
    union = (counts.sum(0) + counts.sum(1))[:NONE] - inner
    there = counts.sum(1)[:NONE] > 0
    return 100 * float((inner / np.maximum(union, 1))[there].mean()) if there.any() else None


def group_map(ids: Ids, segments: Sequence[Mapping[str, Any]]) -> Ids:
    """Group of each pixel, -1 where there is no segment."""
    out = np.full(ids.shape, -1, np.int64)
    for segment in segments:
        out[ids == segment["id"]] = GROUP_OF.get(BY_ID[segment["category_id"]].name, NONE)
    return out


def count(truth: Ids, found: Ids, into: npt.NDArray[np.int64]) -> None:
    known = truth >= 0
    pairs = truth[known] * (NONE + 1) + np.where(found[known] < 0, NONE, found[known])
    into += np.bincount(pairs, minlength=(NONE + 1) ** 2).reshape(NONE + 1, NONE + 1)


@dataclass
class Tube:
    """An object that people drew and what covers it."""

    category: int
    area: int = 0
    shared: dict[int, int] = field(default_factory=dict)  # predicted segment -> pixels
    areas: dict[int, int] = field(default_factory=dict)

    def best(self) -> float:
        return max((n / (self.area + self.areas[k] - n) for k, n in self.shared.items()), default=0.0)


Found = tuple[Ids, list[dict[str, Any]]]


def judge_video(dataset: VIPSeg, video: VIPSegVideo, found: Iterator[Found], scores: Scores) -> None:
    """Compare one video's frames with the truth."""
    tables, tubes = [], {}
    by_hand = not video.video_id.startswith(("davis", "coco"))
    for frame, (ids, segments) in zip(video.frames, found, strict=True):
        truth = dataset.read_ids(video, frame).astype(np.int64)
        tables.append(frame_overlap(truth, frame.segments, ids, segments))
        groups = group_map(truth, frame.segments), group_map(ids, segments)
        count(*groups, scores.all_coarse)
        if by_hand:
            count(*groups, scores.coarse)
        if video.video_id.startswith("davis"):
            _add_tubes(tubes, truth, frame.segments, ids, segments)
    scores.every.add_video(video.video_id, tables)
    if by_hand:
        scores.clips.add_video(video.video_id, tables)
    for number, tube in tubes.items():
        scores.tubes[f"{video.video_id} {BY_ID[tube.category].name} {number}"] = tube.best()


def _add_tubes(
    tubes: dict[int, Tube],
    truth: Ids,
    known: Sequence[Mapping[str, Any]],
    ids: Ids,
    segments: list[dict[str, Any]],
) -> None:
    for segment in known:
        if FIRST_BY_HAND <= segment["id"] < FIRST_BY_TEACHER:
            tubes.setdefault(segment["id"], Tube(segment["category_id"]))
    for number, tube in tubes.items():
        drawn = truth == number
        tube.area += int(drawn.sum())
        for segment in segments:
            if segment["category_id"] == tube.category:
                mask = ids == segment["id"]
                name = segment["id"]
                tube.areas[name] = tube.areas.get(name, 0) + int(mask.sum())
                tube.shared[name] = tube.shared.get(name, 0) + int((mask & drawn).sum())


def by_model(path: Path, model: Any, options: dict[str, Any]) -> Iterator[Found]:
    for frame in segment_video(path, model, folder_fps=10.0, **options):
        known = {number: s.category.id for number, s in frame.segments.items() if s.category.id in BY_ID}
        ids = np.where(np.isin(frame.ids, list(known)), frame.ids, 0).astype(np.int64)
        yield (
            ids,
            [{"id": number, "category_id": category, "iscrowd": 0} for number, category in known.items()],
        )


def remember(model: Any) -> None:
    """Let the segmenter see each frame once: the modes differ only in what comes after it."""
    whole, kept = model.segmenter.forward, {}

    def forward(frames: torch.Tensor, *memory: None) -> Any:
        key = hashlib.sha256(frames.numpy().tobytes()).digest()
        if key not in kept:
            kept[key] = whole(frames)
        return kept[key]

    model.segmenter.forward = forward


class Teacher:
    """A teacher frame by frame, as a map of groups and of VIPSeg classes; kept in a folder once made."""

    def __init__(self, name: str, path: Path, labels: list[str], kept: Path) -> None:
        self.name, self.path, self.kept, self.net = name, path, kept, None
        ours = names_of(name)
        if name == "ade20k":
            ours = {**ours, **ADE_MORE}
        ids = {c.name: c.id for c in CATEGORIES}
        self.classes = np.array([ids.get(ours.get(label, ""), 255) for label in labels], np.uint8)

    def __call__(self, image: Path) -> Ids:
        """(H, W): category id of each pixel, 255 for none of ours."""
        key = hashlib.sha256(f"{self.name} {image.parent.name} {image.name}".encode()).hexdigest()[:24]
        path = self.kept / f"{key}.png"
        if not path.exists():
            self.net = self.net or DeepLab(self.path).eval()
            bgr = cv2.imread(str(image))
            with torch.no_grad():
                logits = self.net(prepared(bgr, 513, False))
                logits = F.interpolate(logits, bgr.shape[:2], mode="bilinear", align_corners=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), self.classes[logits[0].argmax(0).numpy()])
        return np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.int64)


def by_teacher(dataset: VIPSeg, videos: Sequence[VIPSegVideo], teacher: Teacher) -> dict[str, float | None]:
    scores, frames = Scores(), {}
    for video in videos:
        for frame in video.frames:
            truth = dataset.read_ids(video, frame).astype(np.int64)
            classes = teacher(dataset.root / "images" / video.video_id / f"{frame.stem}.jpg")
            found = [{"id": int(n) + 1, "category_id": int(n)} for n in np.unique(classes) if n != 255]
            groups = group_map(truth, frame.segments), group_map(classes + 1, found)
            count(*groups, scores.all_coarse)
            if video.video_id.startswith("davis"):
                for segment in frame.segments:
                    if FIRST_BY_HAND <= segment["id"] < FIRST_BY_TEACHER:
                        drawn, mask = truth == segment["id"], classes == segment["category_id"]
                        key = f"{video.video_id} {segment['id']}"
                        frames.setdefault(key, []).append((drawn & mask).sum() / max(1, (drawn | mask).sum()))
            elif not video.video_id.startswith("coco"):
                count(*groups, scores.coarse)
    tubes = [float(np.mean(values)) for values in frames.values()]
    return {
        "tube": 100 * float(np.mean(tubes)) if tubes else None,
        "coarse": mean_iou(scores.coarse),
        "all coarse": mean_iou(scores.all_coarse),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--modes", default="minvis,online,offline,tta")
    parser.add_argument("--videos", default="davis,clips,coco")
    parser.add_argument("--every", type=int, default=1, help="use every so manieth COCO image")
    parser.add_argument("--frames", type=int, default=10**6, help="of each video at most")
    parser.add_argument(
        "--set", nargs="*", default=[], help="options of segment_video, e.g. score_threshold=0.4"
    )
    parser.add_argument("--teachers", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="keep the table and the tubes here")
    parser.add_argument("--detail", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    dataset = VIPSeg.open(given.data, "val")
    kinds, chosen, seen = given.videos.split(","), [], 0
    for video in dataset.videos:
        kind = next((k for k in ("davis", "coco") if video.video_id.startswith(k)), "clips")
        seen += kind == "coco"
        if kind in kinds and not (kind == "coco" and seen % given.every):
            chosen.append(replace(video, frames=video.frames[: given.frames]))
    more = {key: json.loads(value) for key, value in (pair.split("=") for pair in given.set)}
    table: dict[str, dict[str, float | None]] = {}
    model = load_model(given.model)
    remember(model)
    for mode in given.modes.split(",") if given.modes else []:
        best = model.check_mode(None) if mode == "tta" else mode
        scores, began = Scores(), time.process_time()
        for video in chosen:
            options = {"mode": best, "tta": mode == "tta", **more}
            judge_video(
                dataset,
                video,
                islice(by_model(dataset.root / "images" / video.video_id, model, options), len(video.frames)),
                scores,
            )
        scores.seconds = time.process_time() - began
        table[mode] = scores.row()
        show(mode, table[mode])
        if given.detail:
            print(scores.tubes)
            clips = scores.clips.result().windows
            for index, category in enumerate(CATEGORIES):
                if clips[1].counts[index].any():
                    print(
                        f"  {category.name:30}",
                        *(f"{w.per_class()[index, 0]:6.1f}" for w in clips.values()),
                        clips[1].counts[index],
                    )
            inner = np.diag(scores.coarse)
            print(
                {
                    g: round(
                        100
                        * inner[i]
                        / max(1, scores.coarse[i].sum() + scores.coarse[:, i].sum() - inner[i]),
                        1,
                    )
                    for i, g in enumerate(GROUPS)
                }
            )
            inner = np.diag(scores.all_coarse)
            print(
                {
                    g: round(
                        100
                        * inner[i]
                        / max(1, scores.all_coarse[i].sum() + scores.all_coarse[:, i].sum() - inner[i]),
                        1,
                    )
                    for i, g in enumerate(GROUPS)
                }
            )
    if given.teachers:
        folder = given.pictures / "teachers"
        ade, voc = teacher_labels(folder)
        for name, file, labels in (
            ("ade20k", "ade20k_deeplabv3_mnv2.tflite", ade),
            ("voc", "coral_deeplabv3_mnv2_pascal_quant.tflite", voc),
        ):
            table[name] = by_teacher(
                dataset, chosen, Teacher(name, folder / file, labels, given.data / "teachers")
            )
            show(name, table[name])
    if given.json:
        given.json.write_text(json.dumps(table, indent=1) + "\n")


def show(name: str, row: dict[str, float | None]) -> None:
    print(
        f"{name:8}",
        *(f"{key} {value:.1f}" for key, value in row.items() if value is not None),
        sep="  ",
        flush=True,
    )


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
