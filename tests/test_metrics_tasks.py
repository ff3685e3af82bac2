"""Instance and semantic scores against independent computations."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dvis_cli.challenge.metrics.instance import InstanceAP, tube_ious
from dvis_cli.challenge.metrics.semantic import Semantics
from dvis_cli.coco_masks import check_counts, decode, encode, measure, rle, run_lengths
from dvis_cli.errors import DatasetError
from dvis_cli.structures import MaskTube

# --- run lengths ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    density=st.floats(0, 1),
    blocks=st.booleans(),
)
def test_run_lengths_are_pycocotools(seed, height, width, density, blocks) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.random((3, height, width)) < density
    if blocks:
        masks[:, : height // 2] = density < 0.5
    codes = encode(masks)
    assert np.array_equal(decode(codes, (height, width)), masks)
    for code, mask, (area, box) in zip(codes, masks, measure(codes, (height, width)), strict=True):
        assert check_counts(code, (height, width)) == code
        runs = run_lengths(code)
        assert np.array_equal(np.repeat(np.arange(len(runs)) % 2 == 1, runs), mask.flatten("F"))
        assert area == mask.sum()
        if area:
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            assert box == (columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1)


@pytest.mark.parametrize("counts", [None, 7, "", "é", " ", "z~", "o", "oooooooooooooooo0", "0" * 3, b"\xff"])
def test_damaged_run_lengths_are_refused(counts) -> None:
    with pytest.raises(DatasetError):
        check_counts(counts, (4, 5))


# --- instances --------------------------------------------------------------------------------------------


def moving_box(rng, frames: int, size: tuple[int, int]) -> np.ndarray:
    """(T, H, W): a rectangle that wanders, and is away now and then."""
    height, width = size
    masks = np.zeros((frames, height, width), bool)
    top, left = rng.integers(0, height - 4), rng.integers(0, width - 4)
    rows, columns = rng.integers(2, height - 2), rng.integers(2, width - 2)
    for mask in masks:
        if rng.random() < 0.8:
            mask[top : top + rows, left : left + columns] = True
        top, left = max(0, top + rng.integers(-1, 2)), max(0, left + rng.integers(-1, 2))
    return masks


def disturbed(rng, masks: np.ndarray) -> np.ndarray:
    return np.roll(masks, rng.integers(-2, 3), axis=rng.integers(1, 3)) & (rng.random(masks.shape) < 0.95)


def as_tube(masks: np.ndarray, category: int, score: float = 1.0, iscrowd: bool = False) -> MaskTube:
    codes = encode(masks)
    frames = [code if mask.any() else None for code, mask in zip(codes, masks, strict=True)]
    return MaskTube(category, frames, score, iscrowd)


def random_videos(rng, ties: bool, crowd: bool):
    """name -> (size, true (masks, category, crowd), predicted (masks, category, score))."""
    videos = {}
    for number in range(rng.integers(1, 5)):
        size = int(rng.integers(8, 20)), int(rng.integers(8, 20))
        frames = int(rng.integers(1, 5))
        truths = [
            (moving_box(rng, frames, size), int(rng.integers(1, 4)), crowd and rng.random() < 0.2)
            for _ in range(rng.integers(0, 5))
        ]
        truths = [entry for entry in truths if entry[0].any()]
        predictions = []
        for masks, category, _ in truths:
            for _ in range(rng.integers(0, 3)):
                other = category if rng.random() < 0.8 else int(rng.integers(1, 4))
                predictions.append((disturbed(rng, masks), other))
        predictions += [
            (moving_box(rng, frames, size), int(rng.integers(1, 4))) for _ in range(rng.integers(0, 14))
        ]
        scores = rng.random(len(predictions))
        if ties:
            scores = np.round(scores, 1)
        videos[f"video {number}"] = (
            size,
            truths,
            [(masks, category, float(score)) for (masks, category), score in zip(predictions, scores, strict=True)],
        )  # fmt: skip
    return videos


def scored_by_coco(videos) -> dict[str, float | None]:
    """pycocotools' scores of videos laid out as pictures, frame beside frame: the IoU of the pictures' masks is
    that of the tubes."""
    images, annotations, results = [], [], []
    for number, (size, truths, predictions) in enumerate(videos.values(), start=1):
        frames = len((truths or predictions or [(np.zeros((1, *size)),)])[0][0])
        images.append({"id": number, "height": size[0], "width": size[1] * frames})
        wide = size[0], size[1] * frames
        for masks, category, iscrowd in truths:
            code = encode(np.concatenate(masks, axis=1)[None])[0]
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": category, "iscrowd": int(iscrowd),
                "area": int(masks.sum()), "segmentation": rle(code, wide),
            })  # fmt: skip
        for masks, category, score in predictions:
            code = encode(np.concatenate(masks, axis=1)[None])[0]
            results.append({
                "image_id": number, "category_id": category, "score": score, "segmentation": rle(code, wide)
            })  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {}, "images": images, "annotations": annotations, "categories": [{"id": i} for i in (1, 2, 3)]
        }  # fmt: skip
        truth.createIndex()
        if not results:
            return {}
        scorer = COCOeval(truth, truth.loadRes(results), "segm")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    ap, ap50, ap75, *_areas, ar1, ar10, ar100 = scorer.stats[:9]
    values = {"ap": ap, "ap50": ap50, "ap75": ap75, "ar1": ar1, "ar10": ar10, "ar100": ar100}
    return {name: None if value < 0 else float(value) for name, value in values.items()}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), ties=st.booleans())
def test_ap_is_cocos_on_tubes(seed, ties) -> None:
    rng = np.random.default_rng(seed)
    videos = random_videos(rng, ties, crowd=False)
    expected = scored_by_coco(videos)
    scores = InstanceAP([1, 2, 3])
    for name, (size, truths, predictions) in videos.items():
        scores.add_video(
            name,
            size,
            [as_tube(masks, category) for masks, category, _ in truths],
            [as_tube(masks, category, score) for masks, category, score in predictions],
        )
    result = scores.result()
    if not expected:
        assert not any(result.ar.values())
        return
    ours = {"ap": result.ap, "ap50": result.ap50, "ap75": result.ap75}
    ours |= {f"ar{most}": value for most, value in result.ar.items()}
    for name, value in expected.items():
        assert ours[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name
    if result.ap is not None:
        assert np.mean([row[0] for row in result.per_class.values()]) == pytest.approx(result.ap)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_tube_iou(seed) -> None:
    rng = np.random.default_rng(seed)
    size, frames = (9, 12), int(rng.integers(1, 4))
    one = [moving_box(rng, frames, size) for _ in range(3)]
    two = [moving_box(rng, frames, size) for _ in range(2)]
    ious = tube_ious([as_tube(m, 1) for m in one], [as_tube(m, 1) for m in two], size)
    for a, b in np.ndindex(3, 2):
        union = (one[a] | two[b]).sum()
        assert ious[a, b] == pytest.approx((one[a] & two[b]).sum() / union if union else 0.0)


def test_a_crowd_is_neither_right_nor_wrong() -> None:
    masks = np.zeros((2, 6, 6), bool)
    masks[:, :3] = True
    scores = InstanceAP([1])
    scores.add_video(
        "a",
        (6, 6),
        [as_tube(masks, 1, iscrowd=True), as_tube(~masks, 1)],
        [as_tube(masks, 1, 0.9), as_tube(masks, 1, 0.8), as_tube(~masks, 1, 0.7)],
    )
    assert scores.result().ap == pytest.approx(1.0)


def test_merged_collectors_equal_one() -> None:
    rng = np.random.default_rng(4)
    videos = random_videos(rng, ties=True, crowd=True)
    whole, parts = InstanceAP([1, 2, 3]), []
    for name, (size, truths, predictions) in videos.items():
        tubes = [as_tube(*entry[:2], iscrowd=entry[2]) for entry in truths]
        found = [as_tube(*entry) for entry in predictions]
        parts.append(InstanceAP([1, 2, 3]))
        for collector in (whole, parts[-1]):
            collector.add_video(name, size, tubes, found)
    first, *others = parts
    for other in others:
        first.merge(other)
    assert first.result() == whole.result()


# --- semantics --------------------------------------------------------------------------------------------

CLASSES = [0, 2, 5, 123]
VOID = 255


def random_maps(rng, frames: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction (T, H, W) of class ids, mostly steady."""
    values = np.array([*CLASSES, VOID])
    truth = np.repeat(rng.choice(values, (1, *size)), frames, axis=0)
    flips = rng.random(truth.shape) < 0.05
    truth[flips] = rng.choice(values, flips.sum())
    prediction = np.where(rng.random(truth.shape) < 0.9, truth, rng.choice(CLASSES, truth.shape))
    prediction[prediction == VOID] = rng.choice(CLASSES)
    return truth, prediction


