"""Processes: which live, and how a worker ends with its parent."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def host_mark() -> str:
    """A short mark of this machine: on a shared disk a process number says nothing about another one's."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs. One that ended and was not yet collected does not."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    try:
        facts = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return facts.rpartition(")")[2].split()[0] not in ("Z", "X")


def cores() -> int:
    """CPU cores that this process may use."""
    try:
        return max(len(os.sched_getaffinity(0)), 1)
    except (AttributeError, OSError):  # macOS
        return os.cpu_count() or 1


def memory() -> int:
    """Bytes of RAM of this machine; 0 when it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def end_with_parent() -> None:
    """Have a worker killed the moment its parent ends, however that ends.

    A worker that outlived a killed run could put its result in place while the next run makes another one.
    """
    parent = parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # For systems without that call, and for a parent that ended before it.
    threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), name="dvis-parent", daemon=True).start()


def describe_exit(code: int | None) -> str:
    """How a process ended, and the usual reason."""
    if code is None:
        return "lost"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = {"SIGKILL": ", perhaps by the system for want of memory", "SIGSEGV": ", a crash in a library"}
    return f"killed by {name}{hint.get(name, '')}"
