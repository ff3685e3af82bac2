"""Workers that are processes of this machine."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from dvis_cli.files import memory_limit, usable_cores
from dvis_cli.run.options import SegmentOptions

from .options import BatchOptions
from .work import MakeWorker, Message, Task, WorkerDiedError, serve

_PATIENCE = 3.0  # seconds that a worker which closed its pipe has to end


class LocalEngine:
    """Processes with a model each, numbered from 0: fresh interpreters, because a forked one could not use a GPU."""

    def __init__(
        self, segment: SegmentOptions, options: BatchOptions, make_worker: MakeWorker | None = None
    ) -> None:
        """`make_worker`: what to run instead of `Worker`; must be importable in a fresh interpreter."""
        self._make_worker, self._segment = make_worker, segment
        self._gpus = count_gpus() if segment.device in ("auto", "cuda") else 0
        self.workers = options.jobs or max(self._gpus, 1)

    def connect(self) -> int:
        """Get ready to start workers; how many there will be. Raises `DvisError` when there can be none."""
        return self.workers

    def start(self, number: int) -> LocalWorker:
        """Start a worker, or another in the place of one that died."""
        return LocalWorker(number, self._share(number), self._make_worker)

    def close(self) -> None:
        """Let go of what `connect` took."""

    def _share(self, number: int) -> SegmentOptions:
        """What one worker has of the machine: a GPU where there are any, cores, and of its memory a quarter in all."""
        own: dict[str, Any] = {"threads": self._segment.threads or max(usable_cores() // self.workers, 1)}
        if self._gpus:  # a device that was named is used by all
            own["device"] = f"cuda:{number % self._gpus}"
        if self._segment.memory_budget is None and (
            self._gpus or self._segment.device not in ("auto", "cpu")
        ):
            own["memory_budget"] = memory_limit() // 4 // self.workers
        return dataclasses.replace(self._segment, **own)


class LocalWorker:
    """A process, and a pipe to it."""

    def __init__(self, number: int, options: SegmentOptions, make_worker: MakeWorker | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_work,
            args=(theirs, number, options, make_worker),
            name=f"dvis-worker-{number}",
            daemon=True,
        )
        # Ctrl-C goes to the whole process group. Workers are told by us, so they inherit that it is held back.
        resource_tracker.ensure_running()  # before: starting it would end the holding back
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def send(self, task: Task) -> None:
        """Give it a task when it is ready."""
        with suppress(OSError):  # it died just now, as `receive` will tell
            self._pipe.send(task)

    def receive(self) -> Message:
        """Wait for what it says next. Raises `WorkerDiedError`, and then it is."""
        try:
            message: Message = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(_PATIENCE)
            self._process.kill()
            self._process.join()
            raise WorkerDiedError(describe_exit(self._process.exitcode)) from None
        return message

    def kill(self) -> None:
        """End it at once; what it had begun is for others to remove."""
        self._process.kill()


def _work(pipe: Connection, number: int, options: SegmentOptions, make_worker: MakeWorker | None) -> None:
    """A worker process. It ends with its parent, however that ends: its memory and cores are for the next run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None
    watch = threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True)
    watch.start()
    try:
        serve(number, options, make_worker, pipe.recv, pipe.send)
    except (BrokenPipeError, EOFError):
        os._exit(0)  # no waiting for threads of libraries


def describe_exit(code: int | None) -> str:
    """How a worker process ended, and the usual reason."""
    if code is None or code >= 0:
        return "the worker was lost" if code is None else f"the worker ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = {"SIGKILL": ", perhaps by the system for want of memory", "SIGSEGV": ", a crash in a library"}
    return f"the worker was killed by {name}{hint.get(name, '')}"


def count_gpus() -> int:
    """GPUs of this machine that this process may use. Loads torch only where there may be one."""
    drivers = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not any(Path(device).exists() for device in drivers):
        return 0
    import torch

    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0
