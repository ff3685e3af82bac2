"""A frozen segmenter's output for every frame, computed once and kept on disk.

Tracker and refiner learn from queries and mask features alone. A clip of a video is a slice of the video's arrays,
so each frame goes through the segmenter once (twice with mirroring) instead of in every clip that shows it.

CACHE/<key>/<number>.<view>.queries.npy    (T, Q, C) float32
CACHE/<key>/<number>.<view>.features.npy   (T, C, h, w) float16
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dvis_cli.config import to_document
from dvis_cli.datasets import augment
from dvis_cli.datasets.coco_panoptic import CocoPanoptic
from dvis_cli.errors import OutputError, UsageError
from dvis_cli.files import atomic_open
from dvis_cli.run.model import DvisModel
from dvis_cli.structures import Geometry
from dvis_cli.video.preprocess import plan_geometry, preprocess

from .clip_settings import ClipSettings
from .clip_sources import ClipSource
from .clips import EMPTY, ClipDataset, ClipSample, Skip, draw_frames, numbered_targets
from .targets import FrozenFeatures

VIEWS = ("plain", "mirrored")
FRAMES_AT_ONCE = 8


class FeatureCache:
    """The cache of one source under one segmenter."""

    def __init__(self, folder: Path, network: DvisModel, source: ClipSource, settings: ClipSettings) -> None:
        """
        Raises:
            UsageError: the settings change pictures in ways that a cache cannot follow.
        """
        stills = isinstance(source, CocoPanoptic)
        if stills or settings.crop or settings.color or len(settings.short_sides) != 1:
            raise UsageError(
                "--cache needs clips that are only chosen, reversed and mirrored: one short side, no crop, no "
                f"colour, videos instead of single images; the recipe has short_sides={list(settings.short_sides)}, "
                f"crop={settings.crop}, color={settings.color}"
            )
        self.source: Any = source
        self.network, self.input = network, network.config.input
        self.short_side = settings.short_sides[0]
        self.views = VIEWS if settings.flip else VIEWS[:1]
        self.folder = folder / _key(network, source, self.short_side)

    def fill(self, videos: tuple[int, ...]) -> Iterator[int]:
        """Compute what is missing, and yield each video as it is there; can be interrupted at any time."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make {self.folder}: {error.strerror or error}") from error
        for video in videos:
            for view in self.views:
                if not self._path(video, view, "features").is_file():
                    self._write(video, view)
            yield video

    def read(self, video: int, mirrored: bool, picked: slice, backwards: bool) -> FrozenFeatures:
        """The features of a clip: B = 1."""
        arrays = []
        for name in ("queries", "features"):
            path = self._path(video, VIEWS[mirrored], name)
            array = np.load(path, mmap_mode="r", allow_pickle=False)[picked]
            arrays.append(torch.from_numpy(np.array(array[::-1] if backwards else array))[None].float())
        return FrozenFeatures(*arrays)

    def geometry(self, height: int, width: int) -> Geometry:
        """How a frame of that size came to the segmenter."""
        return plan_geometry(height, width, self.short_side, self.input.long_side, self.input.divisor)

    def _write(self, number: int, view: str) -> None:
        queries, features, memory = [], [], None
        video = self.source.videos[number]
        for first in range(0, len(video.frames), FRAMES_AT_ONCE):
            frames = video.frames[first : first + FRAMES_AT_ONCE]
            batch = torch.stack([self._tensor(self.source.read_picture(video, f), view) for f in frames])
            with torch.inference_mode():
                output = self.network.segmenter(batch.to(self.network.device), memory)
            memory = output.memory
            queries.append(output.queries.float().cpu().numpy())
            features.append(output.mask_features.half().cpu().numpy())
        # The features come last: where they are, the video is complete.
        for name, arrays in (("queries", queries), ("features", features)):
            with atomic_open(self._path(number, view, name), "wb") as file:
                np.save(file, np.concatenate(arrays))

    def _tensor(self, rgb: npt.NDArray[np.uint8], view: str) -> torch.Tensor:
        if view == "mirrored":
            rgb = np.ascontiguousarray(rgb[:, ::-1])
        return preprocess(rgb, self.geometry(*rgb.shape[:2]), self.input.mean, self.input.std)

    def _path(self, video: int, view: str, name: str) -> Path:
        return self.folder / f"{video:06d}.{view}.{name}.npy"


class CachedClips(ClipDataset):
    """Clips as of `ClipDataset`, with features from caches instead of pictures."""

    def __init__(self, caches: list[FeatureCache], *arguments: Any) -> None:
        super().__init__(*arguments)
        self.caches = caches

    def fill(self, on_video: Callable[[int, int], None]) -> None:
        """Compute what the caches lack. `on_video`: called with how many videos are there, of how many."""
        total, done = sum(len(report.usable) for report in self.reports), 0
        for cache, report in zip(self.caches, self.reports, strict=True):
            for _ in cache.fill(report.usable):
                done += 1
                on_video(done, total)

    def _draw(self, index: int, rng: np.random.Generator, skipped: tuple[str, ...]) -> ClipSample:
        part, number = self._choose(rng)
        video, cache = self.sources[part].videos[number], self.caches[part]
        picked = draw_frames(len(video.frames), self.settings.frames, rng)
        ids, objects = self._read_maps(part, video, video.frames[picked])
        size = cache.geometry(*ids[0].shape).resized
        maps = np.stack([augment.resize_ids(one, size) for one in ids])
        mirrored = self.settings.flip and rng.random() < 0.5
        backwards = self.settings.reverse and rng.random() < 0.5
        maps = maps[:: -1 if backwards else 1, :, :: -1 if mirrored else 1]
        targets = numbered_targets(np.ascontiguousarray(maps), objects)
        name = f"{video.video_id}/{video.frames[picked][-1 if backwards else 0].stem}"
        if not len(targets.classes):
            raise Skip(f"{EMPTY}: {name}")
        features = cache.read(number, mirrored, picked, backwards)
        return ClipSample(None, features, targets, name, index, self.input, skipped)


def _key(network: DvisModel, source: ClipSource, short_side: int) -> str:
    """What the features depend on: the segmenter's weights, how frames reach it, and the dataset."""
    digest = hashlib.sha256()
    for name, tensor in network.segmenter.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    facts = {
        "input": to_document(network.config.input),
        "short_side": short_side,
        "source": str(source.json_path),
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    digest.update(source.json_path.read_bytes())
    return digest.hexdigest()[:16]
