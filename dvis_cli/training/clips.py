"""Clips for training: which frames, how they are changed, and batches of them.

Clip `i` of a run is a function of the run's seed and of `i` alone: the number of loader workers, of processes
and of restarts does not change what is seen. What cannot be read is replaced by the next draw, in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from dvis_cli.config import InputConfig
from dvis_cli.datasets import augment
from dvis_cli.datasets.coco_panoptic import CocoPanoptic
from dvis_cli.errors import DatasetError
from dvis_cli.structures import Category
from dvis_cli.video.preprocess import plan_geometry

from .clip_settings import ClipSettings
from .clip_sources import ClipSource, Mixture, check_source, nothing_usable
from .paste import Cutout, cut_out, paste
from .targets import ClipBatch, ClipTargets, FrozenFeatures

DRAWS = 100  # of one clip, before a dataset counts as unusable
DONORS = 300  # pictures whose objects are pasted
UNREADABLE_IMAGE, UNREADABLE_MASK = "unreadable image", "unreadable mask"
MIXED_SIZES, EMPTY = "frames of different sizes", "no object in the clip"


@dataclass(frozen=True, slots=True, eq=False)
class ClipSample:
    """One clip as it comes from the dataset, not yet padded: uint8 pixels, or a frozen segmenter's output."""

    frames: npt.NDArray[np.uint8] | None  # (T, H, W, 3) RGB
    cached: FrozenFeatures | None  # of this one clip, B = 1
    targets: ClipTargets  # at the same size
    name: str  # "video_id/first_stem"
    index: int  # of the clip in the run
    input: InputConfig  # how the frames are to be normalised and padded
    skipped: tuple[str, ...] = ()  # "reason: what" of each draw before this one


class UnusableDataError(DatasetError):
    """Draw after draw gave no clip.

    A loader's worker process sends its error home as text with a traceback; only the message is kept.
    """

    def __init__(self, message: str) -> None:
        lines = message.strip().splitlines()
        super().__init__(lines[-1].split(f"{type(self).__name__}: ")[-1] if lines else message)


class Skip(Exception):  # noqa: N818 - not an error: the next draw follows
    """This draw gives no clip."""


