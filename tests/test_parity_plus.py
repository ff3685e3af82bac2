"""DVIS++ against the reference implementation's recorded numbers: R50 (by hand) and ViT with adapter."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from goldens import Golden, error, folder_of, match, whole
from test_tasks_goldens import check_tubes, our_tubes, recorded_tubes

from dvis_cli.checkpoints.detectron2 import config_from_detectron2
from dvis_cli.config import TrackerConfig, ViTAdapterConfig, load_yaml
from dvis_cli.run.loading import load_model
from dvis_cli.run.settings import RunSettings
from dvis_cli.segmenter.vit_adapter import to_tokens
from dvis_cli.structures import TrackerState
from dvis_cli.tracker.plus import PlusTracker, split

TOLERANCE = 1e-5  # of the stage's largest value
LOGITS = 3e-5  # the recorded class heads are fitted, with weights far apart: their own noise is 2.9e-5
MASKS = 1e-3 / 50
ALLOWED_PIXELS = 5


@pytest.fixture(scope="module", params=["plus_vit", *whole("plus_r50", "plus_vit")])
def plus(request: pytest.FixtureRequest) -> Golden:
    return Golden.load(request.param)


def by_channel(queries: torch.Tensor) -> torch.Tensor:
    """(T, Q, C) to the recorded layout (1, C, T, Q)."""
    return queries.permute(2, 0, 1)[None]


def masks(head, queries: torch.Tensor, features: torch.Tensor, some: np.ndarray) -> torch.Tensor:
    """(1, Q, frames, h, w) mask logits, the recorded layout."""
    return torch.einsum("tqc,tchw->qthw", head(queries[some]), features[some])[None]


def stages(golden: Golden) -> dict[str, torch.Tensor]:
    """Every stage under the recorded names."""
    model, some, frames = golden.model, golden.stages["frames"], golden.tensors()
    segmenter, tracker, refiner = model.segmenter, model.tracker, model.refiner
    features = segmenter.backbone(frames)
    pixels = segmenter.pixel_decoder(features)
    output = segmenter(frames)
    normed, raw = split(output.queries)
    decoder, ours = segmenter.query_decoder, {}
    ours |= {f"res{i + 2}": feature[some] for i, feature in enumerate(features)}
    ours |= {f"multi_scale_{i}": level[some] for i, level in enumerate(pixels.levels)}
    ours["encoder_memory"] = torch.cat([to_tokens(level[some]) for level in pixels.levels], 1)
    ours["mask_features"] = pixels.mask_features[some]
    ours["seg.pred_embds"], ours["seg.pred_embds_without_norm"] = by_channel(normed), by_channel(raw)
    ours["seg.pred_reid_embed"] = by_channel(decoder.matched_by(output.queries))
    ours["seg.pred_logits"] = output.class_logits[None]
    ours["seg.pred_masks"] = masks(
        decoder.mask_head, decoder.heads_see(output.queries), pixels.mask_features, some
    )
    tracks, _ = tracker(output.queries[None])
    ours["trk.indices"], ours["trk.pred_logits"] = tracks.indices[0], tracks.class_logits
    ours["trk.pred_embds"] = by_channel(tracks.before_norm[0])
    before = torch.cat((raw[:1], tracks.before_norm[0, :-1]))
    ours["trk.pred_references"] = by_channel(tracker.ref_proj(before))
    ours["trk.pred_masks"] = masks(tracker.mask_head, tracks.queries[0], tracker.mask_features(output), some)
    refined = refiner(*tracker.refiner_inputs(output.queries[None], tracks))
    ours["ref.pred_embds"] = by_channel(refined.queries[0])
    ours["ref.pred_logits"] = refined.class_logits[:, None].expand(-1, len(frames), -1, -1)
    ours["ref.pred_masks"] = masks(refiner.mask_head, refined.queries[0], output.mask_features, some)
    if isinstance(model.config.backbone, ViTAdapterConfig):
        ours |= adapter_stages(segmenter.backbone, frames[:1])
    return ours


def adapter_stages(backbone, frame: torch.Tensor) -> dict[str, torch.Tensor]:
    ours = {"vit.tokens": backbone.vit.tokens(frame)}
    finest, *levels = backbone.prior(frame)
    ours["vit.spm.c1"] = finest
    ours |= {f"vit.spm.c{i + 2}": to_tokens(level) for i, level in enumerate(levels)}
    sizes = [tuple(level.shape[2:]) for level in levels]
    maps = torch.cat([to_tokens(c) + code for c, code in zip(levels, backbone.level_embed, strict=True)], 1)
    x, quarter = ours["vit.tokens"], len(backbone.vit.blocks) // 4
    for i, extractor in enumerate(backbone.extractors):
        for block in backbone.vit.blocks[i * quarter : (i + 1) * quarter]:
            x = block(x)
        maps = extractor(maps, x[:, 1:], sizes)
        for extra in backbone.extra if i == 3 else ():
            maps = extra(maps, x[:, 1:], sizes)
        ours |= {f"vit.interaction{i}.x": x[:, 1:], f"vit.interaction{i}.cls": x[:, :1]}
        ours[f"vit.interaction{i}.c"] = maps
    return ours


def test_every_recorded_stage(plus: Golden) -> None:
    with torch.inference_mode():
        ours = stages(plus)
    for name, recorded in plus.stages.items():
        if name in ("frames", "ctvis.indices"):
            continue
        if name == "trk.indices":
            assert np.array_equal(ours[name].numpy(), recorded)
            continue
        tolerance = MASKS if "masks" in name else LOGITS if "logits" in name else TOLERANCE
        assert error(ours[name], recorded) < tolerance, name


def run(golden: Golden, **settings):
    video = golden.video(RunSettings(**settings))
    return list(video), video.segments


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("batch", [1, 3])
def test_recorded_panoptic_maps(plus: Golden, mode: str, batch: int) -> None:
    frames, segments = run(plus, mode=mode, batch=batch)
    assert (
        np.stack([frame.ids for frame in frames]) != plus.final[f"{mode}.vps.pan"]
    ).sum() <= ALLOWED_PIXELS
    index = plus.model.categories.index
    ours = [{"id": s.id, "isthing": s.category.isthing, "category_id": index(s.category)} for s in segments]
    assert ours == plus.facts[f"{mode}.vps"]["segments_infos"]


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_recorded_instances(plus: Golden, mode: str) -> None:
    frames, segments = run(plus, mode=mode, task="instance", score_threshold=0.0)
    check_tubes(our_tubes(plus, frames, segments), recorded_tubes(plus, f"{mode}.vis"))


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_recorded_semantic_maps(plus: Golden, mode: str) -> None:
    frames, _ = run(plus, mode=mode, task="semantic")
    ours = np.stack([frame.ids - 1 for frame in frames])
    assert (ours != plus.final[f"{mode}.vss.sem"]).sum() <= ALLOWED_PIXELS


def test_the_segmenter_alone_is_matched_by_identity(plus: Golden) -> None:
    """CTVIS: what the official code tracks with when there is no tracker."""
    decoder = plus.model.segmenter.query_decoder
    with torch.inference_mode():
        identities = decoder.matched_by(plus.model.segmenter(plus.tensors()).queries)
    last = identities[0]
    for current, recorded in zip(identities[1:], plus.stages["ctvis.indices"], strict=True):
        order = match(last, current)
        assert np.array_equal(order.numpy(), recorded)
        last = current[order]
    frames, segments = run(plus, mode="minvis", task="instance", score_threshold=0.0, top_k=10)
    check_tubes(our_tubes(plus, frames, segments), recorded_tubes(plus, "ctvis"))


@pytest.mark.parametrize("mode, file", [("minvis", "ctvis"), ("online", "online"), ("offline", "offline")])
def test_official_configurations(plus: Golden, mode: str, file: str) -> None:
    path = plus.folder / f"config_{file}.yaml"
    written, found = config_from_detectron2(load_yaml(path), path), plus.model.config
    assert written.mode == mode and written.family == found.family == "dvis++"
    assert written.pixel_decoder == found.pixel_decoder and written.query_decoder == found.query_decoder
    assert isinstance(written.backbone, type(found.backbone))
    model = load_model(plus.folder / "weights_offline.safetensors", config=path)
    assert model.config.backbone == found.backbone and model.config.mode == mode


# --- what the recordings of the ViT cannot see -------------------------------------------------------------


def plus_tracker() -> PlusTracker:
    return PlusTracker(TrackerConfig(layers=2, heads=2, ffn=16), 16, 8, classes=3).eval()


def test_rows_follow_the_identity_and_not_the_raw_query() -> None:
    """Permuted cyclically: the direct permutation, its inverse and a match of the raw queries all differ."""
    tracker = plus_tracker()
    identity, cycle = torch.eye(8)[:5], torch.tensor([1, 2, 3, 4, 0])
    frames = [torch.cat((identity, identity, torch.randn(5, 8)), 1)[cycle.roll(t)] for t in range(4)]
    with torch.inference_mode():
        tracks, _ = tracker(torch.stack(frames)[None])
    who = torch.stack(
        [frame[order, :8].argmax(1) for frame, order in zip(frames, tracks.indices[0], strict=True)]
    )
    assert torch.equal(who, who[:1].expand(4, -1)), "a row must hold the same object in every frame"


@pytest.mark.parametrize("cuts", [(1,), (2, 3)])
def test_windows_change_nothing(cuts: tuple[int, ...]) -> None:
    tracker, queries = plus_tracker(), torch.randn(1, 5, 6, 24)
    state: TrackerState | None = None
    parts = []
    with torch.inference_mode():
        whole_video, _ = tracker(queries)
        for a, b in pairwise([0, *cuts, 5]):
            tracks, state = tracker(queries[:, a:b], state)
            parts.append(tracks)
    assert torch.equal(torch.cat([part.indices for part in parts], 1), whole_video.indices)
    logits = torch.cat([part.class_logits for part in parts], 1)
    assert torch.allclose(logits, whole_video.class_logits, atol=1e-5)


@pytest.mark.slow
def test_recorded_units_with_long_permutations() -> None:
    """Tracker and refiner of R50 on synthetic queries."""
    units = dict(np.load(folder_of("whole/plus_r50") / "units.npz"))
    model = Golden.load("whole/plus_r50").model
    normed, raw = (
        torch.from_numpy(units[name])[0].permute(1, 2, 0) for name in ("frame_embeds", "frame_embeds_no_norm")
    )
    half = normed.shape[-1] // 2
    queries = torch.cat((normed, raw[..., :half]), dim=-1)[None]
    features, frames = torch.from_numpy(units["mask_features"])[0], np.arange(len(normed))
    with torch.inference_mode():
        tracks, _ = model.tracker(queries)
        refined = model.refiner(*model.tracker.refiner_inputs(queries, tracks))
        projected = model.tracker.mask_feature_proj(features)
        assert np.array_equal(tracks.indices[0].numpy(), units["trk.indices"])
        assert any((order[order] != torch.arange(len(order))).any() for order in tracks.indices[0])
        for name, ours, tolerance in (
            ("trk.pred_embds", by_channel(tracks.before_norm[0]), TOLERANCE),
            ("trk.windowed_pred_embds", by_channel(tracks.before_norm[0]), TOLERANCE),
            ("trk.pred_logits", tracks.class_logits, LOGITS),
            ("trk.pred_masks", masks(model.tracker.mask_head, tracks.queries[0], projected, frames), MASKS),
            ("ref.pred_embds", by_channel(refined.queries[0]), TOLERANCE),
            ("ref.pred_masks", masks(model.refiner.mask_head, refined.queries[0], features, frames), MASKS),
        ):
            assert error(ours, units[name]) < tolerance, name
