"""A batch from start to end with workers that need no model: what is done, skipped, tried again, and said."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from batch_workers import (
    FRAMES,
    DeviceFails,
    EveryDeviceFails,
    FirstCannotLoad,
    PaperWorker,
    Poisoned,
    broken_worker,
    dying_worker,
)

from dvis_cli.batch import BatchOptions, BatchReport, Event, Stop, claims, run_batch
from dvis_cli.batch.report import EventKind
from dvis_cli.batch.workers import LocalEngine
from dvis_cli.errors import UsageError
from dvis_cli.run.options import SegmentOptions

Run = Callable[..., BatchReport]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for name in ("a.mp4", "b.mp4", "sub/a.mp4", "sub/-ü x.mp4"):
        write(folder / name, "ok")
    return folder


@pytest.fixture
def run(videos: Path, tmp_path: Path) -> Run:
    """Run over `videos` into OUT; the report, with the events as `run.events`."""

    def call(
        *sources: object,
        segment: dict[str, Any] | None = None,
        stop: Stop | None = None,
        worker: type[PaperWorker] = PaperWorker,
        on_event: Callable[[Event], None] = lambda event: None,
        **chosen: Any,
    ) -> BatchReport:
        options = BatchOptions(**{"jobs": 2, **chosen})
        how = SegmentOptions(**segment or {})
        events = call.events = []  # type: ignore[attr-defined]

        def hear(event: Event) -> None:
            events.append(event)
            on_event(event)

        return run_batch(
            [str(s) for s in sources] or [videos],
            tmp_path / "out",
            how,
            options,
            hear,
            stop,
            LocalEngine(how, options, worker),
        )

    return call


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    return path


def kinds(run: Run) -> list[str]:
    return [event.kind for event in run.events]  # type: ignore[attr-defined]


def records(out: Path) -> dict[str, Any]:
    """What each result was made from, by its place."""
    return {
        path.parent.relative_to(out).as_posix(): json.loads(path.read_text())
        for path in sorted(out.rglob("batch.json"))
    }


def failures(out: Path) -> dict[str, Any]:
    path = out / "failures.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["key"]: row for row in map(json.loads, lines)}


def hidden(folder: Path) -> list[Path]:
    return list(folder.rglob(".*"))


def test_everything_is_done_once(run: Run, tmp_path: Path) -> None:
    report = run()
    assert (report.total, report.done, report.skipped, report.exit_code) == (4, 4, 0, 0)
    assert report.frames == 4 * FRAMES
    assert (tmp_path / "out" / "sub" / "-ü x" / "segments.json").is_file()
    found = records(tmp_path / "out")
    assert sorted(found) == ["a", "b", "sub/-ü x", "sub/a"]
    assert {row["frames"] for row in found.values()} == {FRAMES}
    assert found["a"]["source"] == str(tmp_path / "in" / "a.mp4")
    assert not hidden(tmp_path / "out")
    assert kinds(run)[0] == "started" and kinds(run)[-1] == "finished" and kinds(run).count("video_done") == 4
    for event in run.events:  # type: ignore[attr-defined]
        json.dumps(event.document())
    again = run()
    assert (again.done, again.skipped, again.exit_code) == (0, 4, 0)
    assert "worker" not in kinds(run), "nothing to do needs no worker"


def test_changes_are_done_again_and_told(run: Run, videos: Path, tmp_path: Path) -> None:
    run(segment={"short_side": 32})
    write(videos / "a.mp4", "ok but longer")
    os.utime(videos / "b.mp4", (1, 1))  # touched, the same bytes
    report = run(segment={"short_side": 32, "memory_budget": 5, "threads": 1, "overwrite": True})
    assert report.redone == {"input changed": 1} and report.skipped == 3
    assert run.events[0].data["redo"] == {"input changed": 1}  # type: ignore[attr-defined]
    report = run(segment={"short_side": 64})
    assert report.redone == {"settings changed": 4}
    shutil.rmtree(tmp_path / "out" / "a")
    assert run(segment={"short_side": 64}).done == 1
    assert (tmp_path / "out" / "a" / "segments.json").exists()


def test_same_size_and_other_bytes_is_a_change(run: Run, videos: Path) -> None:
    run()
    write(videos / "a.mp4", "OK")
    assert run().redone == {"input changed": 1}


def test_one_bad_video_stops_nothing(run: Run, videos: Path, tmp_path: Path) -> None:
    write(videos / "deep" / "er" / "bad.mp4", "fail")
    write(videos / "bug.mp4", "bug")
    report = run()
    assert report.done == 4 and report.exit_code == 1
    errors = {failure.key: failure.error for failure in report.failed}
    assert "is no video" in errors["deep/er/bad"] and "unexpected KeyError" in errors["bug"]
    assert not (tmp_path / "out" / "deep").exists() and not hidden(tmp_path / "out")
    assert sorted(failures(tmp_path / "out")) == ["bug", "deep/er/bad"]
    again = run()
    assert again.skipped == 4 and [f.earlier for f in again.failed] == [True, True] and again.exit_code == 1
    assert "worker" not in kinds(run)
    write(videos / "bug.mp4", "ok now, and longer")
    assert [f.key for f in run().failed] == ["deep/er/bad"]
    write(videos / "deep" / "er" / "bad.mp4", "fail")  # touched only
    assert len(run(retry_failed=True).failed) == 1 and "video_started" in kinds(run)
    assert sorted(failures(tmp_path / "out")) == ["deep/er/bad"]
    write(videos / "deep" / "er" / "bad.mp4", "ok")
    assert run().done == 1 and not (tmp_path / "out" / "failures.jsonl").exists()


def test_a_dying_worker_costs_its_video_a_try(run: Run, videos: Path, tmp_path: Path) -> None:
    write(videos / "once.mp4", f"crash-once {tmp_path / 'mark'}")
    write(videos / "always.mp4", "crash")
    report = run()
    assert report.done == 5 and len(report.failed) == 1
    assert "killed by SIGKILL" in report.failed[0].error and "tried 3 times" in report.failed[0].error
    assert records(tmp_path / "out").keys() == {"a", "b", "once", "sub/a", "sub/-ü x"}
    assert kinds(run).count("video_retried") == 3
    assert not hidden(tmp_path / "out")


def test_a_hanging_worker_is_ended(run: Run, videos: Path) -> None:
    write(videos / "hang.mp4", "hang")
    report = run(stall=0.7, max_tries=1)
    assert report.done == 4 and "SIGKILL" in report.failed[0].error


def test_stopping_at_failures(run: Run, videos: Path, tmp_path: Path) -> None:
    for i in range(6):
        write(videos / f"0{i}.mp4", "fail")
    report = run(jobs=1, fail_fast=True)
    assert (len(report.failed), report.stopped, report.exit_code) == (1, "failures", 3)
    assert report.left == 9 and "the same command goes on" in str(report.reason)
    report = run(jobs=1, max_failures=2, retry_failed=True)
    assert len(report.failed) == 2
    assert run().done == 4


def test_a_full_disk_stops_the_run_and_resume_works(run: Run, videos: Path, tmp_path: Path) -> None:
    write(videos / "aa.mp4", "full")
    report = run(jobs=1)
    assert (report.stopped, report.exit_code) == ("full", 3) and "no space left" in str(report.reason)
    assert not report.failed and report.left == 4
    assert not hidden(tmp_path / "out")
    write(videos / "aa.mp4", "ok, there is space again")
    report = run()
    assert report.done == 4 and report.skipped == 1 and report.exit_code == 0


def test_stop_finishes_what_is_under_way(run: Run, videos: Path, tmp_path: Path) -> None:
    for path in videos.rglob("*.mp4"):
        write(path, "slow 0.3")
    stop = Stop()
    second = []

    def when_the_second_begins(event: Event) -> None:
        if event.kind == "video_started":
            second.append(1)
            if len(second) == 2:
                stop.ask()

    report = run(jobs=1, stop=stop, on_event=when_the_second_begins)
    assert (report.exit_code, report.done, report.left) == (130, 2, 2)
    assert not hidden(tmp_path / "out") and len(records(tmp_path / "out")) == 2
    assert run().skipped == 2


def test_stop_twice_drops_what_is_under_way(run: Run, videos: Path, tmp_path: Path) -> None:
    for path in videos.rglob("*.mp4"):
        write(path, "hang")
    stop = Stop()

    def when_it_is_at_work(event: Event) -> None:
        if event.kind == "progress" and any(one["frames"] for one in event.data["current"]):
            stop.ask()

    report = run(stop=stop, on_event=when_it_is_at_work)
    assert report.exit_code == 130 and report.done == 0 and report.left == 4
    assert not list((tmp_path / "out").iterdir())


def test_foreign_results_are_not_replaced_unasked(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "out" / "a" / "segments.json", "mine")
    report = run()
    assert report.done == 3 and "--overwrite" in report.failed[0].error
    assert (tmp_path / "out" / "a" / "segments.json").read_text() == "mine\n"
    assert len(run(retry_failed=True).failed) == 1, "having failed does not make it ours"
    assert run(retry_failed=True, segment={"overwrite": True}).done == 1


def test_parts_do_the_whole(run: Run, tmp_path: Path) -> None:
    done = [run(shard=(part, 3)).done for part in (1, 2, 3)]
    assert sum(done) == 4 and max(done) < 4
    assert run(shard=(1, 2)).done == 0, "another cut sees what was done"
    assert run().skipped == 4
    assert not hidden(tmp_path / "out")


def test_shuffle_is_another_order_and_always_the_same(run: Run, videos: Path) -> None:
    for i in range(8):
        write(videos / f"{i}.mp4", "ok")

    def order() -> list[str]:
        return [e.data["key"] for e in run.events if e.kind == "video_started"]  # type: ignore[attr-defined]

    orders = []
    for i in range(2):
        run(jobs=1, shuffle=True, segment={"short_side": 32 + i})
        orders.append(order())
    assert orders[0] == orders[1] != sorted(orders[0])


def test_watching_takes_what_comes_when_it_has_stopped_growing(run: Run, videos: Path) -> None:
    late, stop = videos / "late.mp4", Stop()
    sizes: list[int] = []

    def grow(event: Event) -> None:
        """Grow while progress is told, and stop after a while; it is not begun before."""
        if event.kind == "progress" and len(sizes) < 4:
            with late.open("a") as file:
                file.write("ok\n")
            sizes.append(late.stat().st_size)
        if event.kind == "video_started" and event.data["key"] == "late":
            assert len(sizes) == 4
            stop.ask()

    report = run(watch=True, watch_every=0.1, settle=2.0, stop=stop, on_event=grow)
    assert (report.done, report.left, report.exit_code) == (5, 0, 130)
    started = [e.data["key"] for e in run.events if e.kind == "video_started"]  # type: ignore[attr-defined]
    assert sorted(started) == ["a", "b", "late", "sub/-ü x", "sub/a"]
    assert records(videos.parent / "out")["late"]["fingerprint"].startswith(f"{sizes[-1]}:")
    assert run().skipped == 5


def test_what_killed_runs_left_goes_also_of_sources_that_are_gone(run: Run, tmp_path: Path) -> None:
    state = tmp_path / "out" / ".dvis"
    (state / "abc.0.work" / "123" / "panoptic").mkdir(parents=True)
    write(state / "abc.0", json.dumps({"pid": 2**22 + 1, "start": "1", **claims._machine()}))
    write(
        state / "def.0", json.dumps({"pid": 1, "host": socket.gethostname(), "boot": "before the power cut"})
    )
    assert run().done == 4
    assert not state.exists()


def test_addresses_in_and_out(run: Run, videos: Path, tmp_path: Path) -> None:
    """Through fsspec, to the same files but for the source's name."""
    run()
    segment = SegmentOptions()
    write(videos / "zz.mp4", "fail")
    far = tmp_path / "far"

    def remote(**chosen: Any) -> BatchReport:
        options = BatchOptions(jobs=1, **chosen)
        engine = LocalEngine(segment, options, PaperWorker)
        return run_batch([f"local://{videos}"], f"local://{far}", segment, options, engine=engine)

    report = remote()
    assert report.done == 4 and len(report.failed) == 1
    assert report.failed[0].error.startswith("local://"), "and not the temporary file that was opened"
    assert not hidden(far) and list(failures(far)) == ["zz"]
    for path in (tmp_path / "out").rglob("*.png"):
        assert (far / path.relative_to(tmp_path / "out")).read_bytes() == path.read_bytes()
    document = json.loads((far / "a" / "segments.json").read_text())
    assert document["source"]["path"].endswith("://" + str(videos / "a.mp4"))
    again = remote()
    assert again.skipped == 4 and again.failed[0].earlier
    (far / "a" / "batch.json").unlink()
    assert "already exists" in remote().failed[-1].error
    shutil.rmtree(far / "a")
    claim = write(far / ".dvis" / (claims._digest("a") + ".0"), json.dumps({"pid": 1, "host": "elsewhere"}))
    os.utime(claim, (1, 1))
    assert remote(retry_failed=True).done == 1, "a claim that shows no life is void"
    shutil.rmtree(far / "a")
    write(claim, json.dumps({"pid": 1, "host": "elsewhere"}))
    report = remote()
    assert report.elsewhere == 1 and "process 1 on elsewhere" in str(report.reason)


