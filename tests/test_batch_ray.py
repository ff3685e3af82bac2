"""The same batch on Ray workers. Minutes of starting processes: run by hand, where Ray is installed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import media
import pytest
from batch_workers import FRAMES, DeviceFails, PaperWorker
from test_batch_crash import contents, finish, paper_videos, real_videos, start, wait_for
from test_batch_engines import TellingWorker

from dvis_cli.batch import BatchOptions, Event, Stop, run_batch
from dvis_cli.batch.workers import LocalEngine, RayEngine
from dvis_cli.errors import UsageError
from dvis_cli.run.options import SegmentOptions


def test_a_missing_ray_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UsageError, match=r"dvis\[ray\]"):
        run_batch([paper_videos(tmp_path / "in", 1)], tmp_path / "out", options=BatchOptions(engine="ray"))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def on_workers_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers import the package and these helpers from the checkout."""
    pytest.importorskip("ray")
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here.parent), str(here)]))


pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.mark.slow
def test_same_bytes_as_local(tmp_path: Path, on_workers_path: None) -> None:
    source = real_videos(tmp_path / "in", 6)
    segment = SegmentOptions(model="tiny", short_side=64, threads=1)
    for engine in ("local", "ray"):
        options = BatchOptions(engine=engine, jobs=2)  # type: ignore[arg-type]
        report = run_batch([source], tmp_path / engine, segment, options)
        assert (report.done, len(report.failed), report.exit_code) == (6, 1, 1), report
    assert contents(tmp_path / "local") == contents(tmp_path / "ray")


@pytest.mark.slow
def test_a_worker_killed_in_mid_video_is_replaced(tmp_path: Path, on_workers_path: None) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for i in range(4):
        media.write_video(source / f"{i}.mp4", media.moving_squares(60, 48, 64), fps=10)
    segment = SegmentOptions(model="tiny", short_side=64, threads=1)
    options = BatchOptions(engine="ray", jobs=2)
    killed: list[int] = []

    def kill_one(event: Event) -> None:
        current = event.data.get("current", []) if event.kind == "progress" else []
        if not killed and any(one["frames"] for one in current):
            killed.extend(_ray_workers()[:1])
            os.kill(killed[0], signal.SIGKILL)

    events: list[Event] = []
    report = run_batch(
        [source],
        tmp_path / "ray",
        segment,
        options,
        lambda e: (events.append(e), kill_one(e)),  # type: ignore[func-returns-value]
    )
    assert killed and report.done == 4 and report.exit_code == 0
    assert any(e.kind == "worker" and "died" in e.data["text"] for e in events)
    run_batch([source], tmp_path / "local", segment, BatchOptions(jobs=2))
    assert contents(tmp_path / "local") == contents(tmp_path / "ray")


@pytest.mark.slow
def test_scheduling_without_a_model(tmp_path: Path, on_workers_path: None) -> None:
    source = paper_videos(tmp_path / "in", 20, "slow 0.2")
    (source / "crash.mp4").write_text("crash")
    (source / "once.mp4").write_text(f"crash-once {tmp_path / 'mark'}")
    segment, options = SegmentOptions(), BatchOptions(engine="ray", jobs=4, ray_cpus=0.5)
    report = run_batch(
        [source], tmp_path / "out", segment, options, engine=RayEngine(segment, options, PaperWorker)
    )
    assert report.done == 21 and report.frames == 21 * FRAMES
    assert sorted(f.key for f in report.failed) == ["bad", "crash"]
    assert not list((tmp_path / "out").rglob(".*"))


