"""Properties of the networks and of the per-video state; recorded results through a run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from goldens import GEOMETRY, Golden, match

from dvis_cli.checkpoints.registry import known_model
from dvis_cli.config import DecisionConfig, TrackerConfig
from dvis_cli.errors import UsageError
from dvis_cli.refiner.presence import judge_presence, odds_of_something
from dvis_cli.run.loading import categories_of
from dvis_cli.run.model import DvisModel
from dvis_cli.run.noise import random_model
from dvis_cli.run.options import SegmentOptions
from dvis_cli.run.placement import pick_device, pick_precision
from dvis_cli.run.scales import Scales
from dvis_cli.run.settings import RunSettings, settings_for
from dvis_cli.run.state import QueryState
from dvis_cli.structures import SegmenterOutput, View
from dvis_cli.tracker.tracker import ReferringTracker

ALLOWED_PIXELS = 5


def run(golden: Golden, **settings) -> tuple[np.ndarray, list[tuple[int, bool, int]]]:
    """Ids (T, H, W) and (id, isthing, contiguous class) of the segments."""
    video = golden.video(RunSettings(**settings))
    ids = np.stack([frame.ids for frame in video])
    index = {category.id: i for i, category in enumerate(golden.model.categories)}
    return ids, [(s.id, s.category.isthing, index[s.category.id]) for s in video.segments]


def recorded_segments(golden: Golden, mode: str) -> list[tuple[int, bool, int]]:
    return [(s["id"], s["isthing"], s["category_id"]) for s in golden.facts[f"{mode}.vps"]["segments_infos"]]


def tiny(seed: int = 7) -> DvisModel:
    config = known_model("tiny").config
    return random_model(config, categories_of(config), seed)


# --- recorded results -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("batch, budget", [(1, 0), (3, 2**30)])
def test_recorded_panoptic_maps(golden: Golden, mode: str, batch: int, budget: int) -> None:
    ids, segments = run(golden, mode=mode, batch=batch, memory_budget=budget)
    assert segments == recorded_segments(golden, mode)
    assert (ids != golden.final[f"{mode}.vps.pan"]).sum() <= ALLOWED_PIXELS


@pytest.mark.parametrize("window", [1, 3])
def test_the_window_is_the_refiners_alone(golden: Golden, window: int) -> None:
    ids, segments = run(golden, mode="online", window=window)
    assert segments == recorded_segments(golden, "online")
    assert (ids != golden.final["online.vps.pan"]).sum() <= ALLOWED_PIXELS


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_recorded_scores(golden: Golden, mode: str) -> None:
    probs = class_probs(golden, mode)
    kept, classes = probs.max(dim=1)
    for query, label, score in golden.facts[f"{mode}_scores"]:
        assert classes[query] == label
        assert kept[query] == pytest.approx(score, abs=1e-4)


def class_probs(golden: Golden, mode: str) -> torch.Tensor:
    """(Q, K+1) at the end of the recorded frames."""
    state = QueryState(golden.model, RunSettings(mode=mode))
    with torch.inference_mode():
        for tensor in golden.tensors():
            state.add(golden.model.segment(tensor[None]))
        return state.finish_horizon()


def test_recorded_minvis_tubes(golden: Golden) -> None:
    """The recording holds MinVIS' ten best (query, class) pairs: their scores, classes and masks."""
    state = QueryState(golden.model, RunSettings(mode="minvis"))
    with torch.inference_mode():
        output = golden.model.segment(golden.tensors())
        state.add(output)
        probs = state.finish_horizon()[:, :-1]
        scores, flat = probs.flatten().topk(10)
        queries, labels = flat // probs.shape[1], flat % probs.shape[1]
        masks = []
        for i, features in enumerate(output.mask_features):
            logits = torch.einsum("nc,chw->nhw", state.mask_embeds(i, queries), features)
            up = torch.nn.functional.interpolate(logits[None], GEOMETRY.padded, mode="bilinear")[0]
            masks.append(up[:, : GEOMETRY.resized[0], : GEOMETRY.resized[1]] > 0)
    ours = torch.stack(masks, dim=1).numpy()
    shape = tuple(golden.final["minvis.masks_shape"])
    bits = np.unpackbits(golden.final["minvis.masks_packed"])[: int(np.prod(shape))]
    recorded = bits.reshape(shape).astype(bool)
    left = list(range(10))
    for score, label, mask in zip(scores.tolist(), labels.tolist(), ours, strict=True):
        same = [
            j
            for j in left
            if golden.final["minvis.labels"][j] == label
            and abs(golden.final["minvis.scores"][j] - score) < 1e-4
            and (recorded[j] != mask).sum() <= 10
        ]
        assert same, f"class {label} at {score} was not recorded"
        left.remove(same[0])


# --- properties -------------------------------------------------------------------------------------------


def test_batch_equals_single(golden: Golden) -> None:
    frames = golden.tensors()[:3]
    with torch.inference_mode():
        together = golden.model.segment(frames)
        alone = [golden.model.segment(frame[None]) for frame in frames]
    for i, one in enumerate(alone):
        assert torch.allclose(together.queries[i], one.queries[0], atol=1e-4)
        assert torch.allclose(together.mask_features[i], one.mask_features[0], atol=1e-3)


