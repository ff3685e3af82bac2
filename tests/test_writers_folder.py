"""The output folder appears whole or not at all, and nothing of the user's is lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvis_cli.errors import OutputError
from dvis_cli.writers.folder import AtomicFolder, check_target, safe_name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def old_result(target: Path, text: str = "old") -> Path:
    target.mkdir(parents=True)
    (target / "segments.json").write_text(text)
    return target


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_appears_at_the_end_only(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "clip"
    with AtomicFolder(target) as folder:
        (folder.path / "segments.json").write_text("new")
        assert not target.exists()
        assert re.fullmatch(r"\.clip\.partial-\d+-[0-9a-z-]+", folder.path.name)
        assert folder.path.parent == target.parent
    assert names(target) == ["segments.json"] and names(target.parent) == ["clip"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_removes_everything_and_keeps_the_old(
    tmp_path: Path, error: type[BaseException]
) -> None:
    old_result(tmp_path / "out" / "clip")
    for target in (tmp_path / "out" / "clip", tmp_path / "fresh" / "deep" / "clip"):
        with pytest.raises(error), AtomicFolder(target, overwrite=True) as folder:
            (folder.path / "segments.json").write_text("new")
            raise error
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["clip"]
    assert (tmp_path / "out" / "clip" / "segments.json").read_text() == "old"


def test_overwrite_replaces_the_whole_folder(tmp_path: Path) -> None:
    target = old_result(tmp_path / "clip")
    (target / "panoptic").mkdir()
    with AtomicFolder(target, overwrite=True) as folder:
        (folder.path / "segments.json").write_text("new")
    assert names(tmp_path) == ["clip"] and names(target) == ["segments.json"]
    assert (target / "segments.json").read_text() == "new"


def test_a_failed_exchange_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = old_result(tmp_path / "clip")
    rename = Path.rename

    def fail_for_the_new(self: Path, to: Path) -> Path:
        if ".partial-" in self.name:
            raise PermissionError(13, "no")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(OutputError, match="permission"), AtomicFolder(target, overwrite=True) as folder:
        (folder.path / "segments.json").write_text("new")
    assert names(tmp_path) == ["clip"] and (target / "segments.json").read_text() == "old"


def test_refuses_what_exists(tmp_path: Path) -> None:
    target = old_result(tmp_path / "clip")
    with pytest.raises(OutputError, match="--overwrite"):
        check_target(target, overwrite=False)
    check_target(target, overwrite=True)
    check_target(tmp_path / "other", overwrite=False)
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty", overwrite=True)


def test_overwrite_never_destroys_what_is_not_ours(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_text("")
    mixed = old_result(tmp_path / "mixed")
    (mixed / "notes.txt").write_text("")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(old_result(tmp_path / "real"))
    for name, words in [
        ("photos", "holiday.jpg"),
        ("mixed", "notes.txt"),
        ("file", "is a file"),
        ("link", "symbolic link"),
    ]:
        with pytest.raises(OutputError, match=words), AtomicFolder(tmp_path / name, overwrite=True):
            pytest.fail("entered")
    assert names(tmp_path) == ["file", "link", "mixed", "photos", "real"]


def test_refuses_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="not a folder"):
        check_target(tmp_path / "file" / "clip", overwrite=False)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere, so ask for it
    with pytest.raises(OutputError, match="no permission"):
        check_target(tmp_path / "clip", overwrite=False)


@pytest.mark.parametrize("name", ["..", "a/..", "a\nb", "a\0b"])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="cannot be the name"):
        check_target(tmp_path / name, overwrite=True)


@given(st.text())
def test_a_safe_name_stays_in_its_folder(name: str) -> None:
    safe = safe_name(name)
    assert Path("out", safe).parent == Path("out") and not safe.startswith(".")
    assert 0 < len(os.fsencode(safe)) <= 120
    assert safe_name(safe) == safe


def test_a_killed_run_is_cleaned_up_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from dvis_cli.writers.folder import AtomicFolder\n"
        "with AtomicFolder(Path(sys.argv[1])) as folder:\n"
        "    (folder.path / 'segments.json').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "clip")], check=False, cwd=root)
    assert len(names(tmp_path)) == 1 and ".clip.partial-" in names(tmp_path)[0]
    other = tmp_path / f".other.partial-{dead_pid()}-abcd"
    running = tmp_path / f".clip.partial-{os.getppid()}-abcd"
    elsewhere = tmp_path / f".clip.partial-{dead_pid()}-abcd-000000"  # of another machine
    for folder in (other, running, elsewhere):
        folder.mkdir()
    with AtomicFolder(tmp_path / "clip"):
        pass
    assert names(tmp_path) == sorted(["clip", other.name, running.name, elsewhere.name])


def test_two_runs_in_one_process_do_not_disturb_each_other(tmp_path: Path) -> None:
    with AtomicFolder(tmp_path / "clip") as first:
        with pytest.raises(ValueError), AtomicFolder(tmp_path / "clip"):
            assert first.path.exists()
            raise ValueError
        assert first.path.exists()
    assert names(tmp_path) == ["clip"]


def test_the_slower_of_two_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="already exists"), AtomicFolder(tmp_path / "clip"):
        old_result(tmp_path / "clip")
    assert names(tmp_path) == ["clip"] and (tmp_path / "clip" / "segments.json").read_text() == "old"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_crash_in_the_middle_of_the_exchange_loses_nothing(tmp_path: Path, overwrite: bool) -> None:
    # What a kill between the two renames leaves: the old folder aside, the new one still hidden.
    pid = dead_pid()
    old_result(tmp_path / f".clip.old-{pid}-abcd")
    (tmp_path / f".clip.partial-{pid}-abcd").mkdir()
    if not overwrite:
        with pytest.raises(OutputError, match="already exists"):
            check_target(tmp_path / "clip", overwrite=False)
        assert (tmp_path / "clip" / "segments.json").read_text() == "old"
        return
    with pytest.raises(ValueError), AtomicFolder(tmp_path / "clip", overwrite=True):
        raise ValueError
    assert names(tmp_path) == ["clip"]
    assert (tmp_path / "clip" / "segments.json").read_text() == "old"


def test_long_names_work(tmp_path: Path) -> None:
    for name in ("x" * 250, "x" * 249 + "y"):
        with AtomicFolder(tmp_path / name) as folder:
            shutil.copy(__file__, folder.path)
    assert len(names(tmp_path)) == 2