def consistency_plainly(truth: np.ndarray, prediction: np.ndarray, window: int) -> tuple[list, list]:
    """The shares of each window: as the public script has them, and those of pixels that are right."""
    public, right = [], []
    for start in range(len(truth) - window + 1):
        some = slice(start, start + window)
        steady = (truth[some] == truth[start]).all(axis=0)
        kept = (prediction[some] == prediction[start]).all(axis=0)
        if start < len(truth) - window and steady.any():
            public.append((steady & kept).sum() / steady.sum())
        known = steady & (truth[start] != VOID)
        if known.any():
            right.append((known & (prediction[some] == truth[some]).all(axis=0)).sum() / known.sum())
    return public, right


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), frames=st.integers(1, 9), window=st.integers(1, 6))
def test_semantic_scores_against_plain_ones(seed, frames, window) -> None:
    rng = np.random.default_rng(seed)
    scores = Semantics(CLASSES, windows=[window])
    public, right, hits, union, seen = [], [], dict.fromkeys(CLASSES, 0), dict.fromkeys(CLASSES, 0), set()
    for name in ("a", "b"):
        truth, prediction = random_maps(rng, frames, (5, 6))
        scores.add_video(name, zip(truth, prediction, strict=True))
        for old, new in zip((public, right), consistency_plainly(truth, prediction, window), strict=True):
            old += new
        valid = truth != VOID
        for index in CLASSES:
            one, other = truth[valid] == index, prediction[valid] == index
            hits[index] += (one & other).sum()
            union[index] += (one | other).sum()
            seen |= {index} if one.any() else set()
    result = scores.result()
    assert result.vc[window] == (pytest.approx(np.mean(public)) if public else None)
    assert result.vc_right[window] == (pytest.approx(np.mean(right)) if right else None)
    expected = [hits[index] / union[index] for index in CLASSES if index in seen]
    assert result.miou == (pytest.approx(np.mean(expected)) if expected else None)


