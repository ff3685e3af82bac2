"""A horizon is decided on beside the network of the next one: in order, once, and leaving nothing when it stops."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from goldens import Golden

from dvis_cli.run.scales import Scales
from dvis_cli.run.settings import RunSettings
from dvis_cli.tasks.panoptic import PanopticDecision

PATIENCE = 60  # seconds


@pytest.fixture
def settings() -> RunSettings:
    return RunSettings("online", window=2, horizon=2, memory_budget=0)


def deciding() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("dvis-decide")]


def test_the_network_goes_on_meanwhile(
    golden: Golden, settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first decision waits for the third batch: without a thread of its own it would wait for ever."""
    expected = np.stack([frame.ids for frame in golden.video(settings)])
    batches, third, add, frame = [], threading.Event(), Scales.add, PanopticDecision.frame

    def counted(network: Scales, inputs) -> None:
        batches.append(len(inputs))
        add(network, inputs)
        if len(batches) == 3:
            third.set()

    def late(decision: PanopticDecision, index: int) -> np.ndarray:
        assert third.wait(PATIENCE)
        return frame(decision, index)

    monkeypatch.setattr(Scales, "add", counted)
    monkeypatch.setattr(PanopticDecision, "frame", late)
    assert np.array_equal(np.stack([frame.ids for frame in golden.video(settings)]), expected)
    assert not deciding()


def test_a_failure_comes_through(
    golden: Golden, settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(decision: PanopticDecision, index: int) -> np.ndarray:
        raise ValueError("no decision")

    monkeypatch.setattr(PanopticDecision, "frame", broken)
    with pytest.raises(ValueError, match="no decision"):
        list(golden.video(settings))
    assert not deciding()


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_stopping_early_leaves_nothing(golden: Golden, settings: RunSettings, taken: int) -> None:
    video = golden.video(settings)
    for _, _ in zip(range(taken), video, strict=False):
        pass
    video.close()
    assert not deciding()
    del video
    gc.collect()  # a temporary file that was left open would warn, and a warning is an error here
