"""Changes to clips: picture and ids move together, and nothing else moves."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_cli.datasets import augment

seeds = st.integers(0, 2**32 - 1)
STEP = 20  # grey levels between two ids


def blocks(height: int, width: int, seed: int, cell: int = 8) -> np.ndarray:
    """(height, width) int16 ids 0..9 in blocks of `cell` pixels."""
    rows, columns = -(-height // cell), -(-width // cell)
    ids = np.random.default_rng(seed).integers(0, 10, (rows, columns)).astype(np.int16)
    return np.kron(ids, np.ones((cell, cell), np.int16))[:height, :width]


def picture_of(ids: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 that says its id in every channel."""
    return np.repeat((ids * STEP + 40).astype(np.uint8)[..., None], 3, axis=-1)


def clip_of(height: int, width: int, seed: int, frames: int = 3) -> tuple[np.ndarray, np.ndarray]:
    ids = np.stack([blocks(height, width, seed + frame, cell=3) for frame in range(frames)])
    return picture_of(ids), ids


def assert_agree(frames: np.ndarray, ids: np.ndarray, least: float) -> None:
    """Wherever the ids are the same all around, and are not 0, the picture shows that id."""
    for rgb, one in zip(frames, ids, strict=True):
        kernel = np.ones((5, 5), np.uint8)
        inside = (cv2.erode(one, kernel) == cv2.dilate(one, kernel)) & (one > 0)
        inside[:2] = inside[-2:] = inside[:, :2] = inside[:, -2:] = (
            False  # half of their surroundings is unseen
        )
        assert inside.mean() > least, "the test looks at too little"
        shown = (rgb[..., 0].astype(int) - 40) / STEP
        np.testing.assert_allclose(shown[inside], one[inside], atol=0.2)


@given(st.integers(1, 20), st.integers(1, 20), seeds)
def test_flip_and_reverse_move_both_and_undo_themselves(height, width, seed):
    frames, ids = clip_of(height, width, seed)
    for change in (augment.flip, augment.reverse):
        moved, moved_ids = change(frames, ids)
        np.testing.assert_array_equal(moved, picture_of(moved_ids))
        for left, right in zip(change(moved, moved_ids), (frames, ids), strict=True):
            np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(augment.flip(frames, ids)[1][0, :, 0], ids[0, :, -1])
    np.testing.assert_array_equal(augment.reverse(frames, ids)[1][0], ids[-1])


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 25), st.integers(1, 25), seeds)
def test_a_crop_is_one_window_of_all_frames(height, width, high, wide, seed):
    frames, ids = clip_of(height, width, seed)
    ids = np.arange(height * width, dtype=np.int16).reshape(1, height, width) + np.zeros((3, 1, 1), np.int16)
    cut, cut_ids = augment.random_crop(frames, ids, (high, wide), np.random.default_rng(seed))
    assert cut.shape == (3, min(high, height), min(wide, width), 3)
    top, left = divmod(int(cut_ids[0, 0, 0]), width)
    window = np.s_[:, top : top + high, left : left + wide]
    np.testing.assert_array_equal(cut_ids, ids[window])
    np.testing.assert_array_equal(cut, frames[window])


def test_a_crop_looks_for_objects_and_is_not_always_the_same():
    ids = np.zeros((2, 64, 64), np.int16)
    ids[:, 20:44, 20:44] = 1
    frames = picture_of(ids)
    cuts = [augment.random_crop(frames, ids, (16, 16), np.random.default_rng(s))[1] for s in range(40)]
    assert sum(cut.any() for cut in cuts) >= 38
    assert len({cut.tobytes() for cut in cuts}) > 20
    nothing = augment.random_crop(frames, np.zeros_like(ids), (16, 16), np.random.default_rng(0))
    assert nothing[1].shape == (2, 16, 16)


@pytest.mark.parametrize("size", [(40, 72), (64, 96), (100, 151)])
def test_resizing_keeps_picture_and_ids_together(size):
    ids = blocks(64, 96, 5, cell=16)
    out, out_ids = augment.resize_picture(picture_of(ids), size), augment.resize_ids(ids, size)
    assert out.shape == (*size, 3)
    assert out_ids.shape == size
    assert out_ids.dtype == np.int16
    assert_agree(out[None], out_ids[None], 0.2)


def test_the_right_size_is_left_alone():
    ids = blocks(16, 24, 0)
    rgb = picture_of(ids)
    assert augment.resize_picture(rgb, (16, 24)) is rgb
    assert augment.resize_ids(ids, (16, 24)) is ids