def test_windows_and_horizons_keep_ids(golden: Golden) -> None:
    """Cut into small horizons, an id never changes its class and the frames all come out in order."""
    video = golden.video(RunSettings(mode="offline", window=2, horizon=2))
    frames = list(video)
    assert [frame.index for frame in frames] == list(range(len(golden.frames)))
    classes: dict[int, int] = {}
    for frame in frames:
        assert set(np.unique(frame.ids)) - {0} == set(frame.segments)
        for n, segment in frame.segments.items():
            assert classes.setdefault(n, segment.category.id) == segment.category.id
    assert set(classes) == {segment.id for segment in video.segments}


def test_frames_come_out_while_the_video_is_read(golden: Golden) -> None:
    """A frame waits for its own horizon and the length of one more, however long the video is."""
    read = []

    def source():
        for item in golden.source() * 3:
            read.append(item)
            yield item

    video = golden.video(RunSettings(mode="online", window=2, horizon=2), source())
    for position, _ in enumerate(video):
        assert len(read) <= position + 4
    assert position + 1 == len(read) == 3 * len(golden.frames)


def test_the_last_short_window_sees_the_frames_before_it(golden: Golden) -> None:
    """Frames 0..T-1 refined with window T-1: the last frame is refined with T-2 frames before it."""
    count = len(golden.frames)
    state = QueryState(golden.model, RunSettings(mode="offline", window=count - 1))
    with torch.inference_mode():
        output = golden.model.segment(golden.tensors())
        state.add(output)
        state.finish_horizon()
        tracks, _ = golden.model.tracker(output.queries[None])
        memory = golden.model.tracker.frame_forward(output.queries[None])
        late = golden.model.refiner(tracks.queries[:, 1:], memory[:, 1:])
    assert len(state.horizon.queries) == count
    assert torch.allclose(state.horizon.queries[-1], late.queries[0, -1], atol=1e-5)


def test_one_frame(golden: Golden) -> None:
    for mode in ("minvis", "online", "offline"):
        frames = list(golden.video(RunSettings(mode=mode), golden.source()[:1]))
        assert len(frames) == 1 and frames[0].ids.shape == (90, 150)


def test_no_frames(golden: Golden) -> None:
    assert list(golden.video(RunSettings(mode="online"), [])) == []


def test_permuting_segmenter_queries_permutes_frame_forward(golden: Golden) -> None:
    tracker = golden.model.tracker
    queries = torch.randn(2, 20, 64)
    order = torch.randperm(20)
    with torch.inference_mode():
        assert torch.allclose(
            tracker.frame_forward(queries)[:, order], tracker.frame_forward(queries[:, order]), atol=1e-5
        )


def test_matchers_are_inverse_permutations() -> None:
    last = torch.randn(30, 16)
    order = torch.randperm(30)
    current = last[order] + 0.01 * torch.randn(30, 16)
    direct, published = match(last, current), match(last, current, published=True)
    assert torch.equal(current[direct].sub(last).abs().amax() < 0.2, torch.tensor(True))
    assert torch.equal(direct[published], torch.arange(30))


def test_matching_survives_broken_features() -> None:
    broken = torch.full((5, 4), float("nan"))
    assert sorted(match(broken, torch.zeros(5, 4)).tolist()) == list(range(5))


def test_bf16_stays_close_to_fp32() -> None:
    model = tiny()
    frames = torch.randn(2, 3, 96, 160)
    with torch.inference_mode():
        exact = model.segment(frames)
        model.precision = "bf16"
        fast = model.segment(frames)
    scale = exact.mask_features.abs().max()
    assert (fast.mask_features.float() - exact.mask_features).abs().max() < 0.1 * scale


# --- settings ---------------------------------------------------------------------------------------------


def test_a_horizon_is_at_least_a_window() -> None:
    with pytest.raises(UsageError, match="horizon=300 must not be shorter than window=400"):
        RunSettings(mode="online", window=400)


def test_devices_and_precisions() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_precision("auto", torch.device("cpu")) == "fp32"
    for name in ("gpu", "cuda:99", "meta"):
        with pytest.raises(UsageError, match="device"):
            pick_device(name)
    with pytest.raises(UsageError, match="precision"):
        pick_precision("fp8", torch.device("cpu"))  # type: ignore[arg-type]


def test_tracks_may_be_matched_to_tracks() -> None:
    """ "tracks" compares with the tracker's last output, "direct" with the last frame's queries."""
    config = TrackerConfig(layers=1, heads=2, ffn=16, matching="tracks")
    torch.manual_seed(0)
    tracker = ReferringTracker(config, channels=16, mask_channels=16, classes=3).eval()
    queries = torch.randn(1, 2, 6, 16)
    with torch.no_grad():
        state, _, _ = tracker.step(queries[:, 0], None)
        _, order, _ = tracker.step(queries[:, 1], state)
        wanted = match(tracker.norm(state.output)[0], queries[0, 1])
    assert torch.equal(order[0], wanted)
    assert not torch.equal(order[0], match(queries[0, 0], queries[0, 1]))


