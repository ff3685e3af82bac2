"""Instance and semantic segmentation against the reference implementation's recorded results."""

from __future__ import annotations

import numpy as np
import pytest
from goldens import GEOMETRY, Golden

from dvis_cli.coco_masks import decode
from dvis_cli.run.settings import RunSettings

ALLOWED_PIXELS = 10
SCORE = 1e-4


def run(golden: Golden, **settings):
    """The frames of the recorded video, and the segments."""
    video = golden.video(RunSettings(score_threshold=0.0, **settings))
    return list(video), video.segments


def recorded_tubes(golden: Golden, prefix: str) -> list[tuple[float, int, int | None, np.ndarray]]:
    """(score, contiguous class, query, mask (T, H, W)) of every tube."""
    final = golden.final
    shape = tuple(final[f"{prefix}.masks_shape"])
    bits = np.unpackbits(final[f"{prefix}.masks_packed"])[: int(np.prod(shape))]
    queries = final.get(f"{prefix}.ids", [None] * shape[0])
    rows = zip(
        final[f"{prefix}.scores"], final[f"{prefix}.labels"], queries, bits.reshape(shape), strict=True
    )
    return [(float(s), int(c), None if q is None else int(q), m.astype(bool)) for s, c, q, m in rows]


def our_tubes(golden: Golden, frames, segments) -> list[tuple[float, int, int | None, np.ndarray]]:
    index = {category.id: i for i, category in enumerate(golden.model.categories)}
    tubes = []
    for segment in segments:
        masks = [
            decode([frame.masks[segment.id]], GEOMETRY.output)[0]
            if segment.id in frame.masks
            else np.zeros(GEOMETRY.output, bool)
            for frame in frames
        ]
        tubes.append((segment.score, index[segment.category.id], segment.query, np.stack(masks)))
    return tubes


def check_tubes(ours, recorded) -> None:
    """Equal as sets, within the tolerances."""
    assert len(ours) == len(recorded)
    left = list(ours)
    for score, label, query, mask in recorded:
        same = [
            tube
            for tube in left
            if abs(tube[0] - score) < SCORE
            and tube[1] == label
            and query in (None, tube[2])
            and (tube[3] != mask).sum() <= ALLOWED_PIXELS
        ]
        assert same, f"class {label} of query {query} at {score} was not found"
        left = [tube for tube in left if tube is not same[0]]


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_recorded_instances(golden: Golden, mode: str) -> None:
    frames, segments = run(golden, task="instance", mode=mode, batch=3, memory_budget=0)
    check_tubes(our_tubes(golden, frames, segments), recorded_tubes(golden, f"{mode}.vis"))


def test_recorded_minvis_instances(golden: Golden) -> None:
    frames, segments = run(golden, task="instance", mode="minvis", top_k=10)
    check_tubes(our_tubes(golden, frames, segments), recorded_tubes(golden, "minvis"))


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_recorded_semantic_maps(golden: Golden, mode: str) -> None:
    frames, segments = run(golden, task="semantic", mode=mode)
    ours = np.stack([frame.ids - 1 for frame in frames])
    assert (ours != golden.final[f"{mode}.vss.sem"]).sum() <= ALLOWED_PIXELS
    assert {segment.id for segment in segments} == set(np.unique(ours + 1))
