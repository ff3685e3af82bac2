"""Every stage of the networks against the reference implementation's recorded numbers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from goldens import FOLDER, Golden, error, match

from dvis_cli.layers.deformable import DeformableAttention

TOLERANCE = 1e-5  # of the stage's largest value; the issue asks for 1e-4
MASK_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def outputs(golden: Golden):
    """Each stage run on the recorded frames."""
    model = golden.model
    with torch.inference_mode():
        features = model.segmenter.backbone(golden.tensors())
        pixels = model.segmenter.pixel_decoder(features)
        segmented = model.segmenter(golden.tensors())
        tracks, _ = model.tracker(segmented.queries[None])
        memory = model.tracker.frame_forward(segmented.queries[None])
        refined = model.refiner(tracks.queries, memory)
    return features, pixels, segmented, tracks, memory, refined


def embds(queries: torch.Tensor) -> torch.Tensor:
    """(B, T, Q, C) to the recorded layout (B, C, T, Q)."""
    return queries.permute(0, 3, 1, 2)


def masks(head, queries: torch.Tensor, features: torch.Tensor, frames: np.ndarray) -> torch.Tensor:
    """(1, Q, frames, h, w) mask logits, the recorded layout."""
    with torch.inference_mode():
        return torch.einsum("tqc,tchw->qthw", head(queries[0, frames]), features[frames])[None]


def test_backbone(golden: Golden, outputs) -> None:
    some = golden.stages["frames"]
    for i, feature in enumerate(outputs[0]):
        assert error(feature[some], golden.stages[f"res{i + 2}"]) < TOLERANCE


def test_pixel_decoder(golden: Golden, outputs) -> None:
    some = golden.stages["frames"]
    assert error(outputs[1].mask_features[some], golden.stages["mask_features"]) < TOLERANCE
    for i, level in enumerate(outputs[1].levels):
        assert error(level[some], golden.stages[f"multi_scale_{i}"]) < TOLERANCE


def test_query_decoder(golden: Golden, outputs) -> None:
    segmented = outputs[2]
    assert error(embds(segmented.queries[None]), golden.stages["seg.pred_embds"]) < TOLERANCE
    assert error(segmented.class_logits[None], golden.stages["seg.pred_logits"]) < TOLERANCE
    head = golden.model.segmenter.query_decoder.mask_head
    ours = masks(head, segmented.queries[None], segmented.mask_features, golden.stages["frames"])
    assert error(ours, golden.stages["seg.pred_masks"]) < MASK_TOLERANCE


def test_tracker(golden: Golden, outputs) -> None:
    tracks, memory = outputs[3], outputs[4]
    assert np.array_equal(tracks.indices[0].numpy(), golden.stages["trk.indices"])
    assert error(embds(tracks.queries), golden.stages["trk.pred_embds"]) < TOLERANCE
    assert error(tracks.class_logits, golden.stages["trk.pred_logits"]) < 2 * TOLERANCE
    assert error(embds(memory), golden.stages["trk.frame_forward"]) < TOLERANCE
    ours = masks(
        golden.model.tracker.mask_head, tracks.queries, outputs[2].mask_features, golden.stages["frames"]
    )
    assert error(ours, golden.stages["trk.pred_masks"]) < MASK_TOLERANCE


def test_refiner(golden: Golden, outputs) -> None:
    refined = outputs[5]
    assert error(embds(refined.queries), golden.stages["ref.pred_embds"]) < TOLERANCE
    frames = golden.stages["ref.pred_logits"].shape[1]
    repeated = refined.class_logits[:, None].expand(-1, frames, -1, -1)
    assert error(repeated, golden.stages["ref.pred_logits"]) < 2 * TOLERANCE
    ours = masks(
        golden.model.refiner.mask_head, refined.queries, outputs[2].mask_features, golden.stages["frames"]
    )
    assert error(ours, golden.stages["ref.pred_masks"]) < MASK_TOLERANCE


def test_minvis_matching(golden: Golden, outputs) -> None:
    """The recorded permutations are relative to each frame's own order, chained over the frames."""
    queries = outputs[2].queries
    last, recorded = queries[0], golden.stages["minvis.indices"]
    for current, expected in zip(queries[1:], recorded, strict=True):
        order = match(last, current)
        assert np.array_equal(order.numpy(), expected)
        last = current[order]


