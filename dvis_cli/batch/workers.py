"""Workers: processes of this machine, or Ray actors, processes of this machine or of a whole cluster.

Ray finds the machines, starts the workers where there is room, and carries tasks and reports. Which video is next,
what is tried again and what is recorded is decided by the scheduler for both alike.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from dvis_cli.errors import UsageError
from dvis_cli.files import memory_limit, usable_cores
from dvis_cli.run.options import SegmentOptions

from .options import BatchOptions
from .output import one_line
from .work import MakeWorker, Message, Progress, Task, WorkerDiedError, serve

_NAME = "dvis-worker-"
_PATIENCE = 3.0  # seconds that a worker which closed its pipe has to end
_KILLED = 0.2  # seconds: how soon it is noticed that an actor was killed


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
        """Start a worker, or another in the place of one that died. It has its share of cores, GPUs and memory."""
        own = replace(self._segment, threads=self._segment.threads or max(usable_cores() // self.workers, 1))
        if self._gpus:  # a device that was named is used by all
            own = replace(own, device=f"cuda:{number % self._gpus}")
        if _needs_budget(self._segment, self._gpus):
            own = replace(own, memory_budget=memory_limit() // 4 // self.workers)
        return LocalWorker(number, own, self._make_worker)

    def close(self) -> None:
        """Let go of workers that were ended, and of what `connect` took."""
        for child in multiprocessing.active_children():
            if child.name.startswith(_NAME):
                child.join()


class LocalWorker:
    """A process, and a pipe to it."""

    def __init__(self, number: int, options: SegmentOptions, make_worker: MakeWorker | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_work,
            args=(theirs, number, options, make_worker),
            name=f"{_NAME}{number}",
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
        """Wait for what it says next. Raises `WorkerDiedError` when it is gone."""
        try:
            message: Message = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(_PATIENCE)
            self._process.kill()
            self._process.join()
            raise WorkerDiedError(_describe_exit(self._process.exitcode)) from None
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


def _describe_exit(code: int | None) -> str:
    """How a worker process ended, and the usual reason."""
    if code is None or code >= 0:
        return f"the worker ended with exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        hint = {"SIGKILL": ", perhaps by the system for want of memory", "SIGSEGV": ", a crash in a library"}
        return f"the worker was killed by {name}{hint.get(name, '')}"
    return f"the worker was killed by signal {-code}"


def count_gpus() -> int:
    """GPUs of this machine that this process may use. Loads torch only where there may be one."""
    drivers = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not any(Path(device).exists() for device in drivers):
        return 0
    import torch

    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0


def _needs_budget(options: SegmentOptions, gpus: float) -> bool:
    """Whether a worker's memory has to be limited: its network is on a GPU, and nobody said how much it may have."""
    return options.memory_budget is None and bool(gpus or options.device not in ("auto", "cpu"))


class RayWorker:
    """The actor: a thread with a model, and its reports, which stream out."""

    def __init__(
        self, number: int, options: SegmentOptions, sharers: int, make_worker: MakeWorker | None
    ) -> None:
        """`sharers`: workers that share this machine's memory, where a budget is to be set."""
        self._orders: queue.Queue[Task] = queue.Queue()
        self._reports: queue.Queue[Message] = queue.Queue()
        if sharers:
            options = replace(options, memory_budget=memory_limit() // 4 // sharers)
        # One thread for everything: numbers of threads are a thread's own affair in torch.
        order = (number, options, make_worker, self._orders.get, self._reports.put)
        threading.Thread(target=serve, args=order, daemon=True).start()

    def run(self, task: Task | None) -> Iterator[Message]:
        """Do a task, or (None) load the model: what there is to tell as it happens, how it ended last."""
        if task is not None:
            self._orders.put(task)
        while isinstance(report := self._reports.get(), (Progress, str)):
            yield report
        yield report


class RayEngine:
    """Actors with a model, used as `LocalEngine` is. Raises `UsageError` when there is no Ray, or no cluster."""

    def __init__(
        self, segment: SegmentOptions, options: BatchOptions, make_worker: MakeWorker | None = None
    ) -> None:
        """`make_worker`: what to run instead of `Worker`; measurements of the scheduler use one without a model."""
        try:
            import ray
            import ray.exceptions
        except ImportError:
            raise UsageError("--engine ray needs Ray: pip install 'dvis[ray]'") from None
        self._ray: Any = ray
        self._segment, self._options, self._make_worker = segment, options, make_worker
        self._started_ray = False
        self.workers = options.jobs or 0  # the cluster decides
        self._gpus = 0.0  # of a worker
        self._sharers = 0

    def connect(self) -> int:
        self._join()
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        cpus, segment = self._options.ray_cpus, self._segment
        wants_gpu = any(node.get("GPU") for node in nodes) and segment.device in ("auto", "cuda")
        self._gpus = self._options.ray_gpus if self._options.ray_gpus is not None else float(wants_gpu)

        def room(resources: dict[str, float]) -> int:
            gpus = resources.get("GPU", 0) / self._gpus if self._gpus else float("inf")
            return int(min(resources.get("CPU", 0) / cpus, gpus))

        self.workers = self.workers or max(sum(map(room, nodes)), 1)
        if _needs_budget(segment, self._gpus):
            self._sharers = max(min(self.workers, max(map(room, nodes), default=1)), 1)
        self._segment = replace(segment, threads=segment.threads or max(int(cpus), 1))
        return self.workers

    def start(self, number: int) -> RayHandle:
        options = {"num_cpus": self._options.ray_cpus, "num_gpus": self._gpus}
        actor = self._ray.remote(**options, max_restarts=0, max_task_retries=0)(RayWorker)
        return RayHandle(self._ray, actor.remote(number, self._segment, self._sharers, self._make_worker))

    def close(self) -> None:
        if self._started_ray:
            self._ray.shutdown()

    def _join(self) -> None:
        if self._ray.is_initialized():
            return
        address = self._options.ray_address
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "address": address}
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            room = max(usable_cores(), round((self._options.jobs or 1) * self._options.ray_cpus + 0.5))
            options |= {"address": "local", "include_dashboard": False, "num_cpus": room}
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._ray.init(**options)
        except Exception as error:
            where = f"at {address!r}" if address else "on this machine"
            why = f"{one_line(error)[:200]}; check --ray-address"
            raise UsageError(f"Ray cannot be reached {where}: {why}") from error
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():  # Ray takes SIGTERM for itself, and ends the process
                signal.signal(number, handler)
        self._started_ray = True


class RayHandle:
    """An actor, used as `LocalWorker` is."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor, self._killed = ray, actor, False
        self.send(None)

    def send(self, task: Task | None) -> None:
        self._stream = self._actor.run.options(num_returns="streaming").remote(task)

    def receive(self) -> Message:
        try:
            # A Ray that is ended by the same signal as we does not end its actors.
            while not self._ray.wait([self._stream], timeout=_KILLED)[0]:
                if self._killed:
                    raise WorkerDiedError("the Ray worker was ended")
            message: Message = self._ray.get(next(self._stream))
        except (StopIteration, self._ray.exceptions.RayError) as error:
            lines = (line.strip() for line in str(error).splitlines())
            reason = next(filter(None, lines), type(error).__name__)
            raise WorkerDiedError(f"the Ray worker died: {reason[:200]}") from None
        return message

    def kill(self) -> None:
        self._killed = True
        self._ray.kill(self._actor)


Engine = LocalEngine | RayEngine
