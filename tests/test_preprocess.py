"""The network's input: sizes and pixels against plain implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dvis_cli.errors import UsageError
from dvis_cli.structures import Geometry
from dvis_cli.video.preprocess import PIXEL_MEAN, PIXEL_STD, plan_geometry, preprocess

side = st.integers(1, 5000)


@given(side, side, st.integers(1, 1000), st.integers(1, 1500), st.sampled_from([1, 32]))
def test_geometry_keeps_its_promises(height, width, short, long, divisor):
    geometry = plan_geometry(height, width, short, long, divisor)
    assert geometry.output == (height, width)
    assert 1 <= min(geometry.resized) <= short
    assert max(geometry.resized) <= max(long, short)
    assert min(geometry.resized) == short or max(geometry.resized) == long
    for resized, padded in zip(geometry.resized, geometry.padded, strict=True):
        assert padded % divisor == 0
        assert 0 <= padded - resized < divisor


@given(side, side, st.integers(1, 1000))
def test_geometry_turns_with_the_picture(height, width, short):
    upright, sideways = plan_geometry(height, width, short), plan_geometry(width, height, short)
    assert upright.resized == sideways.resized[::-1]
    assert upright.padded == sideways.padded[::-1]


@pytest.mark.parametrize(
    ("size", "short", "resized", "padded"),
    [
        ((720, 1280), 720, (720, 1280), (736, 1280)),
        ((1080, 1920), 720, (720, 1280), (736, 1280)),
        ((1920, 1080), 720, (1280, 720), (1280, 736)),
        ((480, 854), 720, (720, 1281), (736, 1312)),
        ((400, 1000), 720, (533, 1333), (544, 1344)),
        ((1079, 2666), 800, (540, 1333), (544, 1344)),  # a tie: 539.5 as the reference rounds it
        ((1, 1), 720, (720, 720), (736, 736)),
        ((1, 100_000), 720, (1, 1333), (32, 1344)),  # 0.01 pixels high by the rule
    ],
)
def test_geometry_of_known_sizes(size, short, resized, padded):
    assert plan_geometry(*size, short) == Geometry(output=size, resized=resized, padded=padded)


def test_geometry_refuses_sizes_below_one():
    with pytest.raises(UsageError, match="short side must be 1 pixel or more, not 0"):
        plan_geometry(10, 10, 0)
    with pytest.raises(ValueError, match="no pixels"):
        plan_geometry(0, 10, 10)


def plain_preprocess(rgb: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The three steps, written down one after the other."""
    height, width = geometry.resized
    image = np.array(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))
    normal = (image.astype(np.float32) - np.float32(PIXEL_MEAN)) / np.float32(PIXEL_STD)
    below, beside = geometry.padded[0] - height, geometry.padded[1] - width
    return np.pad(normal, ((0, below), (0, beside), (0, 0))).transpose(2, 0, 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_pixels_equal_the_plain_implementation(height, width, short, seed):
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    geometry = plan_geometry(height, width, short, long_side=200)
    result = preprocess(rgb, geometry)
    assert result.shape == (3, *geometry.padded)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), plain_preprocess(rgb, geometry), rtol=0, atol=1e-6)


def test_own_statistics_and_unchanged_input():
    rgb = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    kept = rgb.copy()
    rgb.setflags(write=False)  # frames may be shared: preprocess only reads them
    geometry = plan_geometry(32, 40, 32)
    result = preprocess(rgb, geometry, mean=(0, 0, 0), std=(1, 1, 1))
    np.testing.assert_array_equal(result[:, :32, :40].numpy(), kept.transpose(2, 0, 1))
    assert not result[:, :, 40:].any()
    turned = preprocess(rgb.swapaxes(0, 1), plan_geometry(40, 32, 32), mean=(0, 0, 0), std=(1, 1, 1))
    np.testing.assert_array_equal(turned[:, :40, :32].numpy(), kept.transpose(2, 1, 0))


def test_a_frame_of_another_size_is_a_mistake():
    with pytest.raises(ValueError, match="expected"):
        preprocess(np.zeros((10, 11, 3), np.uint8), plan_geometry(10, 10, 32))
