"""VPQ and STQ the slow, obvious way: whole masks, nested loops, straight from the definitions.

Written to be read beside docs/metrics.md, not to be used: the tests compare the fast ones with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dvis_cli.challenge.metrics.overlap import FrameOverlap, frame_overlap


@dataclass
class Video:
    """One video as whole arrays: T maps (H, W) and T lists of segments on each side."""

    gt_ids: list[np.ndarray]
    gt_segments: list[list[dict[str, Any]]]
    pred_ids: list[np.ndarray]
    pred_segments: list[list[dict[str, Any]]]

    def tables(self) -> Iterator[FrameOverlap]:
        """What `VPQ.add_video` takes."""
        sides = (self.gt_ids, self.gt_segments, self.pred_ids, self.pred_segments)
        return (frame_overlap(*frame) for frame in zip(*sides, strict=True))


def brute_vpq(videos: list[Video], window: int) -> dict[int, list[float]]:
    """category id -> [tp, fp, fn, IoU sum] over all windows of all videos."""
    counts: dict[int, list[float]] = {}
    for video in videos:
        for start in range(len(video.gt_ids) - window + 1):
            for category, place, value in _window(video, slice(start, start + window)):
                counts.setdefault(category, [0, 0, 0, 0.0])[place] += value
    return counts


def _window(video: Video, part: slice) -> list[tuple[int, int, float]]:
    gt_map, pred_map = np.stack(video.gt_ids[part]), np.stack(video.pred_ids[part])
    gt, pred = _first_seen(video.gt_segments[part]), _first_seen(video.pred_segments[part])
    found: list[tuple[int, int, float]] = []
    matched_gt, matched_pred = set(), set()
    for g, gt_segment in gt.items():
        for p, pred_segment in pred.items():
            if gt_segment.get("iscrowd") or gt_segment["category_id"] != pred_segment["category_id"]:
                continue
            shared = ((gt_map == g) & (pred_map == p)).sum()
            area = sum(s["area"] for frame in video.gt_segments[part] for s in frame if s["id"] == g)
            union = area + (pred_map == p).sum() - shared - ((gt_map == 0) & (pred_map == p)).sum()
            if shared and shared / union > 0.5:
                found += [(gt_segment["category_id"], 0, 1), (gt_segment["category_id"], 3, shared / union)]
                matched_gt.add(g)
                matched_pred.add(p)
    crowd = {}
    for g, gt_segment in gt.items():
        if gt_segment.get("iscrowd"):
            crowd[gt_segment["category_id"]] = g
        elif g not in matched_gt:
            found.append((gt_segment["category_id"], 2, 1))
    for p, pred_segment in pred.items():
        if p in matched_pred:
            continue
        excused = (gt_map == 0) | (gt_map == crowd.get(pred_segment["category_id"], 0))
        if (excused & (pred_map == p)).sum() / (pred_map == p).sum() <= 0.5:
            found.append((pred_segment["category_id"], 1, 1))
    return found


def _first_seen(frames: list[list[dict[str, Any]]]) -> dict[int, dict[str, Any]]:
    seen: dict[int, dict[str, Any]] = {}
    for frame in frames:
        for segment in frame:
            seen.setdefault(segment["id"], segment)
    return seen


def brute_pq(counts: dict[int, list[float]]) -> float:
    """Mean PQ in percent."""
    values = [iou / (tp + fp / 2 + fn / 2) for tp, fp, fn, iou in counts.values()]
    return 100 * sum(values) / len(values)


def brute_stq(videos: list[Video], things: set[int], void: int = -1) -> tuple[float, float, float]:
    """(STQ, AQ, SQ), each 0..1, in the public script's variant."""
    tube_scores: list[float] = []
    true_all, guess_all = [], []
    for video in videos:
        order = list(_first_seen(video.gt_segments))
        true = np.stack([_classes(m, s, void) for m, s in zip(video.gt_ids, video.gt_segments, strict=True)])
        guess = np.stack(
            [_classes(m, s, void) for m, s in zip(video.pred_ids, video.pred_segments, strict=True)]
        )
        true_all.append(true.ravel())
        guess_all.append(guess.ravel())
        gt_map, pred_map = np.stack(video.gt_ids), np.stack(video.pred_ids)
        crowd = np.isin(true, list(things)) & (gt_map == order[0] if order else False)
        tubes = {(int(c), int(g)) for c, g in zip(true.ravel(), gt_map.ravel(), strict=True) if c in things}
        for category, g in sorted(tubes):
            tube = (true == category) & (gt_map == g)
            if order and g == order[0]:
                continue
            total = 0.0
            for p_category, p in {(int(c), int(i)) for c, i in zip(guess[tube], pred_map[tube], strict=True)}:
                if p_category in things:
                    other = (guess == p_category) & (pred_map == p) & ~crowd
                    shared = (tube & other).sum()
                    total += shared * shared / (tube | other).sum()
            tube_scores.append(total / tube.sum())
    aq = sum(tube_scores) / len(tube_scores) if tube_scores else 0.0
    true, guess = np.concatenate(true_all), np.concatenate(guess_all)
    valid = true != void
    ious = []
    for category in set(true[valid].tolist()) | set(guess[valid].tolist()):
        union = (valid & ((true == category) | (guess == category))).sum()
        ious.append((valid & (true == category) & (guess == category)).sum() / union)
    sq = sum(ious) / len(ious) if ious else 0.0
    return (aq * sq) ** 0.5, aq, sq


