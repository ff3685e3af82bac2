"""One run at a time on one output.

The lock is a file with the name of who holds it. Where the system has it, the operating system's own lock on that
file decides: it ends with its process, so that a killed run leaves nothing to clean up. The name in the file
decides between machines, where such locks may not reach: its holder touches it, and a file that nobody touched for
minutes is a dead run's.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from dvis_cli.errors import OutputError
from dvis_cli.files import output_errors

from .places import TransferError, join, read_bytes, remove_remote, write_bytes
from .process import is_alive

NAME = ".dvis-lock"
BEAT = 30.0  # seconds between touches
STALE = 300.0  # seconds without a touch after which another machine's run is taken for dead


class LockedError(OutputError):
    """Another run works on this output. Exit code 4."""

    exit_code = 4


class RunLock:
    """Context manager: nobody else runs on `folder`, or on this part of it.

    Parts I/N of one N may run at the same time; runs with another N, or without parts, may not.

    Raises:
        LockedError: another run holds it.
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, shard: tuple[int, int] | None = None) -> None:
        self.folder, self.shard = folder, shard
        self.path = folder / (NAME if shard is None else f"{NAME}.{shard[0]}-of-{shard[1]}")
        self.took_over: str | None = None  # of whom, when the lock was a dead run's
        self._file = -1
        self._beat = _Beat(self._touch)

    def __enter__(self) -> RunLock:
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._acquire()
        try:
            self._refuse_other_parts()
        except BaseException:
            self._release()
            raise
        self._beat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._beat.stop()
        self._release()

    def _acquire(self) -> None:
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                held = _lock(descriptor)
                same_file = self._is_current(descriptor)
                if held is False and same_file:
                    raise _refusal(self.folder, _holder(descriptor))
                if not same_file:  # it was released, and removed, between our two looks
                    os.close(descriptor)
                    continue
                earlier = _holder(descriptor)
                if earlier and _still_lives(
                    earlier, os.fstat(descriptor).st_mtime, self.folder, held is True
                ):
                    raise _refusal(self.folder, earlier)
            except BaseException:
                with suppress(OSError):
                    os.close(descriptor)
                raise
            break
        self.took_over = _shown(earlier) if earlier else None
        self._file = descriptor
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _signature(), 0)

    def _is_current(self, descriptor: int) -> bool:
        try:
            here = self.path.stat()
        except FileNotFoundError:
            return False
        return (here.st_dev, here.st_ino) == (os.fstat(descriptor).st_dev, os.fstat(descriptor).st_ino)

    def _refuse_other_parts(self) -> None:
        for path in self.folder.glob(f"{NAME}*"):
            match = re.fullmatch(re.escape(NAME) + r"(?:\.(\d+)-of-(\d+))?", path.name)
            if match is None or path == self.path:
                continue
            if self.shard is not None and match[2] == str(self.shard[1]):
                continue  # another part of the same whole
            holder = _living_holder(path)
            if holder is not None:
                raise _refusal(self.folder, holder)

    def _touch(self) -> None:
        os.utime(self._file if os.utime in os.supports_fd else self.path)

    def _release(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                self.path.unlink()  # while it is locked: who waits for it sees that it is another file now
            os.close(self._file)
            self._file = -1


class RemoteLock:
    """The same for an output behind an address, as far as a store allows.

    A store cannot refuse the second of two writers that come within the same moment; runs that start seconds
    apart are kept apart.
    """

    def __init__(self, url: str, shard: tuple[int, int] | None = None) -> None:
        self._url = url
        self._lock_url = join(url, NAME if shard is None else f"{NAME}.{shard[0]}-of-{shard[1]}")
        self.took_over: str | None = None
        self._beat = _Beat(self._write)

    def __enter__(self) -> RemoteLock:
        earlier = _parse(read_bytes(self._lock_url) or b"")
        if earlier:
            here = earlier.get("host") == socket.gethostname()
            fresh = time.time() - float(earlier.get("time", 0)) < STALE
            if (here and is_alive(int(earlier["pid"])) and int(earlier["pid"]) != os.getpid()) or (
                not here and fresh
            ):
                raise _refusal(self._url, earlier)
            self.took_over = _shown(earlier)
        self._write()
        self._beat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._beat.stop()
        with suppress(TransferError):
            remove_remote(self._lock_url)

    def _write(self) -> None:
        write_bytes(self._lock_url, _signature())


class _Beat:
    """Calls a function every now and then, in a thread."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dvis-lock", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(BEAT):
            with suppress(OSError, TransferError):
                self._beat()


def _lock(descriptor: int) -> bool | None:
    """True: we have it; False: somebody else has it; None: this file system has no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN):
            return False
        return None
    return True


def _living_holder(path: Path) -> dict[str, Any] | None:
    """Who holds another lock file, None when nobody does."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        held, holder = _lock(descriptor), _holder(descriptor)
        if held is False:
            return holder or {"pid": "?", "host": "?"}
        mtime = os.fstat(descriptor).st_mtime
        return holder if holder and _still_lives(holder, mtime, path.parent, held is True) else None
    finally:
        os.close(descriptor)


def _still_lives(holder: dict[str, Any], touched: float, folder: Path, have_lock: bool) -> bool:
    """Whether the run that wrote its name goes on, though the system's lock did not say so."""
    if holder.get("host") == socket.gethostname():
        pid = holder.get("pid")
        return not have_lock and isinstance(pid, int) and pid != os.getpid() and is_alive(pid)
    return _now_on(folder) - touched < STALE


def _now_on(folder: Path) -> float:
    """The time by the clock that stamps this folder's files, which may be a server's."""
    probe = folder / f".dvis-clock-{os.getpid()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink()


def _holder(descriptor: int) -> dict[str, Any]:
    return _parse(os.pread(descriptor, 4096, 0))


def _parse(data: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        document = json.loads(data)
        if isinstance(document, dict) and "pid" in document:
            return document
    return {}


def _signature() -> bytes:
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}).encode()


def _shown(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"


def _refusal(place: Path | str, holder: dict[str, Any]) -> LockedError:
    return LockedError(
        f"another run is writing to {place} ({_shown(holder)}); wait for it, stop it, or choose another output "
        "folder (parts of one run: --shard I/N)"
    )