def plain_light(frames: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """The formula, with the draws in the same order."""
    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3)
    tint = 1 + strength * rng.uniform(-0.25, 0.25, 3)
    values = frames.astype(float)
    grey = (values * [0.299, 0.587, 0.114]).sum(-1, keepdims=True)
    mean = grey[0].mean()
    coloured = grey + saturation * (values - grey)
    return (brightness * tint * (mean + contrast * (coloured - mean))).clip(0, 255)


@settings(max_examples=30)
@given(st.floats(0, 1), seeds)
def test_light_changes_all_frames_alike(strength, seed):
    frames = np.random.default_rng(seed).integers(0, 256, (3, 6, 7, 3), dtype=np.uint8)
    kept = frames.copy()
    out = augment.jitter_color(frames, strength, np.random.default_rng(seed))
    np.testing.assert_allclose(out, plain_light(frames, strength, np.random.default_rng(seed)), atol=1)
    np.testing.assert_array_equal(frames, kept)


def test_light_of_strength_zero_is_the_same_light():
    frames = np.random.default_rng(1).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(augment.jitter_color(frames, 0.0, np.random.default_rng(0)), frames)


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([(64, 112), (96, 60), (128, 224)]), st.floats(0.2, 2))
def test_pseudo_clips_show_what_their_ids_say(seed, size, strength):
    ids = blocks(128, 192, seed, cell=32)
    frames, maps = augment.animate(picture_of(ids), ids, size, 4, np.random.default_rng(seed), strength)
    assert frames.shape == (4, *size, 3)
    assert maps.shape == (4, *size)
    assert_agree(frames, maps, 0.05)
    assert set(np.unique(maps)) <= set(np.unique(ids)) | {0}


@settings(max_examples=50)
@given(seeds, st.integers(2, 40), st.floats(0.1, 3))
def test_the_camera_stays_over_the_picture_and_moves_smoothly(seed, frames, strength):
    x, y, zoom, roll = augment.camera_path(frames, np.random.default_rng(seed), strength).T
    assert (zoom >= 1).all()
    for centre in (x, y):
        assert (np.abs(centre - 0.5) + 0.5 / zoom <= 0.5 + 0.03 * strength).all()
        assert np.abs(np.diff(centre)).max() < strength * 0.09
    assert np.abs(roll).max() <= np.radians(15) + 1e-9


def test_the_camera_moves_and_never_twice_the_same_way():
    ids = blocks(64, 96, 2, cell=16)
    clips = [
        augment.animate(picture_of(ids), ids, (64, 96), 6, np.random.default_rng(s))[1] for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(clips[0], clips[1])
    assert (clips[0] != clips[2]).any()
    assert all((clips[0][frame] != clips[0][frame + 1]).any() for frame in range(5))
    # Objects leave little by little: from frame to frame most pixels stay what they were.
    assert np.mean(clips[0][1:] == clips[0][:-1]) > 0.7


def test_motion_of_strength_zero_repeats_the_picture():
    ids = blocks(64, 96, 3)
    frames, maps = augment.animate(picture_of(ids), ids, (64, 96), 3, np.random.default_rng(0), 0.0)
    for index in range(3):
        np.testing.assert_array_equal(maps[index], ids)
        np.testing.assert_array_equal(frames[index], picture_of(ids))


def test_a_view_of_everything_is_the_picture_and_a_zoom_by_two_is_its_middle():
    ids = blocks(32, 48, 4)
    out = np.empty_like(ids)
    augment._warp(ids, np.array([0.5, 0.5, 1.0, 0.0]), cv2.INTER_NEAREST, (0,), out)
    np.testing.assert_array_equal(out, ids)
    middle = np.empty((16, 24), np.int16)
    augment._warp(ids, np.array([0.5, 0.5, 2.0, 0.0]), cv2.INTER_NEAREST, (0,), middle)
    np.testing.assert_array_equal(middle, ids[8:24, 12:36])


def test_beyond_the_edge_there_is_nothing():
    ids = np.ones((40, 40), np.int16)
    rgb = np.full((40, 40, 3), 255, np.uint8)
    view = np.array([0.5, 0.5, 1.0, np.pi / 4])
    out, out_ids = np.empty_like(rgb), np.empty_like(ids)
    augment._warp(rgb, view, cv2.INTER_LINEAR, (1, 2, 3), out)
    augment._warp(ids, view, cv2.INTER_NEAREST, (0,), out_ids)
    assert out_ids[0, 0] == 0
    assert out[0, 0].tolist() == [1, 2, 3]
    assert out_ids[20, 20] == 1