def _classes(ids: np.ndarray, segments: list[dict[str, Any]], void: int) -> np.ndarray:
    classes = np.full(ids.shape, void)
    for segment in segments:
        classes[ids == segment["id"]] = segment["category_id"]
    return classes


def random_video(random: np.random.Generator, categories: list[int], frames: int | None = None) -> Video:
    """A small video: blocks of ids, some void, crowd, flicker, ids that come, go and change class."""
    frames = int(random.integers(1, 6)) if frames is None else frames
    height, width = (int(side) for side in random.integers(3, 9, 2))
    video = Video([], [], [], [])
    number = int(random.integers(1, 6))
    gt_classes = {int(i): int(random.choice(categories)) for i in random.choice(2**24 - 2, number) + 1}
    crowd = {i for i in gt_classes if random.random() < 0.2}
    pred_classes: dict[int, int] = {}
    partner = {0: 0}
    for i, category in gt_classes.items():
        j = int(random.integers(1, 2**24))
        partner[i] = j if random.random() < 0.9 else 0
        pred_classes[j] = category if random.random() < 0.8 else int(random.choice(categories))
    base = random.choice([0, *gt_classes], (height, width))
    for _ in range(frames):
        noise = random.random((height, width))
        base = np.where(noise < 0.15, random.choice([0, *gt_classes], (height, width)), base)
        guess = np.vectorize(partner.get)(base)
        wrong = random.random((height, width)) < random.choice([0.0, 0.1, 0.4])
        guess = np.where(wrong, random.choice([0, *pred_classes], (height, width)), guess)
        if random.random() < 0.1:
            swapped = int(random.choice(list(pred_classes)))
            pred_classes = {**pred_classes, swapped: int(random.choice(categories))}
        video.gt_ids.append(base)
        video.pred_ids.append(guess)
        video.gt_segments.append(_listed(base, gt_classes, crowd, random))
        video.pred_segments.append(_listed(guess, pred_classes, set(), random))
    return video


def _listed(
    ids: np.ndarray, classes: dict[int, int], crowd: set[int], random: np.random.Generator
) -> list[dict[str, Any]]:
    segments = [
        {"id": i, "category_id": c, "iscrowd": int(i in crowd), "area": int((ids == i).sum())}
        for i, c in classes.items()
        if (ids == i).any()
    ]
    return [segments[k] for k in random.permutation(len(segments))]
