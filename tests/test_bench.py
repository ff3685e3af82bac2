"""`dvis bench`: its clock, what it reads off a trace, and the document that it prints."""

from __future__ import annotations

import importlib.util
import json
import operator
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dvis_cli.bench import stopwatch
from dvis_cli.bench.film import write_film
from dvis_cli.bench.machine import device_use, slope
from dvis_cli.bench.rivals import OURS, Race, _ours, _theirs, race, their_model
from dvis_cli.bench.stopwatch import Stopwatch, replaced
from dvis_cli.checkpoints.registry import known_model
from dvis_cli.layers.linear import Linear
from dvis_cli.run.loading import categories_of
from dvis_cli.run.model import DvisModel
from dvis_cli.video import open_video

CPU = torch.device("cpu")
DOCS = Path(__file__).parent.parent / "docs"


def test_a_stage_is_not_charged_for_another_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.0, 5.0]  # of the clock, and of the work inside
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))
    watch = Stopwatch()
    inner = watch.wrap("inner", lambda: operator.setitem(seconds, 0, sum(seconds)))
    with watch.stage("outer"):
        inner()
        other = threading.Thread(target=inner)
        other.start()
        other.join()
    main = threading.current_thread().name
    assert watch.seconds[main, "inner"] == 5 == watch.seconds[main, "outer"], "another thread's is waiting"
    assert list(watch.iterate("items", iter(range(3)))) == [0, 1, 2]


def test_arithmetic_is_counted() -> None:
    watch = Stopwatch()
    watch.counting = True
    watch.wrap("product", torch.mm)(torch.ones(100, 200), torch.ones(200, 300))
    assert watch.gflop["product"] == pytest.approx(2 * 100 * 200 * 300 / 1e9) and not watch.seconds