class ClipDataset(Dataset[ClipSample]):
    """Clips drawn from a source.

    Args:
        source: annotated videos or images, or a `Mixture` of such.
        categories: the model's classes in the order of its logits.
        settings: length of clips and augmentation.
        input: the model's normalisation, and the divisor of padded sizes.
        seed: of all draws; a whole number, 0 or larger.
        length: clips of the run (iterations x global batch); None: as many as there are usable videos.

    Raises:
        DatasetError: there is nothing to train on; the message says why.
    """

    def __init__(
        self,
        source: ClipSource | Mixture,
        categories: Sequence[Category],
        settings: ClipSettings,
        input: InputConfig,
        seed: int,
        length: int | None = None,
    ) -> None:
        self.sources = source.sources if isinstance(source, Mixture) else (source,)
        weights = source.weights if isinstance(source, Mixture) else (1.0,)
        self.settings, self.input, self.seed = settings, input, seed
        self.reports = tuple(check_source(one, settings, categories) for one in self.sources)
        for report, one in zip(self.reports, self.sources, strict=True):
            if not report.usable:
                raise nothing_usable(report, one, categories)
        self._until = np.cumsum(weights)[:-1] / np.sum(weights)  # of 0..1, where a source's share ends
        self.length = sum(len(r.usable) for r in self.reports) if length is None else length
        self._lookup: npt.NDArray[np.int16] | None = None
        self._cutouts: list[Cutout] | None = None  # what is pasted

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> ClipSample:
        """Clip `index` of the run.

        Raises:
            IndexError: not in 0..length-1.
            DatasetError: no draw of many gave a clip.
        """
        if not 0 <= index < self.length:
            raise IndexError(f"clip {index} of {self.length}")
        skipped: list[str] = []
        for draw in range(DRAWS):
            try:
                return self._draw(index, np.random.default_rng((self.seed, index, draw)), tuple(skipped))
            except Skip as skip:
                skipped.append(str(skip))
        raise UnusableDataError(f"no clip could be made in {DRAWS} draws; the last one: {skipped[-1]}")

    def _draw(self, index: int, rng: np.random.Generator, skipped: tuple[str, ...]) -> ClipSample:
        part, number = self._choose(rng)
        source: Any = self.sources[part]
        settings, input = self.settings, self.input
        video, still = source.videos[number], isinstance(source, CocoPanoptic)
        picked = video.frames if still else video.frames[draw_frames(len(video.frames), settings.frames, rng)]
        ids, objects = self._read_maps(part, video, picked)
        try:
            frames = [source.read_picture(video, frame) for frame in picked]
        except DatasetError as error:
            raise Skip(f"{UNREADABLE_IMAGE}: {error}") from None
        short = settings.short_sides[int(rng.integers(len(settings.short_sides)))]
        height, width = ids[0].shape
        size = plan_geometry(height, width, short, settings.long_side).resized
        if still and settings.frames > 1:
            red, green, blue = (round(value) for value in input.mean)
            fill = (red, green, blue)
            clip, maps = augment.animate(frames[0], ids[0], size, settings.frames, rng, settings.motion, fill)
        else:
            clip = np.stack([augment.resize_picture(frame, size) for frame in frames])
            maps = np.stack([augment.resize_ids(one, size) for one in ids])
        if settings.crop is not None:
            clip, maps = augment.random_crop(clip, maps, (settings.crop[0], settings.crop[1]), rng)
        if settings.paste and rng.random() < settings.paste:
            clip, maps, objects = self._pasted(clip, maps, objects, rng)
        clip, maps, backwards = self._augmented(clip, maps, rng)
        targets = numbered_targets(maps, objects)
        if not len(targets.classes):
            raise Skip(f"{EMPTY}: {video.video_id}/{picked[0].stem}")
        name = f"{video.video_id}/{picked[-1 if backwards else 0].stem}"
        return ClipSample(clip.copy(), None, targets, name, index, input, skipped)

    def _choose(self, rng: np.random.Generator) -> tuple[int, int]:
        """Numbers of a source and of a video in it."""
        part = int(np.searchsorted(self._until, rng.random(), side="right"))
        usable = self.reports[part].usable
        return part, usable[int(rng.integers(len(usable)))]

    def _read_maps(
        self, part: int, video: Any, frames: Sequence[Any]
    ) -> tuple[list[npt.NDArray[np.int16]], list[int]]:
        """Maps of n + 1 for segment n in ascending id order, and each segment's class."""
        source, classes = self.sources[part], self.reports[part].classes
        known: dict[int, int] = {}
        for segment in (segment for frame in frames for segment in frame.segments):
            if not segment.get("iscrowd") and segment["category_id"] in classes:
                known.setdefault(segment["id"], classes[segment["category_id"]])
        numbers = sorted(known)
        maps = []
        for frame in frames:
            crowd = [segment["id"] for segment in frame.segments if segment.get("iscrowd")]
            try:
                truth = source.read_ids(video, frame)
            except DatasetError as error:
                raise Skip(f"{UNREADABLE_MASK}: {error}") from None
            maps.append(self._numbered(truth, numbers, crowd))
            if maps[-1].shape != maps[0].shape:
                raise Skip(f"{MIXED_SIZES}: {video.video_id}/{frame.stem}")
        return maps, [known[number] for number in numbers]

    def _numbered(
        self, truth: npt.NDArray[np.uint32], numbers: Sequence[int], crowd: Sequence[int]
    ) -> npt.NDArray[np.int16]:
        """Segment ids -> n + 1. A table over all 24-bit ids is much faster than a search, and mostly untouched."""
        if self._lookup is None:
            self._lookup = np.zeros(256**3, np.int16)
        table = self._lookup
        table[numbers] = np.arange(1, len(numbers) + 1)
        table[crowd] = 0
        try:
            return table[truth]
        finally:
            table[numbers] = 0

    def _pasted(
        self, clip: augment.Frames, maps: augment.Ids, objects: list[int], rng: np.random.Generator
    ) -> tuple[augment.Frames, augment.Ids, list[int]]:
        """One or two groups of objects of one class each."""
        if self._cutouts is None:
            self._cutouts = self._collected()
        rgb, ids = clip[0], maps[0]
        for _ in range(int(rng.integers(1, 3)) if self._cutouts else 0):
            label = self._cutouts[int(rng.integers(len(self._cutouts)))].label
            rgb, ids, objects = paste(rgb, ids, objects, [c for c in self._cutouts if c.label == label], rng)
        return rgb[None], ids[None], objects

    def _collected(self) -> list[Cutout]:
        """The whole things of some pictures: the same of every worker, for they are read but once."""
        rng, found = np.random.default_rng((self.seed, self.length)), []
        for _ in range(DONORS):
            part, number = self._choose(rng)
            source: Any = self.sources[part]
            video, classes = source.videos[number], self.reports[part].classes
            frame = video.frames[int(rng.integers(len(video.frames)))]
            things = {c.id for c in source.categories if c.isthing and c.id in classes}
            if self.settings.pasted:
                things &= {c.id for c in source.categories if c.name in self.settings.pasted}
            segments = [s for s in frame.segments if s["category_id"] in things and not s.get("iscrowd")]
            try:
                truth = self._numbered(source.read_ids(video, frame), [s["id"] for s in segments], [])
                picture = source.read_picture(video, frame)
            except DatasetError:
                continue  # where it is drawn as a clip it is reported
            found += cut_out(picture, truth, [classes[s["category_id"]] for s in segments])
        return found

    def _augmented(
        self, clip: augment.Frames, maps: augment.Ids, rng: np.random.Generator
    ) -> tuple[augment.Frames, augment.Ids, bool]:
        settings = self.settings
        if settings.flip and rng.random() < 0.5:
            clip, maps = augment.flip(clip, maps)
        backwards = settings.reverse and rng.random() < 0.5
        if backwards:
            clip, maps = augment.reverse(clip, maps)
        if settings.color > 0:
            clip = augment.jitter_color(clip, settings.color, rng)
        return clip, maps, backwards

    def __getstate__(self) -> dict[str, object]:
        """Without the table and the cut-outs: a worker makes its own."""
        return {**self.__dict__, "_lookup": None, "_cutouts": None}


