"""Each video is worked on by one run at a time, whichever machines the runs are on.

A claim is a file that only one run can create, `.dvis/DIGEST.0`. The claim of a dead run is taken over by creating the
next number, `.dvis/DIGEST.1`: again only one run can, and there is always a claim. The highest number counts. What is
made under a claim lies in `.dvis/DIGEST.0.work/` and is removed with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from dvis_cli.errors import DvisError
from dvis_cli.files import process_alive

from .output import STATE, Output, parse

_BEATS = 10  # signs of life in the time after which a claim is void
_TRIES = 50  # to read a claim that is still empty


class Claims:
    """The claims of this run on videos of an output.

    Args:
        stale: seconds without a sign of life after which a claim of another machine is void.
    """

    def __init__(self, output: Output, stale: float) -> None:
        self._output, self._stale = output, stale
        self._held: dict[str, int] = {}  # digest -> number
        self._me = json.dumps({"pid": os.getpid(), "start": _start_of(os.getpid()), **_machine()}).encode()
        self._beat = time.monotonic()

    def take(self, key: str) -> str | None:
        """Claim a video. None: it is ours; else who has it."""
        return self._take(_digest(key))

    def stage(self, key: str) -> str:
        """A new folder or file to make something of a claimed video in, which goes with the claim; "": anywhere."""
        digest = _digest(key)
        return self._output.stage(f"{digest}.{self._held[digest]}.work/{secrets.token_hex(4)}")

    def release(self, key: str) -> None:
        """Give a claim up, if it is ours."""
        self._release(_digest(key))

    def sweep(self) -> None:
        """Remove what dead runs left, also of videos that nobody wants any more."""
        for digest in {name.partition(".")[0] for name in self._output.state() if "." in name}:
            if self._take(digest) is None:
                self._release(digest)

    def beat(self) -> None:
        """Show other machines that we live; to be called every now and then."""
        if time.monotonic() - self._beat >= self._stale / _BEATS:
            self._beat = time.monotonic()
            for digest, number in list(self._held.items()):
                with suppress(DvisError):  # a store that is away for a moment, a claim just released
                    self._output.touch(f"{STATE}/{digest}.{number}", self._me)

    def _take(self, digest: str) -> str | None:
        number = 0
        while not self._output.create(name := f"{STATE}/{digest}.{number}", self._me):
            for _ in range(_TRIES):
                data, newer = self._output.read([name, f"{STATE}/{digest}.{number + 1}"])
                if data != b"":
                    break
                time.sleep(0.01)  # just created: its owner is about to write its name into it
            if newer is None and data is not None and self._lives(name, holder := parse(data)):
                return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
            number += 1
        self._held[digest] = number
        return None

    def _lives(self, name: str, holder: dict[str, Any]) -> bool:
        here = _machine()
        if holder.get("host") == here["host"] and holder.get("boot") != here["boot"]:
            return False  # this machine has been started anew
        pid = holder.get("pid")
        if isinstance(pid, int) and all(holder.get(part) == here[part] for part in here):
            return process_alive(pid) and _start_of(pid) == holder.get("start")
        return self._output.age(name) < self._stale

    def _release(self, digest: str) -> None:
        for number in range(self._held.pop(digest, -1) + 1):
            if self._output.stage(""):
                self._output.remove(f"{STATE}/{digest}.{number}.work")
            self._output.remove(f"{STATE}/{digest}.{number}")


def _digest(key: str) -> str:
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=10).hexdigest()


def _machine() -> dict[str, str]:
    """Host, its start, and the space of its process numbers: containers of one host have several."""
    host, boot, space = socket.gethostname(), "", ""
    with suppress(OSError):  # no /proc here
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = str(Path("/proc/self/ns/pid").readlink())
    return {"host": host, "boot": boot, "space": space}


def _start_of(pid: int) -> str:
    """When a process began, so that a number that was given anew is not taken for it."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
