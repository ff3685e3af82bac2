"""Each video is worked on by one run at a time, whichever machines the runs are on.

A claim is a file that only one run can create, `.dvis/DIGEST.0`. The claim of a dead run is taken over by creating the
next number, `.dvis/DIGEST.1`: again only one run can, and there is always a claim. The highest number counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any

from dvis_cli.errors import DvisError
from dvis_cli.files import process_alive

from .options import os_bytes
from .output import STATE, Output, parse

_BEATS = 10  # signs of life in the time after which a claim is void
FLUSH_EVERY = 5.0  # seconds between two versions of a shared file, at least
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
        """Claim a video. None: it is ours; else who has it. What a dead run left of it is removed."""
        return self._take(_digest(key))

    def stage(self, key: str) -> str:
        """A new place to make a claimed video's result in."""
        return self._output.stage(f"{_digest(key)}.{secrets.token_hex(4)}.work")

    def clean(self, key: str) -> None:
        """Remove what a try at a claimed video left."""
        self._clean(_digest(key))

    def release(self, key: str) -> None:
        """Give a claim up."""
        self._release(_digest(key))

    def sweep(self) -> None:
        """Remove what dead runs left, also of videos that nobody wants any more."""
        for digest in {
            name.partition(".")[0] for name in self._output.state() if "." in name
        } - self._held.keys():
            if self._take(digest) is None:
                self._clean(digest)
                self._release(digest)

    def beat(self) -> None:
        """Show other machines that we live; to be called every now and then."""
        if time.monotonic() - self._beat >= self._stale / _BEATS:
            self._beat = time.monotonic()
            for digest, number in self._held.items():
                with suppress(DvisError):  # a store that is away for a moment
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
        if number:
            self._clean(digest)
        return None

    def _lives(self, name: str, holder: dict[str, Any]) -> bool:
        here = _machine()
        if holder.get("host") == here["host"] and holder.get("boot") != here["boot"]:
            return False  # this machine has been started anew
        pid = holder.get("pid")
        if isinstance(pid, int) and all(holder.get(part) == here[part] for part in here):
            return process_alive(pid) and _start_of(pid) == holder.get("start")
        return self._output.age(name) < self._stale

    def _clean(self, digest: str) -> None:
        for name in self._output.state() if self._output.stage("") else []:
            if name.startswith(f"{digest}.") and name.endswith(".work"):
                self._output.remove(f"{STATE}/{name}")

    def _release(self, digest: str) -> None:
        for number in range(self._held.pop(digest, -1) + 1):
            self._output.remove(f"{STATE}/{digest}.{number}")


class SharedFile(ABC):
    """A small file of an output that runs side by side add to in turn, under a claim, now and then and whole."""

    def __init__(self, name: str, output: Output, claims: Claims) -> None:
        self._name, self._output, self._claims = name, output, claims
        self._next = 0.0  # time.monotonic()

    @abstractmethod
    def _update(self) -> bytes | None:
        """What the file is to hold from what it holds and what is new; None: nothing. The claim is ours."""

    def flush(self, at_once: bool = False) -> bool:
        """Write what is new if it is time; False where that has to be tried again: another run has the file.

        Raises:
            OutputError, TransferError: it cannot be written.
        """
        began = time.monotonic()
        if began < self._next and not at_once:
            return True
        if self._claims.take(self._name) is not None:
            return False
        try:
            data = self._update()
            if data is None:
                self._output.remove(self._name)
            else:
                self._output.write(self._name, data, self._claims.stage(self._name))
            self._written()
        finally:
            self._claims.release(self._name)
        self.wait(max(FLUSH_EVERY, 20 * (time.monotonic() - began)))
        return True

    def _written(self) -> None:  # noqa: B027
        """The file holds what was new."""

    def wait(self, seconds: float) -> None:
        """Leave the file alone for a while."""
        self._next = time.monotonic() + seconds


def _digest(key: str) -> str:
    return hashlib.blake2b(os_bytes(key), digest_size=10).hexdigest()


def _machine() -> dict[str, str]:
    """Host, its start, and the space of its process numbers: containers of one host have several."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {
            "host": socket.gethostname(),
            "boot": boot,
            "space": str(Path("/proc/self/ns/pid").readlink()),
        }
    except OSError:  # no /proc here
        return {"host": socket.gethostname(), "boot": "", "space": ""}


def _start_of(pid: int) -> str:
    """When a process began, so that a number that was given anew is not taken for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
