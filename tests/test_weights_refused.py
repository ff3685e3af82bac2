"""`dvis weights pull` where it must not work: one clear line, and nothing broken."""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import weights_server
from goldens import FOLDER
from weights_server import DATA, REPO, SHA, Server, nothing, pull, register, whole

from dvis_cli.checkpoints import download, hub
from dvis_cli.errors import CheckpointError, UsageError

pytest.importorskip("huggingface_hub")


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
        download.fetch(file, tmp_path / "x", lambda size, total: None)
    served.data = DATA + b"x" * 100
    with pytest.raises(CheckpointError, match="sends more than"):
        download.fetch(file, tmp_path / "x", lambda size, total: None)
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