@pytest.mark.slow
def test_an_actor_whose_device_failed_is_retired_and_costs_no_video(
    tmp_path: Path, on_workers_path: None
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for i in range(40):
        (source / f"{i}.mp4").write_text("ok")
    segment, options = SegmentOptions(), BatchOptions(engine="ray", jobs=2, ray_cpus=0.5, max_tries=1)
    events: list[Event] = []
    engine = RayEngine(segment, options, DeviceFails)
    report = run_batch([source], tmp_path / "out", segment, options, events.append, engine=engine)
    assert (report.done, report.failed, report.exit_code) == (40, [], 0)
    assert sum(e.kind == "worker" and "retired" in e.data["text"] for e in events) == 1


@pytest.mark.slow
def test_watching_does_not_spin(tmp_path: Path, on_workers_path: None) -> None:
    (tmp_path / "in").mkdir()
    segment = SegmentOptions()
    options = BatchOptions(engine="ray", jobs=1, watch=True, watch_every=0.5)
    engine = RayEngine(segment, options, PaperWorker)
    stop, cpu = Stop(), []

    def when_ready(event: Event) -> None:
        if event.kind == "worker":
            cpu.append(time.process_time())
            threading.Timer(5.0, stop.ask).start()

    run_batch([tmp_path / "in"], tmp_path / "out", segment, options, when_ready, stop, engine)
    assert time.process_time() - cpu[0] < 2.5


@pytest.mark.slow
def test_stopping_at_once(tmp_path: Path, on_workers_path: None) -> None:
    source = paper_videos(tmp_path / "in", 3, "slow 60")
    segment, options, stop = SegmentOptions(), BatchOptions(engine="ray", jobs=2), Stop()

    def stop_soon(event: Event) -> None:
        if event.kind == "video_started" and "part" in event.data["key"]:
            threading.Timer(0.5, stop.ask, [True]).start()

    began = time.monotonic()
    report = run_batch(
        [source],
        tmp_path / "out",
        segment,
        options,
        stop_soon,
        stop,
        RayEngine(segment, options, PaperWorker),
    )
    assert report.exit_code == 130 and time.monotonic() - began < 55
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"failures.jsonl"}  # of the bad video


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "code", "done"), [("TERM", 143, 0), ("INT", 130, 1), ("INT INT", 130, 0)]
)
def test_signals(tmp_path: Path, on_workers_path: None, signals: str, code: int, done: int) -> None:
    """Ray would take SIGTERM for itself."""
    source = paper_videos(tmp_path / "in", 6, "slow 6")
    process = start(tmp_path / "out", source, engine="ray", ray_cpus=0.5, jobs=1, shuffle=True)
    wait_for(process, "video_started")
    time.sleep(1)
    for name in signals.split():
        os.killpg(process.pid, getattr(signal, f"SIG{name}"))
        time.sleep(0.3)
    returned, events, err = finish(process)
    assert (returned, events[-1]["done"], err) == (code, done, "")
    assert not list((tmp_path / "out").rglob(".*"))


@pytest.mark.slow
def test_a_killed_run_leaves_nobody_at_work(tmp_path: Path, on_workers_path: None) -> None:
    source = paper_videos(tmp_path / "in", 4, "slow 60")
    process = start(tmp_path / "out", source, engine="ray", ray_cpus=0.5, jobs=1)
    wait_for(process, "video_started")
    time.sleep(1)
    mine = _ray_workers()
    process.kill()
    finish(process)
    end = time.monotonic() + 60
    while mine and time.monotonic() < end:
        mine = [pid for pid in mine if pid in _ray_workers()]
        time.sleep(0.5)
    assert not mine
    options = BatchOptions(jobs=2)
    for path in source.rglob("[0-9].mp4"):
        path.write_text("ok")
    engine = LocalEngine(SegmentOptions(), options, PaperWorker)
    assert run_batch([source], tmp_path / "out", SegmentOptions(), options, engine=engine).done == 4
    assert not list((tmp_path / "out").rglob(".*"))


@pytest.mark.slow
def test_a_cluster_that_loses_a_machine(tmp_path: Path, on_workers_path: None) -> None:
    """Two machines (Ray's own imitation of them) with a GPU and two cores each; one goes away in mid-video."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
    other = cluster.add_node(num_cpus=2, num_gpus=1)
    source = paper_videos(tmp_path / "in", 8, "slow 3")
    segment = SegmentOptions()
    options = BatchOptions(engine="ray", ray_address=cluster.address)
    events: list[Event] = []

    def lose_one(event: Event) -> None:
        events.append(event)
        if event.kind == "video_done" and len(cluster.list_all_nodes()) == 2:
            cluster.remove_node(other)

    try:
        engine = RayEngine(segment, options, TellingWorker)
        report = run_batch([source], tmp_path / "out", segment, options, lose_one, engine=engine)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert events[0].kind == "started" and engine.workers == 2, "one for each GPU"
    assert (report.done, len(report.failed)) == (8, 1)
    assert any(e.kind == "video_retried" and "the Ray worker died" in e.data["error"] for e in events)
    assert not list((tmp_path / "out").rglob(".*"))


def _ray_workers() -> list[int]:
    """Processes of actors that are at work, by their title."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text.startswith("ray::RayWorker.run"):
            found.append(int(path.parent.name))
    return found
