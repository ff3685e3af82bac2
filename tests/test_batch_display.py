"""How a batch is shown: on a terminal, in a log, as JSON."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from batch_workers import PaperWorker
from test_batch_run import write

from dvis_cli.batch import BatchOptions
from dvis_cli.batch.report import BatchReport, Failure
from dvis_cli.batch.workers import LocalEngine
from dvis_cli.cli.batch import progress_line, segment_many, show_report, shown
from dvis_cli.cli.console import Reporter
from dvis_cli.run.options import SegmentOptions


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for i in range(3):
        write(tmp_path / "in" / f"[red]{i}.mp4", "ok")
    write(tmp_path / "in" / "bad\x1b\udcff.mp4", "fail")
    monkeypatch.setattr("dvis_cli.batch.run.LocalEngine", lambda s, o: LocalEngine(s, o, PaperWorker))
    return tmp_path / "in"


def go(videos: Path, quiet: bool = False, json_output: bool = False) -> int:
    options = BatchOptions(jobs=2)
    return segment_many(
        Reporter(quiet), [videos], videos.parent / "out", SegmentOptions(), options, json_output
    )


def test_lines(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go(videos) == 1
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and lines[0] == "4 videos: 4 to do, 0 done before"
    assert sum("frames, 0 segments" in line for line in lines) == 3
    assert any(line.startswith("[") and "/4] failed: bad_\\udcff: " in line for line in lines)
    assert any(line.split()[:2] == ["done", "3"] for line in lines)
    assert any(line.split()[:2] == ["failed", "1"] for line in lines)
    assert "\x1b" not in err
    go(videos)
    assert "--retry-failed" in capsys.readouterr().err


def test_quiet_shows_failures_only(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go(videos, quiet=True) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "bad_\\udcff: " in err


def test_json(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go(videos, json_output=True) == 1
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]
    assert err == "" and events[0]["event"] == "started" and events[-1]["exit_code"] == 1


def test_a_terminal(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in videos.iterdir():
        path.write_text("slow 1.2")
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert go(videos) == 0
    text = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "[red]0: 6 frames" in text and "frames/s" in text and "done            4 " in text


def test_the_line_of_progress() -> None:
    current = [{"key": f"v{i}", "worker": i, "frames": i, "total": 9 if i else None} for i in range(5)]
    facts = {
        "videos": 3,
        "total": 9,
        "failed": 1,
        "frames": 40,
        "frames_per_second": 2.5,
        "seconds_left": 75.0,
    }
    assert progress_line({**facts, "current": current}) == (
        "3/9 videos, 1 failed, 2.50 frames/s, 1:15 left; v0 0, v1 1/9, v2 2/9, 2 more"
    )


def test_many_failures_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    report = BatchReport(
        failed=[Failure(f"v{i}", "s", "no") for i in range(60)], stopped="full", reason="full up", left=2
    )
    show_report(Reporter(), report, "OUT")
    err = capsys.readouterr().err
    assert "20 more in OUT/failures.jsonl" in err and report.exit_code == 3
    assert [line.split()[:2] for line in err.splitlines()[-5:-1]] == [
        ["done", "0"], ["skipped", "0"], ["failed", "60"], ["left", "2"]
    ]  # fmt: skip
    assert err.splitlines()[-1] == "stopped: full up"


def test_names_are_one_line() -> None:
    assert shown("a\nb\x1b[0m\udc80 ü") == "a\\nb\\x1b[0m\\udc80 ü"
