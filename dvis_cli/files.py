"""Files that appear whole or not at all, and facts about this machine: cores, memory, living processes.

One place for both, so that every room writes and counts alike. The standard library is all it needs.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .errors import OutputError

_LONGEST_STEM = 120  # bytes: leaves room for the rest of a hidden name in the usual 255
_TOKEN = uuid.uuid4().hex[:8]  # of this process: in a container every run may have the same pid
# On a shared disk, pids of others mean nothing.
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
_counter = itertools.count()

# OSError covers what Python's own files raise and, by inheritance, FFmpeg's errno-based errors.
_ADVICE = {
    errno.ENOSPC: "no space left on the disk; free some space or choose another output folder",
    errno.EDQUOT: "disk quota used up; free some space or choose another output folder",
    errno.EACCES: "no permission; choose an output folder that you may write to",
    errno.EPERM: "no permission; choose an output folder that you may write to",
    errno.EROFS: "no permission, the disk is read-only; choose another output folder",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter output folder",
}


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into an `OutputError` that names `path` and what to do."""
    try:
        yield
    except OSError as error:
        why = _ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise OutputError(f"cannot write {path}: {why}") from error


def partial_path(target: Path, role: str = "partial") -> Path:
    """A hidden name beside `target`, `.NAME.<role>-<pid>-<random>-<host>`, which no other writer uses."""
    mark = f"{os.getpid()}-{_TOKEN}{next(_counter):x}-{_HOST}"
    return target.with_name(_hidden_prefix(target, role) + mark)


def abandoned(target: Path, role: str) -> list[Path]:
    """The `partial_path`s of `target` whose process is gone, oldest first."""
    pattern = re.compile(re.escape(_hidden_prefix(target, role)) + r"(\d+)-([0-9A-Za-z]+)(?:-([0-9a-f]{6}))?")
    found = []
    with suppress(OSError):
        for path in target.parent.iterdir():
            match = pattern.fullmatch(path.name)
            if match and match[3] in (None, _HOST) and not _in_use(int(match[1]), match[2]):
                found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found)]


def _hidden_prefix(target: Path, role: str) -> str:
    stem = target.name
    if len(os.fsencode(stem)) > _LONGEST_STEM:  # shortened, and still different for different targets
        stem = f"{stem[: _LONGEST_STEM // 4]}-{hashlib.sha256(os.fsencode(stem)).hexdigest()[:12]}"
    return f".{stem}.{role}-"


def _in_use(pid: int, mark: str) -> bool:
    return mark.startswith(_TOKEN) if pid == os.getpid() else process_alive(pid)


def put_in_place(part: Path, target: Path) -> None:
    """Give what was made beside `target` its name. A folder that has it steps aside, and comes back on an error.

    Raises `OSError`; then `part` is still there.
    """
    if not (target.is_dir() or (target.exists() and part.is_dir())):
        part.replace(target)
        return
    aside = partial_path(target, "old")
    target.rename(aside)
    try:
        part.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    remove(aside)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to; it takes the target's name at the end, or vanishes on an error.

    For libraries that want a path. Raises `OutputError` when the folder cannot be written or the disk is full.
    """
    partial = partial_path(target)
    try:
        with output_errors(target):
            yield partial
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_open(target: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a file beside `target` for writing; it takes the target's name at the end, or vanishes on an error.

    Args:
        mode: "w" (UTF-8 unless `options` say otherwise) or "wb".
        options: of `open`, such as `newline`.
    """
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    with atomic_path(target) as partial, partial.open(mode, **options) as file:
        yield file
        file.flush()


def atomic_text(target: Path, text: str) -> None:
    """Write a text file whole."""
    with atomic_open(target) as file:
        file.write(text)


def as_utf8(text: str) -> str:
    """Text with its invalid bytes spelled out (`\\udce9`), as files can hold it."""
    return text.encode("utf-8", "backslashreplace").decode()


def to_json(document: Any, **options: Any) -> str:
    """What `json.dumps` makes, with text as of `as_utf8`: any reader takes it."""
    text = json.dumps(document, ensure_ascii=False, **options)
    return re.sub("[\ud800-\udfff]", lambda byte: f"\\\\u{ord(byte[0]):x}", text)


def usable_cores() -> int:
    """CPU cores that this process may use: its affinity, and the CPU quota of its cgroup."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        cores = os.cpu_count() or 1
    quota = _cgroup_cores()
    return max(1, cores if quota is None else min(cores, quota))


def memory_limit() -> int:
    """Bytes of RAM that this process may use: the machine's, or its cgroup's limit where that is lower."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # a system that does not tell
        machine = 8 * 2**30
    limits = [limit for name in _MEMORY_FILES for limit in _cgroup_numbers(name)]
    return min([machine, *limits])


def process_alive(pid: int) -> bool:
    """Whether a process of this machine runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OverflowError:  # no pid at all
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):  # no /proc here: signals are all there is
        return True


_CGROUP = Path("/sys/fs/cgroup")
_MEMORY_FILES = ("memory.max", "memory/memory.limit_in_bytes")  # version 2, version 1


def _cgroup_folders() -> list[Path]:
    """This process's own cgroup and all above it, down to the root (a container sees itself as the root)."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return [_CGROUP]
    own = next((line[3:] for line in lines if line.startswith("0::")), "/").strip("/")
    parts = [part for part in own.split("/") if part not in ("", "..")]
    return [_CGROUP.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _cgroup_numbers(name: str) -> list[int]:
    """The numbers in a cgroup's file, of this process's cgroup and those above; "max" is none."""
    found = []
    for folder in _cgroup_folders():
        try:
            text = (folder / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            found.append(int(text))
    return found


def _cgroup_cores() -> int | None:
    quotas = []
    for folder in _cgroup_folders():
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if quota.isdigit() and period.isdigit():
            quotas.append(-(-int(quota) // int(period)))
    return min(quotas, default=None)
