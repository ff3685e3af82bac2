"""A batch from start to end with workers that need no model: what is done, skipped, tried again, and said."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch_workers import FRAMES, PaperWorker

from dvis_cli.batch import BatchOptions, BatchReport, Event, Stop, VideoSettings, run_batch
from dvis_cli.batch.local import LocalEngine
from dvis_cli.batch.manifest import rows_of
from dvis_cli.errors import OutputError, UsageError

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
        *sources: object, save: dict[str, Any] | None = None, stop: Stop | None = None, **chosen: Any
    ) -> BatchReport:
        options = BatchOptions(**{"jobs": 2, **chosen})
        settings = VideoSettings(save=save or {})
        call.events = []  # type: ignore[attr-defined]
        return run_batch(
            [str(s) for s in sources] or [videos],
            tmp_path / "out",
            settings,
            options,
            call.events.append,  # type: ignore[attr-defined]
            stop,
            LocalEngine(settings, options, PaperWorker),
        )

    return call


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    return path


def kinds(run: Run) -> list[str]:
    return [event.kind for event in run.events]  # type: ignore[attr-defined]


def rows(out: Path) -> dict[str, Any]:
    return {row.key: row for row in rows_of(out / "dvis-manifest.jsonl")}


def hidden(folder: Path) -> list[Path]:
    return list(folder.rglob(".*"))


def test_everything_is_done_once(run: Run, tmp_path: Path) -> None:
    report = run()
    assert (report.total, report.done, report.skipped, report.exit_code) == (4, 4, 0, 0)
    assert report.frames == 4 * FRAMES
    assert (tmp_path / "out" / "sub" / "-ü x" / "segments.json").is_file()
    found = rows(tmp_path / "out")
    assert sorted(found) == ["a", "b", "sub/-ü x", "sub/a"]
    assert {(row.state, row.tries, row.frames) for row in found.values()} == {("done", 1, FRAMES)}
    assert not hidden(tmp_path / "out")
    assert kinds(run)[0] == "started" and kinds(run)[-1] == "finished" and kinds(run).count("video_done") == 4
    for event in run.events:  # type: ignore[attr-defined]
        json.dumps(event.document())
    again = run()
    assert (again.done, again.skipped, again.exit_code) == (0, 4, 0)
    assert "worker" not in kinds(run), "nothing to do needs no worker"


def test_changes_are_done_again_and_said(run: Run, videos: Path, tmp_path: Path) -> None:
    run(save={"short_side": 32})
    write(videos / "a.mp4", "ok but longer")
    os.utime(videos / "b.mp4", (1, 1))  # touched, the same bytes
    report = run(save={"short_side": 32, "memory_budget": 5, "overwrite": True})
    assert report.redone == {"input changed": 1} and report.skipped == 3
    assert run.events[0].data["redo"] == {"input changed": 1}  # type: ignore[attr-defined]
    report = run(save={"short_side": 64})
    assert report.redone == {"settings changed": 4}
    (tmp_path / "out" / "b" / "segments.json").unlink()
    (tmp_path / "out" / "b" / "panoptic" / "mine.txt").write_text("")
    import shutil

    shutil.rmtree(tmp_path / "out" / "a")
    assert run(save={"short_side": 64}).redone == {"result is gone": 1}
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
    again = run()
    assert again.skipped == 4 and [f.earlier for f in again.failed] == [True, True] and again.exit_code == 1
    assert "worker" not in kinds(run)
    write(videos / "bug.mp4", "ok now")
    assert [f.key for f in run().failed] == ["deep/er/bad"]
    write(videos / "deep" / "er" / "bad.mp4", "fail")  # touched only
    assert len(run(retry_failed=True).failed) == 1 and "video_started" in kinds(run)


def test_a_dying_worker_costs_its_video_a_try(run: Run, videos: Path, tmp_path: Path) -> None:
    write(videos / "once.mp4", f"crash-once {tmp_path / 'mark'}")
    write(videos / "always.mp4", "crash")
    report = run()
    assert report.done == 5 and len(report.failed) == 1
    assert "killed by SIGKILL" in report.failed[0].error and "tried 3 times" in report.failed[0].error
    found = rows(tmp_path / "out")
    assert found["once"].tries == 2 and found["once"].state == "done"
    assert kinds(run).count("video_retried") == 3
    assert not hidden(tmp_path / "out")


def test_a_hanging_worker_is_ended(run: Run, videos: Path) -> None:
    write(videos / "hang.mp4", "hang")
    report = run(stall=0.7, max_tries=1)
    assert report.done == 4 and "SIGKILL" in report.failed[0].error


def test_stopping_at_failures(run: Run, videos: Path, tmp_path: Path) -> None:
    for i in range(6):
        write(videos / f"0{i}.mp4", "fail")
    report = run(jobs=1, max_failures=1)
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
        write(path, "slow 0.6")
    stop = Stop()
    threading.Timer(0.9, stop.ask).start()
    report = run(jobs=1, stop=stop)
    assert report.exit_code == 130 and 0 < report.done < 4 and report.left == 4 - report.done
    assert not hidden(tmp_path / "out")
    assert {row.state for row in rows(tmp_path / "out").values()} == {"done", "pending"}
    assert run().skipped == report.done


def test_stop_twice_drops_what_is_under_way(run: Run, videos: Path, tmp_path: Path) -> None:
    for path in videos.rglob("*.mp4"):
        write(path, "slow 60")
    stop = Stop()
    for delay in (0.8, 1.0):
        threading.Timer(delay, stop.ask).start()
    started = time.monotonic()
    report = run(stop=stop)
    assert time.monotonic() - started < 10
    assert report.exit_code == 130 and report.done == 0 and report.left == 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dvis-manifest.jsonl"]


def test_foreign_results_are_not_replaced_unasked(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "out" / "a" / "segments.json", "mine")
    report = run()
    assert report.done == 3 and "--overwrite" in report.failed[0].error
    assert (tmp_path / "out" / "a" / "segments.json").read_text() == "mine\n"
    assert len(run(retry_failed=True).failed) == 1, "having failed does not make it ours"
    assert run(retry_failed=True, save={"overwrite": True}).done == 1


def test_parts_do_the_whole_and_the_whole_takes_them_over(run: Run, tmp_path: Path) -> None:
    done = [run(shard=(part, 3)).done for part in (1, 2, 3)]
    assert sum(done) == 4 and max(done) < 4
    assert run(shard=(1, 2)).done == 0, "another cut sees what was done"
    assert run().skipped == 4
    assert [p.name for p in (tmp_path / "out").glob("*.jsonl")] == ["dvis-manifest.jsonl"]


def test_shuffle_is_another_order_and_always_the_same(run: Run, videos: Path) -> None:
    for i in range(8):
        write(videos / f"{i}.mp4", "ok")

    def order() -> list[str]:
        return [e.data["key"] for e in run.events if e.kind == "video_started"]  # type: ignore[attr-defined]

    orders = []
    for i in range(2):
        run(jobs=1, shuffle=True, save={"short_side": 32 + i})
        orders.append(order())
    assert orders[0] == orders[1] != sorted(orders[0])


def test_watching_takes_what_comes_when_it_has_stopped_growing(run: Run, videos: Path) -> None:
    def feed() -> None:
        time.sleep(0.3)
        for _i in range(6):
            with (videos / "late.mp4").open("a") as file:
                file.write("ok\n")
            time.sleep(0.15)

    feeder = threading.Thread(target=feed)
    feeder.start()
    report = run(watch=True, watch_every=0.1, settle=0.5, watch_idle=1.5)
    feeder.join()
    assert report.done == 5 and report.exit_code == 0
    started = [e.data["key"] for e in run.events if e.kind == "video_started"]  # type: ignore[attr-defined]
    assert sorted(started) == ["a", "b", "late", "sub/-ü x", "sub/a"]
    assert run().skipped == 5


def test_results_of_killed_runs_whose_sources_are_gone(run: Run, videos: Path, tmp_path: Path) -> None:
    from dvis_cli.batch.manifest import Manifest, Row

    out = tmp_path / "out"
    with Manifest(out / "dvis-manifest.jsonl") as manifest:
        manifest.put(Row("gone/x", "/gone/x.mp4", "running", tries=1, ours=True))
    (out / "gone" / ".x.partial-1-abcdef01-abcdef" / "panoptic").mkdir(parents=True)
    assert run().done == 4
    assert not (out / "gone").exists() and rows(out)["gone/x"].state == "pending"


def test_addresses_in_and_out(run: Run, videos: Path, tmp_path: Path) -> None:
    """Through fsspec, to the same files but for the source's name."""
    run()
    settings = VideoSettings()
    options = BatchOptions(jobs=1)
    write(videos / "zz.mp4", "fail")

    def remote() -> BatchReport:
        engine = LocalEngine(settings, options, PaperWorker)
        return run_batch([f"local://{videos}"], f"local://{tmp_path}/far", settings, options, engine=engine)

    report = remote()
    assert report.done == 4 and len(report.failed) == 1
    assert report.failed[0].error.startswith("local://"), "and not the temporary file that was opened"
    assert not hidden(tmp_path / "far")
    for path in (tmp_path / "out").rglob("*.png"):
        assert (tmp_path / "far" / path.relative_to(tmp_path / "out")).read_bytes() == path.read_bytes()
    document = json.loads((tmp_path / "far" / "a" / "segments.json").read_text())
    assert document["source"]["path"].endswith("://" + str(videos / "a.mp4"))
    again = remote()
    assert again.skipped == 4 and again.failed[0].earlier
    write(tmp_path / "far" / ".dvis-lock", json.dumps({"pid": 1, "host": "elsewhere", "time": time.time()}))
    with pytest.raises(OutputError, match="process 1 on elsewhere"):
        remote()