def test_nothing_found_and_bad_requests(run: Run, tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    with pytest.raises(UsageError, match="no videos found"):
        run(tmp_path / "void")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="known models"):
        run_batch([tmp_path], tmp_path / "out", SegmentOptions(model="nonsense"))


def test_a_model_that_cannot_be_loaded_ends_the_run(videos: Path, tmp_path: Path) -> None:
    options = BatchOptions(jobs=2)
    engine = LocalEngine(SegmentOptions(), options, broken_worker)
    with pytest.raises(UsageError, match="no such weights"):
        run_batch([videos], tmp_path / "out", options=options, engine=engine)
    engine = LocalEngine(SegmentOptions(), options, dying_worker)
    with pytest.raises(Exception, match="while they load the model"):
        run_batch([videos], tmp_path / "out", options=options, engine=engine)


def test_a_worker_whose_device_failed_is_retired_and_costs_no_video(run: Run, videos: Path) -> None:
    for i in range(36):
        write(videos / f"{i}.mp4", "ok")
    report = run(worker=DeviceFails, max_tries=1)
    assert (report.done, report.failed, report.exit_code) == (40, [], 0)
    texts = [e.data["text"] for e in run.events if e.kind == "worker"]  # type: ignore[attr-defined]
    assert sum("ECC error" in text and "it is replaced" in text for text in texts) == 2
    assert sum("ECC error" in text and "retired" in text for text in texts) == 1


