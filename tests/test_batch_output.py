"""What lies in the output of a batch is not trusted, and not lost; other runs and what is under way are minded."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from batch_workers import PaperWorker

from dvis_cli.batch import BatchOptions, BatchReport, Event, Stop, claims, run_batch, scheduler
from dvis_cli.batch.plan import Job
from dvis_cli.batch.sources import Video
from dvis_cli.batch.workers import LocalEngine
from dvis_cli.errors import OutputError, UsageError
from dvis_cli.run.options import SegmentOptions

Run = Callable[..., BatchReport]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.mp4", "sub/a.mp4", "sub/-ü x.mp4"):
        write(tmp_path / "in" / name, "ok")
    return tmp_path / "in"


@pytest.fixture
def run(videos: Path, tmp_path: Path) -> Run:
    """Run over `videos`, or another folder, into OUT."""

    def call(
        source: Path = videos,
        segment: dict[str, Any] | None = None,
        stop: Stop | None = None,
        on_event: Callable[[Event], None] = lambda event: None,
        **chosen: Any,
    ) -> BatchReport:
        how, options = SegmentOptions(**segment or {}), BatchOptions(**{"jobs": 2, **chosen})
        engine = LocalEngine(how, options, PaperWorker)
        return run_batch([source], tmp_path / "out", how, options, on_event, stop, engine)

    return call


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def records(out: Path) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_text()) for path in out.rglob("batch.json")}


def test_files_of_the_output_are_not_trusted(run: Run, videos: Path, tmp_path: Path) -> None:
    write(videos / "bad.mp4", "fail")
    assert run().done == 4
    settings = records(tmp_path / "out")["a"]["settings"]
    row = {"source": 1, "error": "x", "settings": settings, "fingerprint": 5}
    rows = ["null", "[" * 99_999, '{"key": 7, "error": "x"}', json.dumps({"key": "bad", **row})]
    write(tmp_path / "out" / "failures.jsonl", "\n".join(rows))
    write(tmp_path / "out" / "a" / "batch.json", json.dumps({"settings": settings, "fingerprint": [1]}))
    write(tmp_path / "out" / "b" / "batch.json", "[" * 99_999)
    report = run()
    assert (report.done, report.skipped, report.exit_code) == (2, 2, 1)
    (line,) = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == "bad"


def test_the_result_of_another_folder_is_not_replaced(run: Run, videos: Path, tmp_path: Path) -> None:
    run()
    moved = tmp_path / "moved"
    shutil.copytree(videos, moved, copy_function=shutil.copyfile)  # the same bytes, other times
    assert run(moved).skipped == 4 and run(moved, segment={"short_side": 32}).done == 4
    write(tmp_path / "other" / "a.mp4", "ok, of another day")
    before = records(tmp_path / "out")
    (failure,) = run(tmp_path / "other").failed
    assert f"is the result of {moved}/a.mp4" in failure.error and records(tmp_path / "out") == before
    assert run(tmp_path / "other", segment={"overwrite": True}).done == 1


def test_the_time_left_is_at_least_that_of_the_frames_under_way() -> None:
    made = scheduler.Scheduler(None, SimpleNamespace(report=BatchReport(frames=90)))  # type: ignore[arg-type]
    video = Video("small.mp4", "", size=10)
    made._size, made._size_left = 1000.0, 10.0
    made._running[0] = Job(video, "new", frames=10, frames_in_all=100)
    told = made._progress(time.monotonic() - 100)  # a frame a second, nearly all bytes done
    assert told["frames_per_second"] == pytest.approx(1, rel=0.01)
    assert told["seconds_left"] == pytest.approx(90, rel=0.01)


def test_watching_waits_for_what_another_run_may_leave(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_OTHERS", 0.05)
    claim = tmp_path / "out" / ".dvis" / (claims._digest("a") + ".0")
    write(claim, json.dumps({"pid": 1, "host": "elsewhere"}))
    stop, looks = Stop(), iter(range(12))

    def hear(event: Event) -> None:
        if event.kind == "progress":
            look = next(looks)
            if look == 2:  # long after it was looked at twice
                claim.unlink()
            if look == 11 or event.data["videos"] == 4:
                stop.ask(at_once=True)

    report = run(watch=True, watch_every=0.1, settle=0.0, stop=stop, on_event=hear)
    assert (report.done, report.elsewhere) == (4, 0)


def test_an_output_that_takes_nothing_is_refused_before_models_are_loaded(run: Run, videos: Path) -> None:
    out = videos.parent / "out"
    out.write_text("a file")
    events: list[Event] = []
    with pytest.raises(OutputError, match="is not a folder"):
        run(on_event=events.append)
    assert not events
    out.unlink()
    out.symlink_to(videos)
    with pytest.raises(UsageError, match="is the output, which is not searched"):
        run()
