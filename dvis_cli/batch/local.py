"""Workers that are processes of this machine."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

from dvis_cli.errors import DvisError

from .engine import Broken, Died, MakeWorker, Message, Task
from .options import BatchOptions, VideoSettings
from .process import cores, describe_exit, end_with_parent, memory

_PATIENCE = 3.0  # seconds that a stopped worker has to remove what it was writing


@dataclass
class _Process:
    process: BaseProcess
    pipe: Connection


class LocalEngine:
    """Processes with a model each, fresh interpreters: a forked one could not use a GPU."""

    def __init__(
        self, settings: VideoSettings, options: BatchOptions, make_worker: MakeWorker | None = None
    ) -> None:
        """`make_worker`: what to run instead of `Worker`; must be importable in a fresh interpreter."""
        self._make_worker = make_worker
        self._settings = settings
        device = str(settings.load.get("device") or "auto")
        gpus = count_gpus() if device in ("auto", "cuda") else 0
        self.workers = options.jobs or max(gpus, 1)
        # One process a GPU; a device that was named is used by all.
        self._devices = [f"cuda:{i % gpus}" if gpus else None for i in range(self.workers)]
        self._threads = options.threads or max(cores() // self.workers, 1)
        self._processes: dict[int, _Process] = {}

    def start(self, most: int | None = None) -> None:
        if most is not None:
            self.workers = min(self.workers, most)
        for number in range(self.workers):
            self._spawn(number)

    def submit(self, worker: int, task: Task) -> None:
        with suppress(OSError):  # it died just now: its end will be reported
            self._processes[worker].pipe.send(task)

    def messages(self, timeout: float) -> list[Message]:
        numbers = {one.pipe: number for number, one in self._processes.items()}
        found: list[Message] = []
        for pipe in wait(list(numbers), timeout):
            assert isinstance(pipe, Connection)
            number = numbers[pipe]
            try:
                while pipe.poll():
                    found.append(pipe.recv())
            except (EOFError, OSError):
                found.append(Died(number, self._bury(number)))
                self._spawn(number)
        return found

    def kill(self, worker: int) -> None:
        self._processes[worker].process.kill()

    def stop(self) -> None:
        for one in self._processes.values():
            one.process.terminate()
        end = time.monotonic() + _PATIENCE
        for one in self._processes.values():
            one.process.join(max(end - time.monotonic(), 0.0))
            if one.process.is_alive():
                one.process.kill()
                one.process.join()
            one.pipe.close()
            one.process.close()
        self._processes.clear()

    def _share(self, number: int) -> VideoSettings:
        """The settings of one worker: waiting data of all workers beside GPUs take a quarter of the RAM together."""
        save = self._settings.save
        if self._devices[number] is None or save.get("memory_budget") is not None or not memory():
            return self._settings
        return dataclasses.replace(
            self._settings, save={**save, "memory_budget": memory() // 4 // self.workers}
        )

    def _spawn(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_worker,
            args=(
                theirs,
                number,
                self._share(number),
                self._threads,
                self._devices[number],
                self._make_worker,
            ),
            name=f"dvis-worker-{number}",
            daemon=True,
        )
        # Ctrl-C goes to the whole process group. Workers are told by us, so they inherit that it is held back.
        resource_tracker.ensure_running()  # before: starting it would end the holding back
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._processes[number] = _Process(process, ours)

    def _bury(self, number: int) -> str:
        one = self._processes.pop(number)
        one.pipe.close()
        one.process.join(_PATIENCE)
        if one.process.is_alive():
            one.process.kill()
            one.process.join()
        reason = describe_exit(one.process.exitcode)
        one.process.close()
        return f"the worker was {reason}" if reason.startswith("killed") else f"the worker {reason}"


class _StopNow(BaseException):
    """The run is being stopped: unwind, so that what is half-written is removed."""


def _stop_now(*_unused: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise _StopNow


def _worker(pipe: Connection, number: int, *order: Any) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    try:
        signal.signal(signal.SIGTERM, _stop_now)
        _serve(pipe, number, *order)
    except (_StopNow, BrokenPipeError, EOFError):
        os._exit(0)  # no waiting for threads of libraries


def _serve(
    pipe: Connection,
    number: int,
    settings: VideoSettings,
    threads: int,
    device: str | None,
    make_worker: MakeWorker | None,
) -> None:
    from .work import Worker

    try:
        worker = (make_worker or Worker)(number, settings, threads, device)
    except DvisError as error:
        pipe.send(Broken(number, error))
        pipe.recv()  # the run ends
        return
    pipe.send(worker.ready)
    while True:
        worker.run(pipe.recv(), pipe.send)


def count_gpus() -> int:
    """GPUs of this machine that this process may use. Loads torch only where there may be one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "" or not any(
        Path(device).exists() for device in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    ):
        return 0
    import torch

    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0
