"""`dvis weights pull` against a server of this machine: the right file, or one clear line and nothing broken."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import transformers_models
import weights_server
import yaml
from goldens import FOLDER
from weights_server import Server

from dvis_cli.checkpoints import download, hub
from dvis_cli.checkpoints.installed import installed
from dvis_cli.checkpoints.label_sets import label_set
from dvis_cli.errors import CheckpointError, UsageError

pytest.importorskip("huggingface_hub")
DATA = bytes(range(256)) * 4000  # 1 MB
SHA = hashlib.sha256(DATA).hexdigest()
REPO = "someone/models"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A server, an empty cache, and a registry `mine.yaml` that lists what lies on it."""
    for name in ("HF_TOKEN", "DVIS_OFFLINE", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("DVIS_WEIGHTS")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("DVIS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DVIS_REGISTRY", str(tmp_path / "mine.yaml"))
    monkeypatch.setattr(download, "WAIT_S", 0.01)
    monkeypatch.setattr(download, "STALL_S", 2.0)
    with weights_server.running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


def register(tmp_path: Path, **entry: object) -> None:
    document = {"models": [{"name": "m", "licence": "CC0", **entry}]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))


@pytest.fixture(params=["plain", "hub"])
def place(request, server: Server, tmp_path: Path):
    """How to put a file on the server so that `dvis weights pull m` wants it; returns its path there."""

    def put(**faults: object) -> str:
        if request.param == "plain":
            address = server.put("/models/m.pth", DATA, **faults)
            register(tmp_path, url=address, **({"sha256": faults["sha256"]} if "sha256" in faults else {}))
            return "/models/m.pth"
        server.repository(REPO, {"deep/m.pth": DATA, "other.txt": b"x"}, **faults)
        register(tmp_path, hub=REPO, file="deep/m*")
        return server.repositories[REPO]["deep/m.pth"]

    return put


def whole(tmp_path: Path) -> bool:
    """The file is there as it should be, with its record, and nothing else that anybody could take for a model."""
    folder = tmp_path / "home" / "weights"
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) == ["m", "pins.json"]
    assert sorted(p.name for p in (folder / "m").iterdir()) == ["dvis.json", "m.pth"]
    assert not list(folder.glob(".pulling-*"))
    return (folder / "m" / "m.pth").read_bytes() == DATA


def nothing(tmp_path: Path) -> bool:
    folder = tmp_path / "home" / "weights"
    return installed("m") is None and not (folder / "m").exists()


def pull(dvis, *more: str) -> tuple[int, str, str]:
    code, out, err = dvis("weights", "pull", "m", "--yes", *more)
    assert (code == 0) == ("error:" not in err), err
    if code:
        assert err.count("error:") == 1 and "unexpected" not in err and out == "", err
    return code, out, err


# --- what goes well, at once or in the end ----------------------------------------------------------------


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


# --- what does not ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statuses, message",
    [
        ([404], "answers 404: it is not there"),
        ([401], "answers 401: it wants a login.*HF_TOKEN"),
        ([403], "answers 403: it wants a login"),
        ([500] * 50, "the server answers 500; 5 attempts"),
        ([429] * 50, "the server answers 429; 5 attempts"),
        ([418], "answers 418"),
    ],
)
def test_refusals(server: Server, tmp_path: Path, dvis, statuses: list[int], message: str) -> None:
    register(tmp_path, url=server.put("/m.pth", DATA, statuses=statuses))
    code, _, err = pull(dvis)
    assert code == 1 and nothing(tmp_path)
    assert __import__("re").search(message, err), err


@pytest.mark.parametrize(
    "statuses, message", [([401], "401"), ([403], "403"), ([503] * 50, "503"), ([404], "404")]
)
def test_refusals_of_the_index(
    server: Server, tmp_path: Path, dvis, statuses: list[int], message: str
) -> None:
    server.repository(REPO, {"m.pth": DATA})
    server.index_statuses = statuses
    register(tmp_path, hub=REPO, file="m.pth")
    code, _, err = pull(dvis)
    assert code == 1 and message in err and nothing(tmp_path)


def test_index_that_comes_round(server: Server, tmp_path: Path, dvis) -> None:
    server.repository(REPO, {"m.pth": DATA})
    server.index_statuses = [503, 429]
    register(tmp_path, hub=REPO, file="m.pth")
    assert pull(dvis)[0] == 0 and whole(tmp_path)


def test_wrong_hash(place, tmp_path: Path, dvis) -> None:
    place(sha256="0" * 64)
    code, _, err = pull(dvis)
    assert code == 1 and f"its SHA-256 is {SHA}, expected 0000" in err and nothing(tmp_path)
    staging = tmp_path / "home" / "weights" / ".pulling-m"
    assert not list(staging.iterdir()), "a wrong file is of no use to the next attempt"