def test_a_run_without_a_working_device_ends(run: Run, tmp_path: Path) -> None:
    report = run(worker=EveryDeviceFails)
    assert (report.done, report.failed, report.left, report.stopped, report.exit_code) == (
        0,
        [],
        4,
        "workers",
        3,
    )
    assert "no worker is left" in str(report.reason) and "ECC error" in str(report.reason)
    assert not list((tmp_path / "out").iterdir())
    assert run().done == 4


def test_a_video_at_which_every_device_fails_is_to_blame(run: Run, videos: Path) -> None:
    write(videos / "poison.mp4", "ok")
    for i in range(6):
        write(videos / f"z{i}.mp4", "ok")
    report = run(worker=Poisoned)
    assert report.done == 10 and [one.key for one in report.failed] == ["poison"]
    assert "device-side assert" in report.failed[0].error


def test_a_worker_that_cannot_load_does_not_end_the_others(run: Run, videos: Path, tmp_path: Path) -> None:
    for path in videos.rglob("*.mp4"):
        write(path, f"wait {tmp_path / 'broken'}")

    def when_it_is_told(event: Event) -> None:
        if "cannot load" in event.data.get("text", ""):
            (tmp_path / "broken").touch()

    assert run(worker=FirstCannotLoad, on_event=when_it_is_told).done == 4
    texts = [e.data["text"] for e in run.events if e.kind == "worker"]  # type: ignore[attr-defined]
    assert any("it cannot load the model: RuntimeError: no device" in text for text in texts)


def test_events_are_documented() -> None:
    text = (Path(__file__).parent.parent / "docs" / "batch.md").read_text()
    for kind in get_args(EventKind):
        assert f"`{kind}`" in text
    assert Event("note", {"text": "x"}).document() == {"event": "note", "text": "x"}
