"""Fixtures that several test files share."""

from __future__ import annotations

import os
import sys

# Networks here are tiny: threads that wait for one another cost more than they win, and most where others work, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["DVIS_MODEL"] = "tiny"  # what commands use that name no model; the bundled one is slower

from pathlib import Path

import pytest
import weights_server
from goldens import NETWORKS, Golden
from hypothesis import settings
from weights_server import DATA, REPO, register

from dvis_cli import cli
from dvis_cli.checkpoints import download

# A new counter-example should stop the person who is changing the code, not somebody else's landing.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session", params=NETWORKS)
def golden(request: pytest.FixtureRequest) -> Golden:
    """Each recorded network in turn."""
    return Golden.load(request.param)


@pytest.fixture(autouse=True)
def _own_weights_folder(tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the person who runs the tests has installed must not matter."""
    monkeypatch.setenv("DVIS_WEIGHTS", str(tmp_path_factory.getbasetemp() / "no-weights"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-config"))
    monkeypatch.delenv("DVIS_DEBUG", raising=False)


@pytest.fixture
def dvis(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Run a command in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dvis", *map(str, arguments)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return run


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


@pytest.fixture(params=["plain", "hub"])
def place(request, server: weights_server.Server, tmp_path: Path):
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