def test_prefix_of_an_md5(server: Server, tmp_path: Path, dvis) -> None:
    address = server.put("/m.pth", DATA)
    digest = hashlib.md5(DATA).hexdigest()
    register(tmp_path, url=address, md5="abcdef")
    assert f"its MD5 is {digest[:6]}, expected abcdef" in pull(dvis)[2]
    register(tmp_path, url=address, md5=digest[:6])
    assert pull(dvis)[0] == 0 and whole(tmp_path)


def test_short_file(server: Server, tmp_path: Path, dvis) -> None:
    """Fewer bytes than announced, again and again."""
    register(tmp_path, url=server.put("/m.pth", DATA, claims=len(DATA) + 5000))
    code, _, err = pull(dvis)
    assert code == 1 and "connection broke" in err and nothing(tmp_path)


def test_shorter_than_the_index_says(server: Server, tmp_path: Path, dvis) -> None:
    server.repository(REPO, {"m.pth": DATA})
    served = server.files[server.repositories[REPO]["m.pth"]]
    register(tmp_path, hub=REPO, file="m.pth")
    original = hub.repository(REPO)
    served.data = DATA[:-100]
    file = original.remote(original.files[0])
    with pytest.raises(CheckpointError, match=f"{len(DATA) - 100} bytes, expected {len(DATA)}"):
        download.fetch(file, tmp_path / "x")
    served.data = DATA + b"x" * 100
    with pytest.raises(CheckpointError, match="sends more than"):
        download.fetch(file, tmp_path / "x")
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.part").exists()


def test_another_file_at_the_same_address(server: Server, tmp_path: Path, dvis) -> None:
    """The checksum of the first time is kept, and outlives the file."""
    register(tmp_path, url=server.put("/models/m.pth", DATA))
    pull(dvis)
    assert dvis("weights", "remove", "m")[0] == 0
    server.put("/models/m.pth", DATA[::-1])
    code, _, err = pull(dvis)
    assert code == 1 and "another than at first use" in err and nothing(tmp_path)
    server.put("/models/m.pth", DATA)
    assert pull(dvis)[0] == 0


def test_too_little_room(place, tmp_path: Path, dvis, monkeypatch) -> None:
    place()
    monkeypatch.setattr(download, "_SPARE", 2**60)
    code, _, err = pull(dvis)
    assert code == 1 and "MB left: make room, or set DVIS_HOME" in err and nothing(tmp_path)


@pytest.mark.parametrize("place", ["plain"], indirect=True)
def test_disk_full_on_the_way(place, server: Server, tmp_path: Path, dvis) -> None:
    """A write that fails in the middle; with room again, the same command goes on from there."""
    path = place()
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (600000, {resource.RLIM_INFINITY}));"
    code += "import sys; sys.argv = ['dvis', 'weights', 'pull', 'm', '--yes']; from dvis_cli.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("error:") == 1, done.stderr
    assert "make room, or set DVIS_HOME" in done.stderr and nothing(tmp_path)
    assert pull(dvis)[0] == 0 and whole(tmp_path)
    assert server.gets(path)[-1].headers["Range"].startswith("bytes=")


def test_a_folder_that_cannot_be_written(place, tmp_path: Path, dvis) -> None:
    place()
    (tmp_path / "home").write_text("a file where the folder should be")
    code, _, err = pull(dvis)
    assert code == 1 and "cannot write" in err


def test_nobody_there(server: Server, tmp_path: Path, dvis) -> None:
    with weights_server.running() as gone:
        address = gone.put("/m.pth", DATA)
    register(tmp_path, url=address)
    code, _, err = pull(dvis)
    assert code == 1 and "no connection" in err and nothing(tmp_path)


# --- where it may go --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "http://example.org/m.pth",
        "ftp://example.org/m.pth",
        "file:///etc/passwd",
        "https://user:secret@example.org/m.pth",
        "http://127.0.0.1.example.org/m.pth",
        "https:///m.pth",
        "https://example.org:port/m.pth",
        "https://example.org/m .pth",
    ],
)
def test_addresses_that_are_refused(server: Server, tmp_path: Path, dvis, address: str) -> None:
    register(tmp_path, url=address)
    code, _, err = pull(dvis)
    assert code == 2 and "address" in err and nothing(tmp_path)


@pytest.mark.parametrize(
    "target", ["http://example.org/m.pth", "file:///etc/passwd", "ftp://127.0.0.1/m.pth"]
)
def test_redirects_that_are_refused(server: Server, tmp_path: Path, dvis, target: str) -> None:
    register(tmp_path, url=server.put("/m.pth", b"", redirect=target))
    code, _, err = pull(dvis)
    assert code and ("only https" in err or "redirects to where it may not" in err) and nothing(tmp_path)