def test_a_model_says_how_many_frames_it_decides_together() -> None:
    model = tiny()
    assert settings_for(model, SegmentOptions()).window == 300
    model.config = dataclasses.replace(model.config, decision=DecisionConfig(window=12))
    settings = settings_for(model, SegmentOptions())
    assert (settings.window, settings.horizon) == (12, 12)
    assert settings_for(model, SegmentOptions(window=4)).horizon == 12
    assert settings_for(model, SegmentOptions(window=40)).horizon == 40


def test_blended_masks_lie_between_the_trackers_and_the_refiners(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = golden.model.config
    every = torch.arange(config.query_decoder.queries)

    def embeds(mode: str, blend: float) -> list[torch.Tensor]:
        refiner = dataclasses.replace(config.refiner, blend=blend)
        monkeypatch.setattr(golden.model, "config", dataclasses.replace(config, refiner=refiner))
        state = QueryState(golden.model, RunSettings(mode=mode, window=2))
        with torch.inference_mode():
            state.add(golden.model.segment(golden.tensors()))
            state.finish_horizon()
            return [state.mask_embeds(frame, every) for frame in range(len(golden.frames))]

    tracked, refined = embeds("online", 1.0), embeds("offline", 1.0)
    some, none = embeds("offline", 0.25), embeds("offline", 0.0)
    for frame, (alone, other) in enumerate(zip(tracked, refined, strict=True)):
        assert not torch.allclose(alone, other, atol=1e-2)
        assert torch.allclose(some[frame], 0.75 * alone + 0.25 * other, atol=1e-5)
        assert torch.allclose(none[frame], alone, atol=1e-5)


def test_presence_is_judged_by_the_frames_around() -> None:
    odds = torch.tensor([[9.0, -9.0, 1.0], [-1.0, 4.0, -30.0], [9.0, -9.0, 5.0], [9.0, -9.0, -9.0]])
    assert judge_presence(odds, 1).tolist() == (odds > 0).tolist()
    smoothed = judge_presence(odds, 3)
    assert smoothed[:, 0].all(), "missed in one frame only"
    assert not smoothed[:, 1].any(), "there in one frame only"
    assert smoothed[:, 2].tolist() == [False, False, False, False], "no frame counts for more than its limit"
    assert judge_presence(torch.tensor([[2.0]]), 5).item()


def test_a_track_that_is_not_there_has_an_empty_mask(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    config, segment = golden.model.config, golden.model.segment
    every = torch.arange(config.query_decoder.queries)

    def doubtful(frames: torch.Tensor, memory: None) -> SegmenterOutput:
        """As the segmenter says, but half of the queries are taken for nothing."""
        output = segment(frames, memory)
        odds = odds_of_something(output.class_logits)
        logits = output.class_logits.clone()
        logits[..., -1] += odds.median()
        return dataclasses.replace(output, class_logits=logits)

    monkeypatch.setattr(golden.model, "segment", doubtful)

    def masks(presence: int) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        refiner = dataclasses.replace(config.refiner, presence=presence)
        monkeypatch.setattr(golden.model, "config", dataclasses.replace(config, refiner=refiner))
        network = Scales(golden.model, [View(GEOMETRY)], RunSettings(mode="offline", window=2))
        network.add(list(golden.tensors()[:, None]))
        tubes, frames = network.tubes(), range(len(golden.frames))
        probabilities = [tubes.masks(frame, every).probabilities(slice(None)) for frame in frames]
        found = network.scales[0].state.horizon.present
        verdicts = [found[frame][every] if found else None for frame in frames]
        network.close()
        return torch.stack(probabilities), verdicts

    plain, unjudged = masks(0)
    judged, verdicts = masks(3)
    assert unjudged == [None] * len(golden.frames)
    present = torch.stack([verdict for verdict in verdicts if verdict is not None])
    assert present.any() and not present.all(), "all alike: the test shows nothing"
    assert torch.equal(judged[present], plain[present])
    assert judged[~present].max() < 1e-6


def test_masks_of_absent_tracks_do_not_count_in_overlaps(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise views that saw an object in the same frames would not find each other."""
    refiner = dataclasses.replace(golden.model.config.refiner, presence=3)
    monkeypatch.setattr(golden.model, "config", dataclasses.replace(golden.model.config, refiner=refiner))
    network = Scales(golden.model, [View(GEOMETRY)] * 2, RunSettings(mode="offline", task="semantic"))
    network.add([(tensor, tensor) for tensor in golden.tensors()])
    with torch.inference_mode():
        probs = [scale.state.finish_horizon() for scale in network.scales]
        for scale in network.scales:
            for present in scale.state.horizon.present:
                present[:] = True
                present[0] = False
        candidates = [network._candidates(*one) for one in zip(network.scales, probs, strict=True)]
        areas = network._overlaps(candidates, 0).products.diagonal()
    network.close()
    assert (areas == 0).nonzero().flatten().tolist() == [0, len(areas) // 2]
