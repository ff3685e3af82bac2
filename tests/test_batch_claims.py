"""Claims, and the small files in an output: one run at a time has a video, whenever another one died."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dvis_cli.batch import claims as module
from dvis_cli.batch.claims import Claims
from dvis_cli.batch.output import Output
from dvis_cli.batch.report import Failure
from dvis_cli.batch.summary import Summary
from dvis_cli.errors import OutputError


def claims(folder: Path, stale: float = 300.0) -> Claims:
    return Claims(Output(folder), stale)


def claim_file(folder: Path, key: str, number: int = 0) -> Path:
    path = folder / ".dvis" / f"{module._digest(key)}.{number}"
    path.parent.mkdir(exist_ok=True)
    return path


def test_one_of_many_gets_a_video(tmp_path: Path) -> None:
    runs = [claims(tmp_path) for _ in range(8)]
    with ThreadPoolExecutor(8) as together:
        for key in ("a", "ü/\udcff b", "c" * 500):
            holders = list(together.map(lambda run, key=key: run.take(key), runs))
            assert holders.count(None) == 1
            assert all(one is None or f"process {os.getpid()} on" in one for one in holders)
            runs[holders.index(None)].release(key)
    Output(tmp_path).close()
    assert not list(tmp_path.iterdir())


def test_a_claim_that_was_just_created_gets_its_owners_name(tmp_path: Path) -> None:
    path = claim_file(tmp_path, "a")
    path.touch()  # what another run sees between the creation of a claim and its first byte
    with ThreadPoolExecutor(1) as other:
        holder = other.submit(claims(tmp_path).take, "a")
        path.write_bytes(claims(tmp_path)._me)
        assert f"process {os.getpid()} on" in str(holder.result())


def test_an_empty_claim_is_anothers_until_it_is_stale(tmp_path: Path) -> None:
    claim_file(tmp_path, "a").touch()
    assert claims(tmp_path).take("a") == "process ? on ?"
    assert claims(tmp_path, stale=0.0).take("a") is None


def test_a_killed_runs_claim_is_taken_over_by_one(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from dvis_cli.batch.claims import Claims\n"
        "from dvis_cli.batch.output import Output\n"
        f"mine = Claims(Output(Path({str(tmp_path)!r})), 300); mine.take('a')\n"
        "Path(mine.stage('a')).mkdir(parents=True)\n"
        "print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert f"process {other.pid} on" in str(claims(tmp_path).take("a"))
        other.kill()
        other.wait()
    runs = [claims(tmp_path) for _ in range(8)]
    with ThreadPoolExecutor(8) as together:
        holders = list(together.map(lambda run: run.take("a"), runs))
    assert holders.count(None) == 1
    runs[holders.index(None)].release("a")
    assert not list((tmp_path / ".dvis").iterdir()), "and what it had begun"


def test_another_machines_claim_counts_while_it_shows_life(tmp_path: Path) -> None:
    path = claim_file(tmp_path, "a")
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "boot": "x"}))
    assert claims(tmp_path).take("a") == "process 1 on elsewhere"
    old = path.stat().st_mtime - 301
    os.utime(path, (old, old))
    mine = claims(tmp_path)
    assert mine.take("a") is None
    os.utime(claim_file(tmp_path, "a", 1), (old, old))
    mine._beat -= 31
    mine.beat()
    assert Output(tmp_path).age(f".dvis/{claim_file(tmp_path, 'a', 1).name}") < 60


@pytest.mark.parametrize("change", [{"boot": "before"}, {"start": "another process"}, {"pid": 2**22 + 1}])
def test_a_claim_of_this_machine_is_void_with_its_process(tmp_path: Path, change: dict[str, object]) -> None:
    me = json.loads(claims(tmp_path)._me)
    assert me["host"] == socket.gethostname()
    claim_file(tmp_path, "a").write_text(json.dumps(me))
    assert claims(tmp_path).take("a") is not None
    claim_file(tmp_path, "a").write_text(json.dumps({**me, **change}))
    assert claims(tmp_path).take("a") is None


def test_a_claim_that_was_cut_counts_while_it_is_fresh(tmp_path: Path) -> None:
    claim_file(tmp_path, "a").touch()
    assert claims(tmp_path).take("a") is not None
    os.utime(claim_file(tmp_path, "a"), (1, 1))
    assert claims(tmp_path).take("a") is None


def test_an_unwritable_output_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        claims(tmp_path / "file").take("a")


def test_runs_side_by_side_lose_no_failure(tmp_path: Path) -> None:
    output = Output(tmp_path)
    books = [Summary(output, claims(tmp_path), index=False) for _ in range(3)]
    for i, book in enumerate(books):
        book.failed(Failure(f"k{i}", f"/v/{i} \udcff.mp4", "no"), "5:1", "settings")
        assert book.flush(at_once=True)
    rows = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == ["k0", "k1", "k2"] and rows[0]["fingerprint"] == "5:1"
    late = Summary(output, claims(tmp_path), index=False)
    for i in range(3):
        late.done(f"k{i}", {})
    assert late.flush(at_once=True) and not (tmp_path / "failures.jsonl").exists()


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "failures.jsonl").write_bytes(b'{"key": "a", "error": "no"}\n\0\0\0\n{"key": 1}\n[]\n')
    assert Summary(Output(tmp_path), claims(tmp_path), index=False).failure("a") == {
        "key": "a",
        "error": "no",
    }