def test_nothing_found_and_bad_requests(run: Run, tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    with pytest.raises(UsageError, match="no videos found"):
        run(tmp_path / "void")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="known models"):
        run_batch([tmp_path], tmp_path / "out", VideoSettings(load={"model": "nonsense"}))


def test_a_model_that_cannot_be_loaded_ends_the_run(videos: Path, tmp_path: Path) -> None:
    options = BatchOptions(jobs=2)
    engine = LocalEngine(VideoSettings(), options, broken_worker)
    with pytest.raises(UsageError, match="no such weights"):
        run_batch([videos], tmp_path / "out", options=options, engine=engine)
    engine = LocalEngine(VideoSettings(), options, dying_worker)
    with pytest.raises(Exception, match="while they load the model"):
        run_batch([videos], tmp_path / "out", options=options, engine=engine)


def broken_worker(*_unused: object) -> PaperWorker:
    raise UsageError("no such weights")


def dying_worker(*_unused: object) -> PaperWorker:
    os._exit(3)


def test_events_are_documented() -> None:
    text = (Path(__file__).parent.parent / "docs" / "batch.md").read_text()
    from typing import get_args

    from dvis_cli.batch.report import EventKind

    for kind in get_args(EventKind):
        assert f"`{kind}`" in text
    assert Event("note", {"text": "x"}).document() == {"event": "note", "text": "x"}