@pytest.mark.parametrize("bf16", [False, True])
def test_linear_layers_are_counted_whoever_makes_them(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    layer, watch = Linear(64, 96).requires_grad_(False), Stopwatch()
    watch.counting = True
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        watch.wrap("product", layer)(torch.ones(1000, 64))
    assert watch.gflop["product"] == pytest.approx(2 * 64 * 96 * 1000 / 1e9)


def test_what_was_replaced_comes_back() -> None:
    class Owner:
        def kept(self) -> int:
            return 1

    one = Owner()
    with pytest.raises(ValueError), replaced((Owner, "kept", lambda self: 2), (one, "new", 3)):
        assert one.kept() == 2 and one.new == 3
        raise ValueError
    assert one.kept() == 1 and not hasattr(one, "new")


def test_use_of_a_gpu_is_read_off_a_trace() -> None:
    events = [
        {"cat": "kernel", "name": "conv", "ts": 0, "dur": 10},
        {"cat": "kernel", "name": "gemm", "ts": 5, "dur": 10},  # beside the first, on another stream
        {"cat": "gpu_memcpy", "name": "Memcpy DtoH", "ts": 30, "dur": 10, "args": {"bytes": 1000}},
        {"cat": "gpu_memcpy", "name": "Memcpy DtoD", "ts": 40, "dur": 10, "args": {"bytes": 9000}},
        {"cat": "cuda_runtime", "name": "cudaStreamSynchronize", "ts": 0, "dur": 50},
        {"cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 0, "dur": 5},
        {"cat": "cpu_op", "name": "aten::mm", "ts": 0, "dur": 5},
        {"ph": "M", "name": "process_name"},
    ]
    assert device_use(events, frames=2) == {
        "busy_share": 35 / 50, "waits": 0.5, "copies": 0.5, "copied_bytes": 500, "kernels": 1.0,
    }  # fmt: skip
    assert device_use([], frames=1)["busy_share"] == 0


def test_slope_is_growth_after_the_beginning() -> None:
    assert slope([0, 10**9] + [10**9 + 7 * n for n in range(60)]) == pytest.approx(7)
    assert slope([1, 2, 3]) is None


def test_the_film_has_the_size_and_moves(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", (64, 96), 5)
    frames = [frame.rgb for frame in open_video(tmp_path / "film.mp4")]
    assert len(frames) == 5 and frames[0].shape == (64, 96, 3) and (frames[0] != frames[4]).mean() > 0.1


@pytest.mark.parametrize("model", ["tiny", "tiny-videomt"])
def test_document(dvis, model: str) -> None:
    code, out, err = dvis("bench", "--model", model, "--size", "64x96", "--frames", 3, "--json")
    assert code == 0, err
    document = json.loads(out)
    network, files = document["network"], document["files"]
    assert network["frames"] == files["frames"] == 3 and document["device"] is document["against"] is None
    assert {stage["stage"] for stage in network["stages"]} >= {"decision"}
    whole = sum(stage["ms"] for stage in network["stages"] if stage["stage"] != "decision")
    assert 0 < whole <= network["ms"] * 1.01
    assert network["gflop"] == pytest.approx(sum(stage["gflop"] for stage in network["stages"]), rel=0.01)
    assert 0 < network["share_of_peak"] < 1.5 and document["peak_gflops"] > 1
    main = [stage for stage in files["stages"] if stage["thread"] == "main"]
    assert sum(stage["ms"] for stage in main) == pytest.approx(files["seconds"] / 3 * 1e3, rel=0.02)
    assert {"decode", "maps", "overlay", "encode"} <= {stage["thread"] for stage in files["stages"]}
    assert files["encoder"] in ("libx264", "libopenh264", "h264_videotoolbox", "h264_mf", "mpeg4")
    assert 0 < files["outside_network"] < 1 and files["memory"]["ram"] > 2**27


def test_a_bar_for_each_stage(dvis) -> None:
    code, out, err = dvis("bench", "--model", "tiny", "--size", "64x96", "--frames", 2)
    assert code == 0, err
    assert "█" in out and "frames/s" in out and "maps: maps" in out


@pytest.mark.parametrize(
    "wrong, line",
    [
        (["--size", "big"], "--size"),
        (["--size", "63x96"], "even"),
        (["--frames", 0], "--frames"),
        (["--model", "tiny-videomt", "--against", "transformers"], "no model like"),
    ],
)
def test_bad_requests(dvis, wrong: list, line: str) -> None:
    code, out, err = dvis("bench", *wrong)
    assert code == 2 and line in err and err.count("\n") == 1 and not out


@pytest.mark.parametrize("name", ["tiny", "offline-r50"])
def test_the_rival_is_of_the_same_size(name: str) -> None:
    pytest.importorskip("transformers")
    config = known_model(name).config
    with torch.device("meta"):
        theirs, ours = their_model(config), DvisModel(config, categories_of(config))
    counts = [sum(p.numel() for p in one.parameters()) for one in (theirs, ours.segmenter)]
    # Ours has no norms in the backbone that can be trained: frozen ones are buffers.
    norms = sum(
        b.numel() for n, b in ours.segmenter.backbone.named_buffers() if n.endswith(("weight", "bias"))
    )
    assert counts[0] == counts[1] + norms


def test_both_run_on_the_same_frames() -> None:
    pytest.importorskip("transformers")
    one = Race(known_model("tiny").config, "cpu", "fp32", (64, 96), 1, 1, 1)
    frames = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        ours, theirs = _ours(one, CPU)(frames), _theirs(one, CPU)(frames)
    assert ours.class_logits.shape == theirs.class_queries_logits.shape


@pytest.mark.slow
def test_race() -> None:
    found = race(Race(known_model("tiny").config, "cpu", "fp32", (64, 96), 1, 2, 1))
    assert len(found["seconds"]) == 3 and all(times > 0 for times in found["times"].values())
    assert OURS not in found["times"]


def test_the_page_shows_what_was_recorded() -> None:
    spec = importlib.util.spec_from_file_location("performance", DOCS / "performance.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    found = made.measurements()
    assert found and all(one["format"] == "dvis-bench" for one in found.values())
    assert made.page(made.PAGE.read_text()) == made.PAGE.read_text(), "run python docs/performance.py"
    assert made.picture(found) == made.PICTURE.read_text(), "run python docs/performance.py"