def test_a_perfect_prediction() -> None:
    truth, _ = random_maps(np.random.default_rng(0), 10, (6, 7))
    scores = Semantics(CLASSES)
    scores.add_video("a", zip(truth, np.where(truth == VOID, 2, truth), strict=True))
    result = scores.result()
    assert result.miou == result.accuracy == result.vc_right[8] == 1.0
    assert result.vc[16] is None, "no video has 17 frames"


def test_predicting_no_class_is_wrong_but_no_class_of_its_own() -> None:
    scores = Semantics(CLASSES)
    scores.add_video("a", [(np.array([[0, 0, 2, VOID]]), np.array([[0, VOID, 2, VOID]]))])
    result = scores.result()
    assert result.miou == pytest.approx((0.5 + 1.0) / 2) and result.accuracy == pytest.approx(2 / 3)


def test_merged_semantic_collectors_equal_one() -> None:
    rng = np.random.default_rng(1)
    whole, first, second = (Semantics(CLASSES, windows=[2]) for _ in range(3))
    for name, part in (("a", first), ("b", second)):
        maps = list(zip(*random_maps(rng, 5, (4, 4)), strict=True))
        whole.add_video(name, maps)
        part.add_video(name, maps)
    first.merge(second)
    one, other = first.result(), whole.result()
    assert (one.miou, one.vc, one.vc_right) == (other.miou, other.vc, other.vc_right)


def test_sizes_must_agree() -> None:
    with pytest.raises(DatasetError, match="4x3"):
        Semantics(CLASSES).add_video("a", [(np.zeros((3, 4), int), np.zeros((4, 3), int))])
