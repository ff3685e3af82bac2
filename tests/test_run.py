"""Options from the command line to the run, where a model runs, threads, and what records print."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_cli import files
from dvis_cli.config import build_config, to_document
from dvis_cli.errors import ConfigError, DvisWarning, UsageError, warnings_to
from dvis_cli.layers.masks import coarse_masks
from dvis_cli.run.options import SegmentOptions, option_fields
from dvis_cli.run.placement import memory_budget, pick_device, pick_precision, video_encoding
from dvis_cli.structures import Frame, SegmenterOutput
from dvis_cli.threads import ahead
from dvis_cli.writers.video_encoder import DETERMINISTIC, Encoding

# --- options ----------------------------------------------------------------------------------------------


def test_options_survive_json() -> None:
    options = SegmentOptions(
        model="tiny", mode="online", task="instance", scales=(64, 96), start=1.5, overlay="none", top_k=3
    )
    document = json.loads(json.dumps(to_document(options)))
    assert build_config(SegmentOptions, document, "options") == options
    with pytest.raises(ConfigError, match="unknown key"):
        build_config(SegmentOptions, {"speed": 2}, "options")


def test_every_field_is_an_option_of_the_command_line() -> None:
    assert len(option_fields(SegmentOptions)) == len(SegmentOptions.__dataclass_fields__)


def test_what_does_not_change_a_result_is_not_among_its_facts() -> None:
    one, other = SegmentOptions(), SegmentOptions(device="cuda", memory_budget=1, overwrite=True, threads=2)
    assert one.result_facts() == other.result_facts() != SegmentOptions(flip=True).result_facts()


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "magic"},
        {"task": "depth"},
        {"precision": "fp8"},
        {"overlay": "fancy"},
        {"short_side": 0},
        {"window": 0},
        {"threads": 0},
        {"score_threshold": 1.5},
        {"memory_budget": -1},
        {"folder_fps": 0.0},
        {"stride": 0},
        {"start": 2.0, "end": 1.0},
        {"maps": False, "segments": False, "overlay": "none"},
    ],
)
def test_options_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(UsageError):
        SegmentOptions(**wrong)


# --- where a model runs -----------------------------------------------------------------------------------


def test_auto_never_chooses_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu" and pick_device("mps").type == "mps"


def test_bf16_only_where_the_hardware_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert pick_precision("auto", torch.device("cuda")) == "fp32"


def test_the_budget_follows_the_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_cgroup_numbers", lambda name: [2**30])
    assert memory_budget(torch.device("cuda")) == 2**28


def test_what_encodes_follows_the_device() -> None:
    cpu, mps, cuda = (torch.device(name) for name in ("cpu", "mps", "cuda:1"))
    assert video_encoding(cuda, False) == Encoding(threads=2, gpu=1)
    assert video_encoding(torch.device("cuda"), False).gpu == 0
    same = [video_encoding(one, True) for one in (cpu, mps, cuda)]
    assert same == [video_encoding(cpu, False), video_encoding(mps, False), Encoding(threads=1)]
    assert set(same) == {DETERMINISTIC}
    assert SegmentOptions().result_facts() != SegmentOptions(deterministic=True).result_facts()


# --- threads and warnings ---------------------------------------------------------------------------------


def test_ahead_gives_the_same_items_and_not_many_too_early() -> None:
    made: list[int] = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    for number in ahead(items(), 3, "test"):
        assert len(made) <= number + 6
    assert made == list(range(20))


def test_ahead_passes_failures_on_and_ends_its_thread() -> None:
    def failing():
        yield 1
        raise ValueError("no more")

    taken = ahead(failing(), 2, "failing")
    assert next(taken) == 1
    with pytest.raises(ValueError, match="no more"):
        next(taken)
    endless = ahead(iter(int, 1), 2, "endless")
    assert next(endless) == 0
    endless.close()
    deadline = time.monotonic() + 60
    while any(t.name in ("dvis-failing", "dvis-endless") for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_our_warnings_become_lines_and_others_stay() -> None:
    import warnings

    lines: list[str] = []
    with pytest.warns(UserWarning, match="theirs"), warnings_to(lines.append):
        warnings.warn("ours,\n  in two lines", DvisWarning, stacklevel=1)
        warnings.warn("theirs", UserWarning, stacklevel=1)
    assert lines == ["ours, in two lines"]


# --- records and masks ------------------------------------------------------------------------------------


def test_records_print_shapes() -> None:
    frame = Frame(3, 0.1, np.zeros((4, 5, 3), np.uint8))
    assert repr(frame) == "Frame(index=3, pts=0.1, rgb=uint8[4, 5, 3], name=None)"
    output = SegmenterOutput(torch.zeros(1, 2, 3), torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 7))
    assert "queries=float32[1, 2, 3]" in repr(output)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 1000))
def test_coarse_masks_are_means_over_cells(height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 3, height, width, generator=generator)
    embeds = torch.randn(2, 4, 3, generator=generator)
    coarse = coarse_masks(embeds, features)
    assert max(coarse.shape[2:]) <= 32
    pooled = F.adaptive_avg_pool2d(features, coarse.shape[2:])
    assert torch.allclose(coarse, torch.einsum("tqc,tchw->tqhw", embeds, pooled), atol=1e-4)
