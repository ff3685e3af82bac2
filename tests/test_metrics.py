"""VPQ and STQ against a slow, obvious implementation and against what must hold of any such score."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from bruteforce_metrics import Video, brute_pq, brute_stq, brute_vpq, random_video
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_cli.challenge.metrics.overlap import frame_overlap
from dvis_cli.challenge.metrics.stq import STQ
from dvis_cli.challenge.metrics.vpq import VPQ
from dvis_cli.datasets.categories import vipseg_categories
from dvis_cli.errors import DatasetError
from dvis_cli.structures import Category

CATEGORIES = tuple(Category(i, f"class {i}", isthing=i < 4, color=(0, 0, 0)) for i in range(6))
THINGS = {category.id for category in CATEGORIES if category.isthing}
IDS = [category.id for category in CATEGORIES]
WINDOWS = (1, 2, 3, 4)


def score(videos: list[Video], windows: tuple[int, ...] = WINDOWS) -> tuple[VPQ, STQ]:
    vpq, stq = VPQ(CATEGORIES, windows), STQ(CATEGORIES)
    for number, video in enumerate(videos):
        vpq.add_video(f"v{number}", video.tables())
        stq.add_video(f"v{number}", video.tables())
    return vpq, stq


@pytest.mark.parametrize("seed", range(300))
def test_agrees_with_brute_force(seed: int) -> None:
    random = np.random.default_rng(seed)
    videos = [random_video(random, IDS) for _ in range(int(random.integers(1, 4)))]
    vpq, stq = score(videos)
    result = vpq.result()
    for window, one in result.windows.items():
        expected = brute_vpq(videos, window)
        for index, category in enumerate(CATEGORIES):
            tp, fp, fn, iou = expected.get(category.id, [0, 0, 0, 0.0])
            assert one.counts[index].tolist() == [tp, fp, fn], (window, category.id)
            assert one.iou[index] == pytest.approx(iou, abs=1e-9)
        quality = one.quality()
        assert quality.pq == (pytest.approx(brute_pq(expected), abs=1e-9) if expected else None)
        assert quality.classes == len(expected)
    expected_stq = brute_stq(videos, THINGS)
    got = stq.result()
    assert (got.stq, got.aq, got.sq) == pytest.approx(expected_stq, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_perfect_prediction_scores_100(seed: int) -> None:
    video = random_video(np.random.default_rng(seed), IDS, frames=4)
    plain = [[{**segment, "iscrowd": 0} for segment in frame] for frame in video.gt_segments]
    perfect = Video(video.gt_ids, plain, video.gt_ids, plain)
    result = score([perfect])[0].result()
    for one in result.windows.values():
        quality = one.quality()
        if quality.pq is not None:  # a video may be all void
            assert (quality.pq, quality.sq, quality.rq) == pytest.approx((100, 100, 100))
    stq = score([perfect])[1].result()
    if any(frame for frame in video.gt_segments):
        assert stq.sq == pytest.approx(1)
    assert stq.aq == pytest.approx(1 if sum(v.tubes for v in stq.videos.values()) else 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_permuting_ids_changes_nothing(seed: int) -> None:
    random = np.random.default_rng(seed)
    video = random_video(random, IDS, frames=4)
    renamed = Video(*_renamed(video.gt_ids, video.gt_segments, random),
                    *_renamed(video.pred_ids, video.pred_segments, random))  # fmt: skip
    before, after = score([video]), score([renamed])
    for one, other in zip(
        before[0].result().windows.values(), after[0].result().windows.values(), strict=True
    ):
        assert np.array_equal(one.counts, other.counts)
        assert one.iou == pytest.approx(other.iou, abs=1e-9)
    assert before[1].result().stq == pytest.approx(after[1].result().stq, abs=1e-12)


def _renamed(maps, lists, random):  # type: ignore[no-untyped-def]
    known = sorted({segment["id"] for frame in lists for segment in frame})
    names = dict(zip(known, (random.choice(2**20, len(known), replace=False) + 1).tolist(), strict=True))
    names[0] = 0
    new_maps = [np.vectorize(names.get, otypes=[np.int64])(m) for m in maps]
    return new_maps, [[{**segment, "id": names[segment["id"]]} for segment in frame] for frame in lists]


def test_a_window_longer_than_every_video_is_reported() -> None:
    videos = [random_video(np.random.default_rng(n), IDS, frames=3) for n in range(2)]
    result = score(videos, (1, 2, 8))[0].result()
    assert result.windows[8].quality().pq is None
    assert result.windows[8].videos == 0 and result.windows[2].videos == 2
    assert result.mean() == pytest.approx(result.mean((1, 2)))
    assert result.mean((8,)) is None
    assert score(videos, (9,))[0].result().mean() is None


def test_nothing_added_is_no_score() -> None:
    vpq, stq = score([])
    assert vpq.result().mean() is None
    assert stq.result().stq == 0


def test_partial_results_merge_to_the_same_score() -> None:
    videos = [random_video(np.random.default_rng(n), IDS) for n in range(6)]
    whole, whole_stq = score(videos)
    vpq, stq = VPQ(CATEGORIES, WINDOWS), STQ(CATEGORIES)
    for number, video in enumerate(videos):
        part, part_stq = VPQ(CATEGORIES, WINDOWS), STQ(CATEGORIES)
        part.add_video(f"v{number}", video.tables())
        part_stq.add_video(f"v{number}", video.tables())
        vpq.merge(pickle.loads(pickle.dumps(part)))
        stq.merge(pickle.loads(pickle.dumps(part_stq)))
    assert vpq.result().mean() == whole.result().mean()
    assert stq.result().stq == whole_stq.result().stq
    assert vpq.result().videos["v3"].mean() == whole.result().videos["v3"].mean()
    with pytest.raises(DatasetError, match="added twice"):
        vpq.merge(whole)
    with pytest.raises(DatasetError, match="added twice"):
        stq.add_video("v0", videos[0].tables())
    with pytest.raises(ValueError, match="same categories and windows"):
        vpq.merge(VPQ(CATEGORIES, (1,)))


def segment(number: int, category: int = 0, **more: int) -> dict[str, int]:
    return {"id": number, "category_id": category, **more}


def test_overlap_counts_pixels() -> None:
    gt, pred = np.array([[1, 1, 0], [2, 2, 9]]), np.array([[5, 0, 5], [5, 6, 6]], dtype=np.uint32)
    table = frame_overlap(gt, [segment(2), segment(1, area=7)], pred, [segment(6), segment(5)])
    assert table.counts.tolist() == [[0, 0, 1], [0, 1, 1], [1, 0, 1]]  # rows void, 2, 1; columns void, 6, 5
    assert table.pred_areas.tolist() == [2, 3]  # 9 is in no list: it counts for the prediction's area alone
    assert table.gt_areas.tolist() == [2, 7]


@pytest.mark.parametrize(
    ("pred", "listed", "message"),
    [
        (np.ones((2, 3)), [segment(1)], "integers"),
        (np.ones((3, 2), np.int32), [segment(1)], "2x3.*3x2"),
        (np.full((2, 3), 2**24), [segment(1)], "16777215"),
        (np.full((2, 3), -1), [segment(1)], "-1"),
        (np.ones((2, 3), np.int32), [segment(0)], r"must be 1\.\."),
        (np.ones((2, 3), np.int32), [segment(1), segment(1)], "more than once"),
        (np.ones((2, 3), np.int32), [], r"\[1\] are in the prediction's PNG and not"),
        (np.ones((2, 3), np.int32), [segment(1), segment(2)], r"\[2\] are in the prediction's json and not"),
    ],
)
def test_what_does_not_agree_is_refused(pred: np.ndarray, listed: list, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        frame_overlap(np.ones((2, 3), np.int32), [segment(1)], pred, listed)


def test_errors_name_the_video() -> None:
    ids = np.ones((2, 2), int)
    unknown = frame_overlap(ids, [segment(1)], ids, [segment(1, 77)])
    with pytest.raises(DatasetError, match=r"video 'clip'.*unknown category_id 77"):
        VPQ(CATEGORIES).add_video("clip", [unknown])
    with pytest.raises(DatasetError, match=r"video 'clip'.*unknown category_id 77"):
        STQ(CATEGORIES).add_video("clip", [unknown])
    with pytest.raises(ValueError, match="1 frame or longer"):
        VPQ(CATEGORIES, (0,))


def test_areas_in_json_count_for_vpq() -> None:
    gt, pred = np.array([[1, 1, 1, 1]]), np.array([[5, 5, 5, 0]])
    vpq = VPQ(CATEGORIES, (1,))
    vpq.add_video("v", [frame_overlap(gt, [segment(1, area=5)], pred, [segment(5)])])
    assert vpq.result().windows[1].iou[0] == pytest.approx(3 / 5)  # and not 3/4
    with pytest.raises(DatasetError, match="IoU would exceed 1"):
        vpq.add_video("w", [frame_overlap(gt, [segment(1, area=2)], pred, [segment(5)])])


def test_the_variants_of_the_public_stq_script() -> None:
    true, predicted = [segment(1), segment(2)], [segment(3), segment(4)]
    stq = STQ(CATEGORIES)  # the first is crowd
    stq.add_video("v", [frame_overlap(np.array([[1, 2]]), true, np.array([[3, 4]]), predicted)])
    assert stq.result().videos["v"].tubes == 1
    void = STQ(CATEGORIES)
    void.add_video("v", [frame_overlap(np.array([[1, 1]]), [segment(1)], np.array([[3, 0]]), [segment(3)])])
    assert void.result().classes == 2  # the class, and predicted void
    assert void.result().sq == pytest.approx((1 / 2 + 0) / 2)


def test_vipseg_categories_are_contiguous() -> None:
    categories = vipseg_categories()
    assert len(categories) == 124
    assert [category.isthing for category in categories] == [True] * 58 + [False] * 66
    assert [category.id for category in categories[:4]] == [2, 4, 8, 10]
    assert sorted(category.id for category in categories) == list(range(124))
    assert categories[57].id == 123 and categories[58].id == 0