def draw_frames(available: int, frames: int, rng: np.random.Generator) -> slice:
    """Consecutive frames of a video that has `frames` or more."""
    start = int(rng.integers(available - frames + 1))
    return slice(start, start + frames)


def start_worker(worker: int) -> None:
    """For a loader's `worker_init_fn`: a forked worker must not wait for OpenCV threads that it does not have."""
    cv2.setNumThreads(0)


def collate(samples: Sequence[ClipSample]) -> ClipBatch:
    """Normalise clips of equal length as at inference and pad them to one size.

    Args:
        samples: clips; the padded size is the largest height and width, rounded up to the divisor.
    """
    divisor = samples[0].input.divisor
    height, width = (
        -(-max(sample.targets.ids.shape[side] for sample in samples) // divisor) * divisor for side in (1, 2)
    )
    targets = [sample.targets for sample in samples]
    return ClipBatch(
        frames=None if samples[0].cached else _padded_frames(samples, height, width),
        cached=_padded_features(samples, height, width) if samples[0].cached else None,
        # Padding is void: the areas stay.
        targets=tuple(
            ClipTargets(_padded(one.ids, height, width), one.classes, one.areas) for one in targets
        ),
        indices=tuple(sample.index for sample in samples),
        names=tuple(sample.name for sample in samples),
        skipped=tuple(line for sample in samples for line in sample.skipped),
    )


def _padded(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.pad(maps, (0, width - maps.shape[-1], 0, height - maps.shape[-2]))


def _padded_frames(samples: Sequence[ClipSample], height: int, width: int) -> torch.Tensor:
    frames = torch.zeros(len(samples), len(samples[0].targets.ids), 3, height, width)
    for out, sample in zip(frames, samples, strict=True):
        assert sample.frames is not None
        _, high, wide, _ = sample.frames.shape
        pixels = out[:, :, :high, :wide]
        pixels.copy_(torch.from_numpy(sample.frames).permute(0, 3, 1, 2))
        mean, std = (torch.tensor(values)[:, None, None] for values in (sample.input.mean, sample.input.std))
        pixels.sub_(mean).div_(std)
    return frames


def _padded_features(samples: Sequence[ClipSample], height: int, width: int) -> FrozenFeatures:
    """Cached mask features are at a quarter of the padded size of their own clip."""
    cached = [sample.cached for sample in samples if sample.cached is not None]
    return FrozenFeatures(
        torch.cat([one.queries for one in cached]),
        torch.cat([_padded(one.mask_features, height // 4, width // 4) for one in cached]),
    )


def numbered_targets(maps: augment.Ids, objects: Sequence[int]) -> ClipTargets:
    """Targets of the objects that are left in a clip, numbered without gaps in the same order."""
    counts = np.bincount(maps.ravel(), minlength=len(objects) + 1)
    left = np.flatnonzero(counts[1:])
    table = np.zeros(len(objects) + 1, np.int16)
    table[left + 1] = np.arange(1, len(left) + 1)
    classes = np.asarray(objects, np.int64)[left]
    return ClipTargets.of(torch.from_numpy(table[maps]), torch.from_numpy(classes))
