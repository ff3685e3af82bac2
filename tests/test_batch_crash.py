"""Killing, interrupting and filling the disk of a batch that runs as a program of its own."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import media
import pytest

KILLS = int(os.environ.get("DVIS_KILLS", "50"))  # fewer on a busy machine
SCRIPT = Path(__file__).with_name("batch_workers.py")


def start(out: Path, source: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(out), json.dumps({"jobs": 2, **options}), str(source)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 300) -> tuple[int, list[dict[str, Any]], str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, [json.loads(line) for line in out.splitlines() if line.startswith("{")], err


def wait_for(process: subprocess.Popen[str], event: str, key: str = "") -> None:
    """Read until this event, of a video in this folder."""
    assert process.stdout is not None
    for line in process.stdout:
        found = json.loads(line)
        if found["event"] == event and found.get("key", "").startswith(key):
            return
    raise AssertionError(f"it ended before {event!r}: {finish(process)}")


def contents(folder: Path) -> dict[str, str]:
    """Every file, hidden ones too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


def kill_and_resume(out: Path, source: Path, moments: list[float], **options: Any) -> int:
    """Start, kill -9 after so many seconds, start again, ...; then let it finish. Returns how many were killed."""
    killed = 0
    for seconds in moments:
        process = start(out, source, **options)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        finish(process)
    code, _, err = finish(start(out, source, **options))
    assert code == 1 and not err, err
    return killed


def paper_videos(folder: Path, n: int, text: str = "slow 0.15") -> Path:
    for i in range(n):
        path = folder / f"part {i % 3}" / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n" + f"{i}" * 2000)
    (folder / "bad.mp4").write_text("fail")
    return folder


def test_killed_runs_go_on_to_the_same_bytes(tmp_path: Path) -> None:
    source = paper_videos(tmp_path / "in", 16)
    assert finish(start(tmp_path / "whole", source))[0] == 1
    rng = random.Random(7)
    moments = [rng.uniform(0.25, 1.2) for _ in range(6)]
    assert kill_and_resume(tmp_path / "killed", source, moments) >= 3
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def real_videos(folder: Path, n: int) -> Path:
    folder.mkdir()
    for i in range(n):
        path = folder / ("a" if i % 2 else "b") / f"clip {i}.mp4"
        path.parent.mkdir(exist_ok=True)
        media.write_video(path, media.moving_squares(12 + i, 48, 64 + 2 * i), fps=10, audio=i % 3 == 0)
    (folder / "bad.mp4").write_text("no video")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("address", [False, True])
def test_fifty_kills_of_real_runs(tmp_path: Path, address: bool) -> None:
    """The tiny model on real videos, killed at random moments of loading, computing and writing."""
    source = real_videos(tmp_path / "in", 12)
    options = {"paper": False, "segment": {"model": "tiny", "threads": 1, "short_side": 64}}
    places = [tmp_path / "whole", tmp_path / "killed"]
    outs: list[Any] = [f"local://{p}" for p in places] if address else places
    began = time.monotonic()
    assert finish(start(outs[0], source, **options))[0] == 1
    whole = time.monotonic() - began
    rng = random.Random(50)
    killed = rounds = 0
    while killed < KILLS:  # each round begins anew, so that every stage of a run is hit
        rounds += 1
        import shutil

        shutil.rmtree(places[1], ignore_errors=True)
        moments = [rng.uniform(0.3, max(whole, 4.0)) for _ in range(5)]
        killed += kill_and_resume(outs[1], source, moments, **options)
        assert contents(places[1]) == contents(places[0])
    assert not list(Path(tempfile.gettempdir()).glob("dvis-batch-*"))
    print(f"{killed} kills in {rounds} rounds; a whole run takes {whole:.1f} s")


def test_ctrl_c_once_finishes_and_twice_stops(tmp_path: Path) -> None:
    source = paper_videos(tmp_path / "in", 8, "slow 2")
    process = start(tmp_path / "out", source)
    wait_for(process, "video_started", "part")  # not the bad video: it is over in no time
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    code, events, err = finish(process)
    assert code == 130 and not err, err
    assert any("Ctrl-C again" in e.get("text", "") for e in events)
    report = events[-1]
    assert report["event"] == "finished" and 1 <= report["done"] <= 2  # what two workers had in hand
    assert not list((tmp_path / "out").rglob(".*"))

    process = start(tmp_path / "twice", paper_videos(tmp_path / "slower", 3, "slow 60"))
    wait_for(process, "video_started", "part")
    began = time.monotonic()
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.1)
    code, events, _ = finish(process)
    assert code == 130 and time.monotonic() - began < 50  # a video takes 60
    assert not list((tmp_path / "twice").rglob(".*"))


def test_sigterm_stops_at_once_and_cleanly(tmp_path: Path) -> None:
    process = start(tmp_path / "out", paper_videos(tmp_path / "in", 3, "slow 60"))
    wait_for(process, "video_started")
    process.terminate()
    assert finish(process)[0] == 143
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"failures.jsonl"}  # of the bad video


def test_two_runs_share_one_output(tmp_path: Path) -> None:
    """Each video is done by one of them, and the second ends while the first still has one in hand."""
    source = paper_videos(tmp_path / "in", 12, "slow 0.2")
    (source / "long.mp4").write_text(f"wait {tmp_path / 'go'}")
    first = start(tmp_path / "out", source)
    wait_for(first, "video_started", "long")
    code, events, err = finish(start(tmp_path / "out", source))
    assert (code, err) == (1, "") and events[-1]["elsewhere"] == 1, events[-1]
    assert f"process {first.pid} on" in events[-1]["reason"]
    (tmp_path / "go").touch()
    mine = finish(first)[1][-1]
    assert mine["done"] + events[-1]["done"] == 13
    assert not list((tmp_path / "out").rglob(".*"))


def test_the_other_runs_videos_are_no_failure(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "long.mp4").write_text(f"wait {tmp_path / 'go'}")
    first = start(tmp_path / "out", tmp_path / "in")
    wait_for(first, "video_started", "long")
    assert finish(start(tmp_path / "out", tmp_path / "in"))[0] == 4
    (tmp_path / "go").touch()
    assert finish(first)[0] == 0


def test_no_worker_outlives_a_killed_run(tmp_path: Path) -> None:
    process = start(tmp_path / "out", paper_videos(tmp_path / "in", 4, "slow 60"))
    wait_for(process, "video_started")
    process.kill()
    process.wait()
    end = time.monotonic() + 50  # a video takes 60
    while _group_lives(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _group_lives(process.pid)
    finish(process)


def _group_lives(group: int) -> bool:
    """Whether a process of the group runs; ended ones that nobody collected do not count."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            facts = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(facts[2]) == group and facts[0] not in "ZX":
            return True
    return False


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A tmpfs of 256 KiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    source = paper_videos(tmp_path / "in", 9, "ok")
    hog = small_disk / "hog"
    hog.write_bytes(bytes(60_000))
    code, events, err = finish(start(small_disk / "out", source))
    assert code == 3 and not err, err
    report = events[-1]
    assert report["stopped"] == "full" and "no space left on the disk" in report["reason"]
    assert report["done"] + report["left"] + len(report["failed"]) == report["total"] == 10
    assert not list(small_disk.rglob(".*"))
    hog.unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    code, events, err = finish(start(small_disk / "out", source))
    assert code == 1 and events[-1]["skipped"] == report["done"], events[-1]
    assert finish(start(tmp_path / "whole", source))[0] == 1
    assert contents(small_disk / "out") == contents(tmp_path / "whole")
