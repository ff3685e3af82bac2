"""Files that appear whole or not at all, and facts about this machine: cores, memory, living processes.

One place for both, so that every room writes and counts alike. The standard library is all it needs.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import OutputError

PARTIAL = ".partial-"  # `.NAME.partial-<pid>-<random>`: a file or folder that is being written


def partial_path(target: Path) -> Path:
    """A hidden name beside `target`, which no other writer uses."""
    return target.with_name(f".{target.name}{PARTIAL}{os.getpid()}-{uuid.uuid4().hex[:8]}")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to; it takes the target's name at the end, or vanishes on an error.

    For libraries that want a path. Raises `OutputError` when the folder cannot be written or the disk is full.
    """
    partial = partial_path(target)
    try:
        yield partial
        partial.replace(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
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
