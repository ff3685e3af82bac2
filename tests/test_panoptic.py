"""The panoptic decision against a plain whole-video version, and its properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_cli.datasets.categories import vipseg_categories
from dvis_cli.layers.masks import FrameMasks, ViewMasks, mask_probabilities
from dvis_cli.run.state import offline_class_probs
from dvis_cli.structures import Geometry
from dvis_cli.tasks.chosen import Chosen
from dvis_cli.tasks.panoptic import (
    GONE,
    Identities,
    WinnerCounts,
    WinnerMaps,
    keep_queries,
)

CATEGORIES = vipseg_categories()
GEOMETRIES = [
    Geometry((24, 40), (24, 40), (32, 64)),
    Geometry((50, 31), (25, 30), (32, 32)),
    Geometry((9, 7), (30, 60), (32, 64)),
    Geometry((1, 1), (1, 1), (32, 32)),
]


def kept_queries(scores: torch.Tensor, classes: list[int] | None = None) -> Chosen:
    count = len(scores)
    return Chosen(torch.arange(count), torch.tensor(classes or [0] * count), scores)


def decide(embeds, features, kept, geometry, overlap=0.8) -> tuple[np.ndarray, list]:
    """The streaming decision over all frames: ids (T, H, W) and segments."""
    maps = WinnerMaps(kept)
    winners = [
        maps.frame(FrameMasks([ViewMasks(e, f, geometry)])) if len(e) else np.zeros(geometry.output, np.uint8)
        for e, f in zip(embeds, features, strict=True)
    ]
    identities = Identities(CATEGORIES)
    table = identities.table(kept, maps.counts, overlap)
    return np.stack([table[w] for w in winners]), identities.segments


def decide_plainly(embeds, features, kept, geometry, overlap=0.8) -> tuple[np.ndarray, list]:
    """The definition word by word, with every mask of the video in memory."""
    logits = torch.einsum("tnc,tchw->tnhw", embeds, features)
    masks = F.interpolate(logits, geometry.padded, mode="bilinear", align_corners=False)
    masks = masks[:, :, : geometry.resized[0], : geometry.resized[1]].sigmoid()
    masks = F.interpolate(masks, geometry.output, mode="bilinear", align_corners=False)
    winner = (masks * kept.scores[None, :, None, None]).argmax(dim=1)
    ids = np.zeros(winner.shape, np.int32)
    segments, stuff = [], {}
    for n, index in enumerate(kept.classes.tolist()):
        own = masks[:, n] >= 0.5
        won = winner == n
        mine = (own & won).numpy()
        if not mine.any() or won.sum().item() / own.sum().item() < overlap:
            continue
        category = CATEGORIES[index]
        if category.isthing or index not in stuff:
            segments.append((len(segments) + 1, category))
            stuff[index] = len(segments)
        ids[mine] = len(segments) if category.isthing else stuff[index]
    return ids, segments


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 20),
    frames=st.integers(1, 4),
    geometry=st.sampled_from(GEOMETRIES),
    overlap=st.sampled_from([0.0, 0.3, 0.8]),
)
def test_streaming_equals_the_plain_whole_video_decision(seed, count, frames, geometry, overlap) -> None:
    generator = torch.Generator().manual_seed(seed)
    h, w = geometry.padded[0] // 4, geometry.padded[1] // 4
    embeds = torch.randn(frames, count, 6, generator=generator)
    features = torch.randn(frames, 6, h, w, generator=generator)
    classes = torch.randint(0, 124, (count,), generator=generator).tolist()
    kept = kept_queries(torch.rand(count, generator=generator) * 0.2 + 0.8, classes)
    ids, segments = decide(embeds, features, kept, geometry, overlap)
    if count == 0:
        assert not ids.any() and not segments
        return
    plain_ids, plain_segments = decide_plainly(embeds, features, kept, geometry, overlap)
    assert [(s.id, s.category) for s in segments] == plain_segments
    assert (ids != plain_ids).mean() < 1e-3, "only ties in the last bit may differ"


def test_many_kept_queries_need_sixteen_bits() -> None:
    kept = kept_queries(torch.full((300,), 0.9))
    geometry = GEOMETRIES[0]
    embeds = torch.zeros(300, 4)
    embeds[299] = 5.0
    winner = WinnerMaps(kept).frame(FrameMasks([ViewMasks(embeds, torch.ones(4, 8, 16), geometry)]))
    assert winner.dtype == np.uint16 and (winner == 300).all()


def test_keep_queries() -> None:
    probs = torch.tensor([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.05, 0.05, 0.9], [0.05, 0.85, 0.1]])
    kept = keep_queries(probs, 0.8)
    assert kept.queries.tolist() == [0, 3], "0.8 itself is not above 0.8; 'no object' is nothing"
    assert kept.classes.tolist() == [0, 1]


def test_offline_probabilities_take_the_refiners_word_for_no_object() -> None:
    refined = torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.1, 0.3]])
    online = torch.tensor([[0.65, 0.3, 0.05], [0.2, 0.1, 0.7]])
    assert torch.equal(
        offline_class_probs(refined, online), torch.tensor([[0.65, 0.3, 0.7], [0.6, 0.1, 0.3]])
    )


def test_mask_probabilities_stay_in_range_and_size() -> None:
    for geometry in GEOMETRIES:
        logits = torch.randn(3, geometry.padded[0] // 4, geometry.padded[1] // 4) * 50
        masks = mask_probabilities(logits, geometry)
        assert masks.shape == (3, *geometry.output)
        assert masks.min() >= 0 and masks.max() <= 1


def counts(*assigned: int) -> WinnerCounts:
    array = np.array(assigned)
    return WinnerCounts(array, np.maximum(array, 1), array)


def test_identities_over_horizons() -> None:
    """A query of one class keeps its id; of another class it is another object; stuff is one per class."""
    thing, other, stuff = 0, 1, 60
    identities = Identities(CATEGORIES)
    scores = torch.tensor([0.9, 0.9, 0.9])
    first = identities.table(
        Chosen(torch.tensor([2, 5, 7]), torch.tensor([thing, stuff, stuff]), scores),
        counts(10, 10, 10),
        0.8,
    )
    assert first.tolist() == [0, 1, 2, 2]
    second = identities.table(
        Chosen(torch.tensor([2, 5, 9]), torch.tensor([thing, other, stuff]), scores - 0.05),
        counts(30, 10, 0),
        0.8,
    )
    assert second.tolist() == [0, 1, 3, 0]
    assert [s.id for s in identities.segments] == [1, 2, 3]
    assert identities.segments[0].score == pytest.approx((0.9 * 10 + 0.85 * 30) / 40)


def test_a_row_that_was_empty_for_long_is_another_object() -> None:
    """A short absence keeps the id, a long one does not; stuff is one segment however long it was away."""
    thing, stuff = 0, 60
    one = Chosen(torch.tensor([2, 5]), torch.tensor([thing, stuff]), torch.tensor([0.9, 0.9]))
    nothing = Chosen(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    identities = Identities(CATEGORIES)

    def after(absent: int) -> list[int]:
        if absent:
            identities.table(nothing, counts(), 0.8, frames=absent)
        return identities.table(one, counts(10, 10), 0.8, frames=12).tolist()

    assert after(0) == [0, 1, 2] and after(0) == [0, 1, 2]
    assert after(GONE - 1) == [0, 1, 2]
    assert after(GONE) == [0, 3, 2]
    assert after(0) == [0, 3, 2]


def test_hidden_queries_stay_void() -> None:
    kept = kept_queries(torch.tensor([0.9, 0.9]))
    table = Identities(CATEGORIES).table(
        kept, WinnerCounts(np.array([79, 100]), np.array([100, 100]), np.array([79, 100])), 0.8
    )
    assert table.tolist() == [0, 0, 1]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    geometry=st.sampled_from([*GEOMETRIES, Geometry((100, 61), (50, 61), (64, 64))]),
    edges=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_band_is_a_part_of_the_whole(seed, geometry, edges) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(6, geometry.padded[0] // 4, geometry.padded[1] // 4, generator=generator)
    masks = FrameMasks([ViewMasks(torch.randn(5, 6, generator=generator), features, geometry)])
    height = geometry.output[0]
    first, last = sorted(int(edge * (height - 1)) for edge in edges)
    band = masks.band(slice(first, last + 1))
    whole = masks.probabilities(slice(0, 5))[:, first : last + 1]
    assert band.shape == whole.shape
    assert torch.allclose(band, whole, atol=1e-5)


SIZES = [
    *GEOMETRIES,
    Geometry((100, 61), (50, 61), (64, 64)),
    Geometry((57, 131), (32, 96), (32, 96)),
    Geometry((96, 160), (96, 160), (96, 160)),
]


def smooth_masks(seed: int, count: int, geometry: Geometry, contrast: float) -> FrameMasks:
    """Masks with wide insides and soft borders, as a trained model's; flat ones, each at a level, without contrast."""
    generator = torch.Generator().manual_seed(seed)
    height, width = geometry.padded[0] // 4, geometry.padded[1] // 4
    coarse = torch.randn(1, 6, height // 6 + 1, width // 6 + 1, generator=generator)
    features = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)[0]
    embeds = torch.randn(count, 6, generator=generator) * contrast
    level = torch.randn(count, 1, generator=generator)
    features, embeds = torch.cat([features, torch.ones(1, height, width)]), torch.cat([embeds, level], dim=1)
    return FrameMasks([ViewMasks(embeds, features, geometry)])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 12),
    geometry=st.sampled_from(SIZES),
    contrast=st.sampled_from([0.0, 1.0, 10.0, 1000.0]),
)
def test_winners_by_cells_are_those_by_pixels(seed, count, geometry, contrast) -> None:
    masks = smooth_masks(seed, count, geometry, contrast)
    scores = torch.rand(count, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.5
    by_cells, by_pixels = WinnerMaps(kept_queries(scores)), WinnerMaps(kept_queries(scores))
    winner = by_cells.frame(masks)
    masks.cells = lambda: None  # type: ignore[method-assign, return-value]
    plain = by_pixels.frame(masks)
    tied = 2  # pixels that rounding may decide either way
    assert (winner != plain).sum() <= tied
    for name in ("won", "own", "assigned"):
        difference = getattr(by_cells.counts, name) - getattr(by_pixels.counts, name)
        assert np.abs(difference).max() <= tied, name


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), geometry=st.sampled_from(SIZES))
def test_cells_bound_and_make_every_pixel(seed, geometry) -> None:
    masks = smooth_masks(seed, 3, geometry, 5.0)
    cells = masks.cells()
    assert int(cells.pixels.sum()) == geometry.output[0] * geometry.output[1]
    everywhere = torch.arange(cells.pixels.numel())
    one = cells.block[0] * cells.block[1]
    for n, whole in enumerate(masks.probabilities(slice(0, 3))):
        made = cells.picture(cells.blocks(n, everywhere))
        assert torch.allclose(made, whole, atol=1e-5)
        low, high = (bound[n].flatten()[:, None].repeat(1, one) for bound in (cells.low, cells.high))
        assert (cells.picture(low) <= whole + 1e-6).all() and (whole <= cells.picture(high) + 1e-6).all()