def test_https_may_not_become_http_even_here() -> None:
    import urllib.request

    handler = download._Redirects()
    before = urllib.request.Request("https://example.org/m.pth")
    with pytest.raises(UsageError, match="not https"):
        handler.redirect_request(before, None, 302, "", {}, "http://127.0.0.1/m.pth")


def test_endless_redirects(server: Server, tmp_path: Path, dvis) -> None:
    register(tmp_path, url=server.put("/m.pth", b"", redirect="/m.pth"))
    assert pull(dvis)[0] == 1 and nothing(tmp_path)


def test_an_endpoint_that_is_not_https(server: Server, tmp_path: Path, dvis, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://example.org")
    register(tmp_path, hub=REPO, file="m.pth")
    assert "only https" in pull(dvis)[2]


@pytest.mark.parametrize("name", ["..", "a/../../m.pth", ".hidden.pth", "m\n.pth", "x" * 300 + ".pth"])
def test_names_cannot_leave_the_cache(server: Server, tmp_path: Path, dvis, name: str) -> None:
    server.repository(REPO, {name: DATA, "config.json": b"{}"})
    register(tmp_path, hub=REPO, file="*")
    before = sorted(tmp_path.rglob("*"))
    code, _, _ = pull(dvis)
    if code == 0:  # the last part of the path is harmless
        assert whole(tmp_path)
    else:
        assert nothing(tmp_path)
    outside = [
        p for p in sorted(tmp_path.rglob("*")) if p not in before and tmp_path / "home" not in p.parents
    ]
    assert outside in ([], [tmp_path / "home"])


@pytest.mark.parametrize("name", ["../m", "a/b", "", ".m", "x" * 200, "a\nb", "CON:", "~"])
def test_names_of_models(server: Server, tmp_path: Path, dvis, name: str) -> None:
    register(tmp_path, url=server.put("/m.pth", DATA))
    for arguments in (["pull", "m", "--yes", "--as", name], ["remove", name], ["add", FOLDER, "--as", name]):
        code, _, err = dvis("weights", *arguments)
        assert code == 2 and "name" in err, err
    assert not (tmp_path / "home" / "weights" / "m").exists()


def test_offline_never_touches_the_network(place, server: Server, tmp_path: Path, dvis, monkeypatch) -> None:
    place()
    monkeypatch.setenv("DVIS_OFFLINE", "1")
    for arguments in (["pull", "m", "--yes"], ["verify", "--remote", "m"]):
        code, _, err = dvis("weights", *arguments)
        assert code == 2 and "DVIS_OFFLINE" in err
    assert server.requests == [] and nothing(tmp_path)
    monkeypatch.setenv("DVIS_OFFLINE", "0")
    pull(dvis)
    monkeypatch.setenv("DVIS_OFFLINE", "1")
    count = len(server.requests)
    assert pull(dvis)[0] == 0 and len(server.requests) == count, "what is installed can be used"


def test_proxies_of_the_environment(server: Server, tmp_path: Path, dvis, monkeypatch) -> None:
    monkeypatch.setenv("https_proxy", server.address)
    register(tmp_path, url="https://weights.example/m.pth")
    code, _, err = pull(dvis)
    assert code == 1 and "no connection" in err
    assert {(one.method, one.path) for one in server.requests} == {("CONNECT", "weights.example:443")}


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


# --- the other commands -----------------------------------------------------------------------------------


def test_patterns_must_match_one_file(server: Server, tmp_path: Path, dvis) -> None:
    server.repository(REPO, {"DVIS++/online_r50.pth": DATA, "DVIS++/offline_r50.pth": DATA, "README.md": b""})
    register(tmp_path, hub=REPO, file=["dvis++/*", "*R50*"])
    code, _, err = pull(dvis)
    assert code == 2 and "2 files" in err and "DVIS++/offline_r50.pth" in err and "--file" in err
    code, _, err = pull(dvis, "--file", "*vitl*")
    assert code == 2 and "0 files" in err and "DVIS++/online_r50.pth" in err and "README" not in err
    code, out, err = pull(dvis, "--file", "*/online*", "--as", "mine")
    assert code == 0 and out.strip().endswith("mine/online_r50.pth"), err


def test_list_remote(server: Server, tmp_path: Path, dvis) -> None:
    server.repository(REPO, {"a/one.pth": DATA, "notes.txt": b""})
    register(tmp_path, hub=REPO, file="*")
    code, out, _ = dvis("weights", "list", "m", "--remote", "--json")
    assert code == 1 and [row["path"] for row in json.loads(out)] == [
        "a/one.pth"
    ]  # the package's are not there


def test_list_shows_the_users_registry(server: Server, tmp_path: Path, dvis) -> None:
    register(tmp_path, url=server.put("/m.pth", DATA), data="Mine", score="PQ 1.0 (mine)")
    code, out, _ = dvis("weights", "list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and rows["m"]["data"] == "Mine" and len(rows) > 60
    code, out, _ = dvis("weights", "list")
    assert "PQ 1.0" in out and "not supported" in out


def test_verify_finds_changes(place, tmp_path: Path, dvis) -> None:
    place()
    pull(dvis)
    assert dvis("weights", "verify")[0] == 0
    path = Path(dvis("weights", "path", "m")[1].strip())
    path.write_bytes(DATA[:-1] + b"x")
    code, out, err = dvis("weights", "verify", "m")
    assert code == 1 and "m.pth has changed" in out and "1 of 1" in err
    path.unlink()
    assert "m.pth is missing" in dvis("weights", "verify")[1]


def test_verify_remote(place, server: Server, tmp_path: Path, dvis) -> None:
    path = place()
    assert dvis("weights", "verify", "m", "--remote")[:2] == (0, f"{'m':44} ok\n")
    server.files[path].data *= 2
    document = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    document["models"][0]["size_mb"] = 1.0
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))
    code, out, _ = dvis("weights", "verify", "m", "--remote")
    assert code == 1 and "2 MB, the registry has 1" in out
    server.files.clear()
    server.repositories.clear()
    code, out, _ = dvis("weights", "verify", "m", "--remote")
    assert code == 1 and "404" in out
    assert not server.gets(path)