# --- synthetic input with strong permutations -------------------------------------------------------------


@pytest.fixture(scope="module")
def units() -> dict[str, np.ndarray]:
    return dict(np.load(FOLDER / "unit" / "units.npz"))


@pytest.fixture(scope="module")
def unit_queries(units) -> torch.Tensor:
    """(1, T, Q, C)."""
    return torch.from_numpy(units["frame_embeds"]).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("cuts", [(), (3,), (1, 2, 5)])
def test_unit_tracker_continues_over_windows(units, unit_queries, cuts) -> None:
    tracker = Golden.load("swin").model.tracker
    state, parts = None, []
    edges = [0, *cuts, unit_queries.shape[1]]
    with torch.inference_mode():
        for a, b in pairwise(edges):
            tracks, state = tracker(unit_queries[:, a:b], state)
            parts.append(tracks)
    queries = torch.cat([part.queries for part in parts], dim=1)
    indices = torch.cat([part.indices for part in parts], dim=1)
    assert np.array_equal(indices[0].numpy(), units["trk.indices"])
    assert error(embds(queries), units["trk.pred_embds"]) < TOLERANCE
    assert error(embds(queries), units["trk.windowed_pred_embds"]) < TOLERANCE
    logits = torch.cat([part.class_logits for part in parts], dim=1)
    assert error(logits, units["trk.pred_logits"]) < 2 * TOLERANCE


def test_unit_refiner(units, unit_queries) -> None:
    model = Golden.load("swin").model
    features = torch.from_numpy(units["mask_features"])[0]
    with torch.inference_mode():
        tracks, _ = model.tracker(unit_queries)
        memory = model.tracker.frame_forward(unit_queries)
        assert error(embds(memory), units["trk.frame_forward"]) < TOLERANCE
        refined = model.refiner(tracks.queries, memory)
        single = model.refiner(tracks.queries[:, :1], memory[:, :1])
    assert error(embds(refined.queries), units["ref.pred_embds"]) < TOLERANCE
    repeated = refined.class_logits[:, None].expand(-1, 7, -1, -1)
    assert error(repeated, units["ref.pred_logits"]) < 2 * TOLERANCE
    all_frames = np.arange(7)
    ours = masks(model.refiner.mask_head, refined.queries, features, all_frames)
    assert error(ours, units["ref.pred_masks"]) < MASK_TOLERANCE
    assert error(single.class_logits[:, None], units["ref.T1.pred_logits"]) < 2 * TOLERANCE
    alone = masks(model.refiner.mask_head, single.queries, features, all_frames[:1])
    assert error(alone, units["ref.T1.pred_masks"]) < MASK_TOLERANCE


def test_unit_matchers(units, unit_queries) -> None:
    pairs = list(pairwise(unit_queries[0]))
    published = np.stack([match(a, b, published=True).numpy() for a, b in pairs])
    direct = np.stack([match(a, b).numpy() for a, b in pairs])
    assert np.array_equal(published, units["match.tracker(ref=e[i],cur=e[i+1])"])
    assert np.array_equal(direct, units["match.minvis(tgt=e[i],cur=e[i+1])"])
    assert not np.array_equal(published, direct), "the case does not tell the two conventions apart"


def test_unit_deformable_attention(units) -> None:
    layer = DeformableAttention(channels=32, heads=4, levels=3, points=4)
    weights = {k.removeprefix("msda.w."): torch.from_numpy(v) for k, v in units.items() if ".w." in k}
    layer.load_state_dict(weights)
    with torch.inference_mode():
        ours = layer(
            torch.from_numpy(units["msda.query"]),
            torch.from_numpy(units["msda.reference_points"]),
            torch.from_numpy(units["msda.input_flatten"]),
            [(int(h), int(w)) for h, w in units["msda.spatial_shapes"]],
        )
    assert error(ours, units["msda.out"]) < TOLERANCE
