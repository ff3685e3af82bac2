"""The recorded output of the public scorers (tests/data/metrics), through the library."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dvis_cli.challenge.scoring import Evaluation, evaluate
from dvis_cli.datasets.vipseg import VIPSeg

DATA = Path(__file__).parent / "data" / "metrics"
WINDOWS = (1, 2, 4, 6, 8)
NUMBER = r"-?\d+\.\d+(?:e-?\d+)?"


@pytest.fixture(scope="module")
def scores() -> Evaluation:
    return evaluate(DATA / "pred", VIPSeg.open(DATA, "val"))


def recorded_vpq() -> dict[int, list[float]]:
    """k -> [all, things, stuff] PQ; the public script calls k frames `5 (k - 1)-frame`."""
    lines = (DATA / "vpq_stdout.txt").read_text().splitlines()
    found = {}
    for head, numbers in zip(lines[:-1:2], lines[1::2], strict=False):
        found[int(re.findall(r"(\d+)-frame", head)[0]) // 5 + 1] = [float(n) for n in numbers.split()]
    return found


def test_vpq_equals_the_recorded_numbers(scores: Evaluation) -> None:
    recorded = recorded_vpq()
    assert tuple(recorded) == WINDOWS
    for window, numbers in recorded.items():
        one = scores.results["vpq"].windows[window]
        got = [one.quality(isthing).pq for isthing in (None, True, False)]
        assert got == pytest.approx(numbers, abs=1e-6)


@pytest.mark.parametrize("window", WINDOWS)
def test_counts_of_every_class_equal_the_recorded_ones(scores: Evaluation, window: int) -> None:
    one = scores.results["vpq"].windows[window]
    quality = one.per_class()
    index = {category.id: i for i, category in enumerate(one.categories)}
    rows = 0
    for line in (DATA / "pred" / f"vpq-{5 * (window - 1)}.txt").read_text().splitlines():
        cells = line.replace("|", " ").split()
        if len(cells) == 8 and cells[0].isdigit():
            i = index[int(cells[0])]
            assert [f"{cell:.0f}" for cell in one.counts[i]] == cells[5:], line
            assert f"{one.iou[i]:.1f}" == cells[4], line
            expected = [float(cell) for cell in cells[1:4]]
            got = quality[i].tolist() if one.counts[i].any() else [0, 0, 0]
            assert got == pytest.approx(expected, abs=0.0501), line
            rows += 1
        elif cells and cells[0] in ("All", "Things", "Stuff"):
            group = one.quality({"All": None, "Things": True, "Stuff": False}[cells[0]])
            assert [group.pq, group.sq, group.rq] == pytest.approx([float(c) for c in cells[1:4]], abs=0.0501)
            assert group.classes == int(cells[4])
    assert rows == 124


def test_the_public_mean(scores: Evaluation) -> None:
    text = (DATA / "pred" / "vpq-final.txt").read_text()
    recorded = [float(value) for value in re.findall(NUMBER, text)]
    means = [scores.results["vpq"].mean(isthing=isthing) for isthing in (None, True, False)]
    assert means == pytest.approx(recorded, abs=5e-5)  # printed with four places
    exact = [sum(numbers[i] for numbers in recorded_vpq().values()) / 5 for i in range(3)]
    assert means == pytest.approx(exact, abs=1e-6)


def test_stq_equals_the_recorded_numbers(scores: Evaluation) -> None:
    text = (DATA / "stq_stdout.txt").read_text()
    recorded = [float(value) for value in re.findall(NUMBER, text)]
    videos = list(scores.results["stq"].videos.values())
    got = [scores.results["stq"].stq, scores.results["stq"].aq, scores.results["stq"].sq]
    got += [video.stq for video in videos] + [video.aq for video in videos]
    assert got[:3] == pytest.approx(recorded[:3], abs=1e-6)
    assert got == pytest.approx(recorded, abs=1e-6)
    assert [video.frames for video in videos] == [10, 10, 10]