def test_damaged_records_are_said(place, tmp_path: Path, dvis) -> None:
    place()
    pull(dvis)
    record = tmp_path / "home" / "weights" / "m" / "dvis.json"
    good = record.read_text()
    for bad in (
        "{",
        "[]",
        "[" * 100_000,
        good.replace("m.pth", "../m.pth"),
        good.replace("CC0", "").replace('"licence"', '"x"'),
    ):
        record.write_text(bad)
        code, _, err = dvis("weights", "verify", "m")
        assert code == 1 and "is damaged" in err, err
    assert dvis("weights", "remove", "m")[0] == 0 and nothing(tmp_path)


def test_remove_clears_what_was_begun(place, server: Server, tmp_path: Path, dvis) -> None:
    path = place(cuts=[400_000] + [0] * 20)
    pull(dvis)
    assert dvis("weights", "remove", "m")[0] == 0
    assert [p.name for p in (tmp_path / "home" / "weights").iterdir()] == [".m.lock"]
    assert dvis("weights", "remove", "m")[0] == 2
    server.files[path].cuts = []


def test_add_and_use_by_name(server: Server, tmp_path: Path, dvis) -> None:
    register(tmp_path, url="https://example.org/m.pth")
    source = FOLDER / "r50" / "weights_offline.safetensors"
    code, out, err = dvis("weights", "add", source, "--as", "recorded", "--classes", "vipseg")
    assert code == 0 and Path(out.strip()).read_bytes() == source.read_bytes(), err
    assert dvis("weights", "add", source, "--as", "recorded")[0] == 2
    assert dvis("weights", "add", source, "--as", "other", "--classes", "coco")[0] == 2
    assert dvis("weights", "add", source, "--as", "other", "--classes", "cocoa")[0] == 2
    from dvis_cli.run.loading import load_model

    assert load_model("recorded").config.name == "recorded"
    code, out, _ = dvis("weights", "info", "recorded", "--json")
    assert json.loads(out)["mode"] == "offline"
    code, out, err = dvis("models", "--json")
    assert code == 0, err
    assert {row["name"]: row["ready"] for row in json.loads(out)}["recorded"]


def test_a_folder_of_transformers(server: Server, tmp_path: Path, dvis) -> None:
    """Pulled from the hub and loaded by name; of two forms the safer one is taken."""
    pytest.importorskip("transformers")
    names = [category.name for category in label_set("coco_panoptic")]
    folder = transformers_models.save(transformers_models.make("swin-t"), tmp_path / "f", names)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server.repository(REPO, {**files, "pytorch_model.bin": b"x", "tf_model.h5": b"x", "README.md": b"x"})
    register(tmp_path, hub=REPO, classes="coco_panoptic", short_side=96)
    code, out, err = pull(dvis)
    assert code == 0, err
    assert sorted(p.name for p in Path(out.strip()).iterdir()) == [
        "config.json",
        "dvis.json",
        "model.safetensors",
    ]
    from dvis_cli.run.loading import load_model

    model = load_model("m")
    assert (model.config.name, model.config.input.short_side) == ("m", 96)
    assert [category.name for category in model.categories] == names
    assert dvis("weights", "add", folder, "--as", "again")[0] == 0
    assert load_model("again").categories == model.categories
