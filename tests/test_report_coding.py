"""The maps in a page are the pixels of the PNGs, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_reader import read_chunk

from dvis_cli.writers.report import coding
from dvis_cli.writers.report.coding import MapCoder


def chunks(maps: list[np.ndarray], chunk_frames: int) -> list[bytes]:
    coder = MapCoder(*maps[0].shape, chunk_frames)
    return [chunk for labels in maps for chunk in coder.add(labels)] + coder.flush()


def read(maps: list[np.ndarray], chunk_frames: int) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for chunk in chunks(maps, chunk_frames):
        found += read_chunk(chunk, min(chunk_frames, len(maps) - len(found)), *maps[0].shape)
    return found


def blobs(count: int, height: int, width: int, seed: int) -> list[np.ndarray]:
    """Discs that move, appear and go, on stripes."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    centre, speed = random.uniform(0, width, (9, 2)), random.uniform(-2, 2, (9, 2))
    maps = []
    for frame in range(count):
        labels = (y // max(1, height // 4)).astype(np.uint16)
        for row, (cy, cx) in enumerate(centre + frame * speed):
            if frame % 5 != row % 5:
                labels[(y - cy) ** 2 + (x - cx) ** 2 < 2 + 4 * row] = 5 + 37 * row
        maps.append(labels)
    return maps


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    count=st.integers(1, 4),
    chunk=st.integers(1, 3),
    labels=st.sampled_from([1, 2, 5, 2**16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_maps_come_back(size: tuple[int, int], count: int, chunk: int, labels: int, seed: int) -> None:
    maps = list(np.random.default_rng(seed).integers(0, labels, (count, *size)).astype(np.uint16))
    assert all(map(np.array_equal, read(maps, chunk), maps))


@pytest.mark.parametrize("seed", range(3))
def test_moving_things_come_back(seed: int) -> None:
    maps = blobs(7, 30, 41, seed)
    found = read(maps, 3)
    assert len(found) == len(maps) and all(map(np.array_equal, found, maps))


def test_a_still_video_costs_next_to_nothing() -> None:
    one = blobs(1, 120, 160, 0)[0]
    first, later = len(chunks([one], 16)[0]), len(chunks([one] * 16, 16)[0])
    assert later - first < 15 * 40  # bytes


def test_a_video_takes_far_less_than_its_run_lengths() -> None:
    maps = blobs(16, 120, 160, 1)
    runs = sum(int((labels[:, 1:] != labels[:, :-1]).sum()) for labels in maps)
    (chunk,) = chunks(maps, 16)
    assert 8 * (len(chunk) - 1300) < 4 * runs  # less than 4 bits a run


def test_chunks_are_the_same_whatever_is_encoded_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = blobs(9, 20, 30, 2)
    together = chunks(maps, 3)
    monkeypatch.setattr(coding, "_SIDE_BY_SIDE", 1)
    monkeypatch.setattr(coding, "_STEPS", 7)
    assert chunks(maps, 3) == together and len(together) == 3
