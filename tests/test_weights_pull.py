"""`dvis weights pull` against a server of this machine: the right file, after somebody agreed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import weights_server
from weights_server import DATA, REPO, SHA, Server, nothing, pull, register, whole

from dvis_cli.checkpoints import download

pytest.importorskip("huggingface_hub")


def test_pull_says_what_and_where(place, tmp_path: Path, dvis) -> None:
    place()
    code, out, err = pull(dvis)
    assert code == 0 and whole(tmp_path)
    assert out.strip() == str(tmp_path / "home" / "weights" / "m" / "m.pth")
    assert "licence  CC0" in err and "1.0 MB" in err and "http://127.0.0.1" in err
    record = json.loads((tmp_path / "home" / "weights" / "m" / "dvis.json").read_text())
    assert record["files"]["m.pth"]["sha256"] == SHA


def test_second_pull_fetches_nothing(place, server: Server, tmp_path: Path, dvis) -> None:
    path = place()
    pull(dvis)
    pull(dvis)
    assert len(server.gets(path)) == 1 and whole(tmp_path)


def test_cuts_are_resumed(place, server: Server, tmp_path: Path, dvis) -> None:
    path = place(cuts=[300_000, 300_000, 300_000])
    assert pull(dvis)[0] == 0 and whole(tmp_path)
    ranges = [one.headers.get("Range") for one in server.gets(path)]
    assert ranges[0] is None and ranges[1:] == ["bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_later_run_goes_on(place, server: Server, tmp_path: Path, dvis, monkeypatch) -> None:
    path = place(cuts=[400_000] + [0] * 20)
    code, _, err = pull(dvis)
    assert code == 1 and "400000 bytes are kept" in err and nothing(tmp_path)
    server.files[path].cuts = []
    assert pull(dvis)[0] == 0 and whole(tmp_path)
    assert server.gets(path)[-1].headers["Range"] == "bytes=400000-"


def test_without_ranges_it_begins_anew(place, tmp_path: Path, dvis) -> None:
    place(cuts=[400_000], ranges=False)
    assert pull(dvis)[0] == 0 and whole(tmp_path)


def test_the_file_changed_between_two_attempts(place, server: Server, tmp_path: Path, dvis) -> None:
    """The half of an old version is not continued with the new one."""
    path = place(cuts=[400_000] + [0] * 20)
    server.files[path].data = bytes(len(DATA))
    server.files[path].sha256 = hashlib.sha256(bytes(len(DATA))).hexdigest()
    assert pull(dvis)[0] == 1
    server.files[path].data, server.files[path].cuts, server.files[path].sha256 = DATA, [], None
    assert pull(dvis)[0] == 0 and whole(tmp_path)


def test_a_part_of_something_else(place, tmp_path: Path, dvis) -> None:
    """Whatever lies under the name of a part, the file is right in the end."""
    place()
    staging = tmp_path / "home" / "weights" / ".pulling-m"
    staging.mkdir(parents=True)
    (staging / "m.pth.part").write_bytes(b"x" * 5000)
    (staging / "m.pth").write_bytes(b"y" * 5000)
    (staging / "m.pth.part.json").write_text("{}")
    assert pull(dvis)[0] == 0 and whole(tmp_path)


@pytest.mark.parametrize("statuses", [[500, 503], [429], [502, 429, 500]])
def test_servers_that_come_round(place, tmp_path: Path, dvis, statuses: list[int]) -> None:
    place(statuses=statuses)
    assert pull(dvis)[0] == 0 and whole(tmp_path)


def test_redirects_are_followed(server: Server, tmp_path: Path, dvis) -> None:
    server.put("/real/m.pth", DATA)
    register(tmp_path, url=server.put("/m.pth", b"", redirect="/real/m.pth"))
    assert pull(dvis)[0] == 0 and whole(tmp_path)


def test_a_token_goes_to_the_hub_alone(server: Server, tmp_path: Path, dvis, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with weights_server.running() as other:
        address = other.put("/cdn/m.pth", DATA)
        server.repository(REPO, {"m.pth": DATA}, redirect=address)
        register(tmp_path, hub=REPO, file="m.pth")
        assert pull(dvis)[0] == 0 and whole(tmp_path)
        assert (
            server.gets(server.repositories[REPO]["m.pth"])[0].headers["Authorization"] == "Bearer hf_secret"
        )
        assert "Authorization" not in other.requests[0].headers


def test_a_slow_server_is_waited_for(place, tmp_path: Path, dvis) -> None:
    place(pause=0.05)
    assert pull(dvis)[0] == 0 and whole(tmp_path)


def test_a_stalled_server_is_left(server: Server, tmp_path: Path, dvis, monkeypatch) -> None:
    monkeypatch.setattr(download, "STALL_S", 0.2)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    register(tmp_path, url=server.put("/m.pth", DATA, pause=1.0, piece=2**19), sha256=SHA)
    code, _, err = pull(dvis)
    assert code == 1 and "connection broke" in err and nothing(tmp_path)


@pytest.mark.parametrize("place", ["plain"], indirect=True)
def test_two_at_once(place, server: Server, tmp_path: Path) -> None:
    """Two processes: one fetches, the other waits and finds it there."""
    gate = threading.Event()
    path = place(gate=gate)
    command = [sys.executable, "-m", "dvis_cli", "weights", "pull", "m", "--yes"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **streams) as first:
        while not server.gets(path):
            assert first.poll() is None
            time.sleep(0.02)
        with subprocess.Popen(command, **streams) as second:
            lines = iter(second.stderr.readline, "")
            assert any("another process pulls it" in line for line in lines)
            gate.set()
            ends = [process.communicate(timeout=300) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], ends
    assert ends[0][0] == ends[1][0] and whole(tmp_path)
    assert len(server.gets(path)) == 1


# --- consent ----------------------------------------------------------------------------------------------


def test_without_a_terminal_it_needs_yes(place, server: Server, tmp_path: Path, dvis) -> None:
    path = place()
    code, _, err = dvis("weights", "pull", "m")
    assert code == 2 and "--yes accepts its licence" in err and "licence  CC0" in err
    assert server.gets(path) == [] and nothing(tmp_path)


@pytest.mark.parametrize("place", ["hub"], indirect=True)
@pytest.mark.parametrize("answer, code", [("y\n", 0), ("n\n", 130)])
def test_at_a_terminal_it_asks(place, tmp_path: Path, answer: str, code: int) -> None:
    import pty

    place()
    command = [sys.executable, "-m", "dvis_cli", "weights", "pull", "m"]
    leader, follower = pty.openpty()
    process = subprocess.Popen(command, stdin=follower, stdout=subprocess.PIPE, stderr=follower)
    os.close(follower)
    seen = b""
    while b"Fetch it?" not in seen:
        seen += os.read(leader, 4096)
    os.write(leader, answer.encode())
    drained = threading.Thread(target=_drain, args=(leader,), daemon=True)
    drained.start()
    assert process.wait(60) == code
    drained.join(5)
    process.stdout.close()
    os.close(leader)
    assert b"licence" in seen and b"1.0 MB" in seen
    assert whole(tmp_path) if code == 0 else nothing(tmp_path)


def _drain(leader: int) -> None:
    try:
        while os.read(leader, 4096):
            pass
    except OSError:
        return


def test_without_the_library(place, server: Server, tmp_path: Path, dvis, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    server.repository(REPO, {"m.pth": DATA})
    register(tmp_path, hub=REPO, file="m.pth")
    code, _, err = pull(dvis)
    assert code == 2 and "pip install 'dvis[hub]'" in err
