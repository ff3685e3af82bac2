"""Several views of a video through the networks and one decision."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from goldens import GEOMETRY, Golden

from dvis_cli.errors import UsageError
from dvis_cli.run.model import DvisModel
from dvis_cli.run.options import SegmentOptions
from dvis_cli.run.settings import RunSettings
from dvis_cli.structures import Geometry, Segment, View
from dvis_cli.video.preprocess import preprocess
from dvis_cli.video.views import plan_views, preprocess_views

LARGER = Geometry(output=(90, 150), resized=(108, 180), padded=(128, 192))
ALLOWED_PIXELS = 20  # of 67500 or more, where a rounding decides


def run(
    golden: Golden, views: list[View], settings: RunSettings, frames: np.ndarray | None = None
) -> tuple[np.ndarray, list[Segment]]:
    """Ids (T, H, W) and segments."""
    finished, segments = run_frames(golden, views, settings, frames)
    return np.stack([frame.ids for frame in finished]), segments


def run_frames(
    golden: Golden, views: list[View], settings: RunSettings, frames: np.ndarray | None = None
) -> tuple[list, list[Segment]]:
    """Finished frames and segments."""
    video = golden.video(settings, golden.source(views, frames), views)
    return list(video), video.segments


def assert_same_up_to_numbering(one, other) -> None:
    """The same segments of the same classes with nearly the same pixels, whatever their ids."""
    (ids, segments), (other_ids, other_segments) = one, other
    assert len(segments) == len(other_segments) > 1
    left = list(other_segments)
    for segment in segments:
        mask = ids == segment.id
        twin = min(left, key=lambda s: int((mask != (other_ids == s.id)).sum()))
        assert (mask != (other_ids == twin.id)).sum() <= ALLOWED_PIXELS
        assert twin.category == segment.category and twin.score == pytest.approx(segment.score, abs=1e-4)
        left.remove(twin)


@pytest.mark.parametrize("mode, copies", [("minvis", 2), ("online", 2), ("offline", 3)])
def test_a_scale_with_itself_is_that_scale_bit_for_bit(golden: Golden, mode: str, copies: int) -> None:
    for settings in (RunSettings(mode), RunSettings(mode, window=2, horizon=2, memory_budget=0)):
        ids, segments = run(golden, [View(GEOMETRY)], settings)
        other_ids, other_segments = run(golden, [View(GEOMETRY)] * copies, settings)
        assert np.array_equal(ids, other_ids)
        assert segments == other_segments


def test_a_scale_with_itself_finds_the_same_instances(golden: Golden) -> None:
    settings = RunSettings("offline", task="instance", score_threshold=0.0, window=2, horizon=2)
    frames, segments = run_frames(golden, [View(GEOMETRY)], settings)
    other_frames, other_segments = run_frames(golden, [View(GEOMETRY)] * 2, settings)
    assert segments == other_segments and len(segments) > 1
    assert [frame.masks for frame in frames] == [frame.masks for frame in other_frames]


def test_a_scale_with_itself_gives_the_same_semantic_maps(golden: Golden) -> None:
    settings = RunSettings("online", task="semantic")
    ids, segments = run(golden, [View(GEOMETRY)], settings)
    other_ids, other_segments = run(golden, [View(GEOMETRY)] * 2, settings)
    assert segments == other_segments and np.array_equal(ids, other_ids)


@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_other_tasks_at_two_scales(golden: Golden, task: str) -> None:
    """The order of scales does not matter there either."""
    settings = RunSettings("offline", task=task, score_threshold=0.0)
    views = [View(GEOMETRY), View(LARGER)]
    frames, segments = run_frames(golden, views, settings)
    other_frames, other_segments = run_frames(golden, views[::-1], settings)
    assert len(frames) == len(golden.frames) and len(segments) > 1
    if task == "semantic":
        same = np.stack([f.ids for f in frames]) == np.stack([f.ids for f in other_frames])
        assert (~same).sum() <= ALLOWED_PIXELS
    scores = [sorted(s.score for s in one) for one in (segments, other_segments)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_the_order_of_scales_changes_nothing_but_numbers(golden: Golden) -> None:
    views = [View(GEOMETRY), View(LARGER), View(GEOMETRY, True)]
    first = run(golden, views, RunSettings("offline"))
    assert_same_up_to_numbering(first, run(golden, views[::-1], RunSettings("offline")))


def with_permuted_queries(model: DvisModel) -> DvisModel:
    """The same model with its learned queries in another order: so are then all of its outputs."""
    other = copy.deepcopy(model)
    decoder = other.segmenter.query_decoder
    order = torch.randperm(len(decoder.query_feat), generator=torch.Generator().manual_seed(1))
    decoder.query_feat.data = decoder.query_feat.data[order]
    decoder.query_embed.data = decoder.query_embed.data[order]
    return other


@pytest.mark.parametrize("permuted", [0, 1])
def test_the_order_of_one_scale_s_queries_changes_nothing(golden: Golden, permuted: int) -> None:
    settings, views = RunSettings("offline"), [View(GEOMETRY), View(LARGER)]
    plain = run(golden, views, settings)
    video = golden.video(settings, views=views)
    scale = video.network.scales[permuted]
    scale.model = scale.state.model = with_permuted_queries(golden.model)
    ids = np.stack([frame.ids for frame in video])
    assert_same_up_to_numbering(plain, (ids, video.segments))


def test_a_mirrored_video_gives_mirrored_results(golden: Golden) -> None:
    """With every view also mirrored, left and right are all the same."""
    views, settings = [View(GEOMETRY), View(GEOMETRY, True)], RunSettings("offline")
    ids, segments = run(golden, views, settings)
    mirrored = np.ascontiguousarray(golden.frames[:, :, ::-1])
    other_ids, other_segments = run(golden, views, settings, mirrored)
    assert_same_up_to_numbering((ids, segments), (other_ids[:, :, ::-1], other_segments))


def test_ids_keep_their_class_over_horizons(golden: Golden) -> None:
    views = [View(GEOMETRY), View(LARGER)]
    settings = RunSettings("online", window=2, horizon=2)
    video = golden.video(settings, views=views)
    classes: dict[int, int] = {}
    for frame in video:
        assert set(np.unique(frame.ids)) - {0} == set(frame.segments)
        for n, segment in frame.segments.items():
            assert classes.setdefault(n, segment.category.id) == segment.category.id
    assert set(classes) == {segment.id for segment in video.segments}


def test_progress_tells_of_every_frame_in_every_stage(golden: Golden) -> None:
    seen: list[tuple[str, int]] = []
    views = [View(GEOMETRY), View(LARGER)]
    settings = RunSettings("online", window=2, horizon=2)
    list(golden.video(settings, views=views, on_progress=lambda *progress: seen.append(progress)))
    for stage in ("network", "fusion", "masks"):
        assert [n for name, n in seen if name == stage] == list(range(1, len(golden.frames) + 1))


def test_no_frames_and_no_objects(golden: Golden) -> None:
    views = [View(GEOMETRY), View(LARGER)]
    settings = RunSettings("offline", score_threshold=1.0)
    assert list(golden.video(settings, [], views)) == []
    ids, segments = run(golden, views, settings, golden.frames[:1])
    assert not ids.any() and not segments


# --- which views ------------------------------------------------------------------------------------------


def test_mirroring_turns_the_picture_and_leaves_the_padding(golden: Golden) -> None:
    rgb = golden.frames[0]
    plain, mirrored = preprocess_views(rgb, [View(GEOMETRY), View(GEOMETRY, True)])
    assert torch.equal(plain, preprocess(rgb, GEOMETRY))
    assert torch.equal(mirrored, preprocess(np.ascontiguousarray(rgb[:, ::-1]), GEOMETRY))


def test_scales_are_put_in_an_order_of_their_own() -> None:
    def chosen(own: int, **options) -> tuple[int, ...]:
        return SegmentOptions(**options).short_sides(own)

    assert chosen(720) == (720,)
    assert chosen(720, short_side=360, flip=True) == (360,)
    assert chosen(720, tta=True) == chosen(720, scales=(800, 720)) == (720, 800)
    assert chosen(180, tta=True) == (180, 200)
    assert chosen(720, short_side=360, tta=True) == (400, 360)
    assert chosen(720, scales=(480, 640, 800)) == chosen(720, scales=(800, 480, 640))


@pytest.mark.parametrize(
    "options, word",
    [
        ({"short_side": 360, "scales": [720]}, "short side 360"),
        ({"tta": True, "scales": [720]}, "tta"),
        ({"scales": [720, 720]}, "twice"),
        ({"scales": [0]}, "1 pixel"),
        ({"scales": []}, "no scales"),
    ],
)
def test_scales_that_make_no_sense(options: dict, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        SegmentOptions(**options)


def test_views_of_a_wide_video_meet_at_the_limit() -> None:
    assert len(plan_views(720, 1280, (720, 800))) == 2
    assert len(plan_views(500, 1280, (720, 800))) == 1
    views = plan_views(500, 1280, (720, 800), True)
    assert [view.mirrored for view in views] == [False, True]
    assert views[0].geometry.resized == (521, 1333)
