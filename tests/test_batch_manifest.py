"""The manifest and the lock: nothing that was recorded is lost, whenever the machine stops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dvis_cli.batch.lock import NAME, LockedError, RunLock
from dvis_cli.batch.manifest import FORMAT, Manifest, Row, file_name, rows_of
from dvis_cli.errors import OutputError


def filled(path: Path, n: int = 5) -> Manifest:
    with Manifest(path) as manifest:
        manifest.put(*(Row(f"k{i}", f"/s/{i} ü \udcff.mp4") for i in range(n)))
        for i in range(n):
            manifest.put(Row(f"k{i}", f"/s/{i}.mp4", state="done", tries=1, seconds=1.5, frames=3))
    return manifest


def test_rows_come_back(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    before = filled(path).rows
    with Manifest(path) as manifest:
        assert manifest.rows == before
        manifest.compact()
        lines = path.read_text().splitlines()
        assert len(lines) == 6 and json.loads(lines[0]) == FORMAT
        manifest.put(Row("k9", "/s/9.mp4", state="failed", error="no"))
    with Manifest(path) as manifest:
        assert manifest.rows["k9"].error == "no" and len(manifest.rows) == 6


def test_a_cut_at_any_byte_costs_the_line_it_cuts_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    filled(path, 3)
    data = path.read_bytes()
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        whole = data[:cut].count(b"\n")
        with Manifest(path) as manifest:
            assert len(manifest.rows) == max(0, min(whole - 1, 3))
            assert sum(row.state == "done" for row in manifest.rows.values()) == max(0, whole - 4)
            manifest.put(Row("new", "/n.mp4"))  # and it can be written on
        assert [row.key for row in rows_of(path)][-1] == "new"


def test_damaged_lines_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = b"\0" * 40 + b"\n"
    path.write_bytes(b"".join(lines))
    with Manifest(path) as manifest:
        assert manifest.ignored == 1 and len(manifest.rows) == 5


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / file_name(None)
    path.write_text('{"image": "a.jpg"}\n')
    with pytest.raises(OutputError, match="not a manifest"), Manifest(path):
        pass
    assert path.read_text() == '{"image": "a.jpg"}\n'


def test_fields_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(FORMAT) + '\n{"key":"a","source":"b","colour":"red"}\n{"other":1}\n')
    with Manifest(path) as manifest:
        assert manifest.rows == {"a": Row("a", "b")}


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.jsonl"
    with Manifest(path) as manifest:
        size = path.stat().st_size
        write = os.write
        calls = []

        def fills_up(descriptor: int, data: bytes) -> int:
            calls.append(1)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
            return write(descriptor, bytes(data)[:7])

        monkeypatch.setattr(os, "write", fills_up)
        with pytest.raises(OutputError, match="no space left"):
            manifest.put(Row("a", "/a.mp4"))
        monkeypatch.undo()
        assert path.stat().st_size == size and "a" not in manifest.rows
        manifest.put(Row("b", "/b.mp4"))
    with Manifest(path) as manifest:
        assert list(manifest.rows) == ["b"]


def test_a_long_journal_is_shortened_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with Manifest(path) as manifest:
        for i in range(1100):
            manifest.put(Row("a", "/a.mp4", tries=i), sync=False)
    with Manifest(path):
        assert len(path.read_text().splitlines()) == 2


def test_figures_of_a_hundred_thousand_videos(tmp_path: Path) -> None:
    """Not slower by an order of magnitude than docs/batch.md says; the machine may be busy."""
    path = tmp_path / "m.jsonl"
    with Manifest(path) as manifest:
        manifest.put(*(Row(f"folder/{i}", f"/videos/folder/{i}.mp4", "done") for i in range(100_000)))
    started = time.perf_counter()
    with Manifest(path) as manifest:
        opened = time.perf_counter() - started
        for i in range(20):
            manifest.put(Row(f"folder/{i}", f"/videos/folder/{i}.mp4", "failed"))
        update = (time.perf_counter() - started - opened) / 20
    assert opened < 10 and update < 0.05


# --- lock -------------------------------------------------------------------------------------------------


def test_a_second_run_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from dvis_cli.batch.lock import RunLock\n"
        f"with RunLock(Path({str(tmp_path)!r})): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {other.pid} on") as refused, RunLock(tmp_path):
            pass
        assert refused.value.exit_code == 4
        with pytest.raises(LockedError), RunLock(tmp_path, (1, 2)):
            pass
        other.kill()
        other.wait()
    with RunLock(tmp_path) as lock:  # left behind, and taken over
        assert lock.took_over and str(other.pid) in lock.took_over
    assert not list(tmp_path.iterdir())


def test_parts_of_one_whole_run_together(tmp_path: Path) -> None:
    with RunLock(tmp_path, (1, 3)), RunLock(tmp_path, (2, 3)):
        for other in (None, (1, 3), (1, 4)):
            with pytest.raises(LockedError), RunLock(tmp_path, other):
                pass


def test_another_machines_lock_counts_while_it_is_fresh(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(LockedError, match="process 1 on elsewhere"), RunLock(tmp_path):
        pass
    old = time.time() - 3600
    os.utime(path, (old, old))
    with RunLock(tmp_path) as lock:
        assert lock.took_over == "process 1 on elsewhere"


def test_the_lock_is_free_again_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
        raise ZeroDivisionError
    with RunLock(tmp_path) as lock:
        assert lock.took_over is None


def test_an_unwritable_output_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"), RunLock(tmp_path / "file"):
        pass
