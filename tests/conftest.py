"""Fixtures that several test files share."""

from __future__ import annotations

import os
import sys

# Networks here are tiny: threads that wait for one another cost more than they win, and most where others work, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["DVIS_MODEL"] = "tiny"  # what commands use that name no model; the bundled one is slower

import pytest
from goldens import NETWORKS, Golden
from hypothesis import settings

from dvis_cli import cli

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
