"""Writing whole files, and what is known of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dvis_cli import files
from dvis_cli.errors import OutputError


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with files.atomic_open(target) as file:
        file.write("half")
        assert not target.exists()
    assert target.read_text() == "half"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(ValueError), files.atomic_open(target) as file:
        file.write("new")
        raise ValueError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*No such file"):
        files.atomic_text(tmp_path / "missing" / "a.txt", "")


def test_cores_and_memory_obey_the_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000")
    (tmp_path / "memory.max").write_text("1073741824")
    monkeypatch.setattr(files, "_cgroup_folders", lambda: [tmp_path])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert files.usable_cores() == 2
    assert files.memory_limit() == 2**30
    (tmp_path / "cpu.max").write_text("max 100000")
    (tmp_path / "memory.max").write_text("max")
    assert files.usable_cores() == 8
    assert files.memory_limit() > 2**20


def test_a_process_is_alive_until_it_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert files.process_alive(process.pid)
        process.kill()
    assert not files.process_alive(process.pid)
