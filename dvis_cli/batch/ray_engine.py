"""Workers that are Ray actors: processes of this machine or of a whole cluster.

Ray finds the machines, starts the workers where there is room, and carries tasks and reports. Which video is next,
what is tried again and what is recorded is decided here as for any other engine.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dvis_cli.errors import DvisError, UsageError

from .engine import Broken, Died, MakeWorker, Message, Task
from .options import BatchOptions, VideoSettings
from .process import cores

_END = object()


class RayWorker:
    """The actor: a model, loaded once, and a thread that uses it while reports stream out."""

    def __init__(
        self, number: int, settings: VideoSettings, threads: int | None, make_worker: MakeWorker | None
    ) -> None:
        self._make_worker = make_worker
        self._number, self._settings, self._threads = number, settings, threads
        self._orders: queue.Queue[Task] = queue.Queue()
        self._reports: queue.Queue[Any] = queue.Queue()
        # One thread for everything: numbers of threads are a thread's own affair in torch.
        threading.Thread(target=self._work, daemon=True).start()

    def load(self) -> Message:
        """Wait for the model."""
        report: Message = self._reports.get()
        return report

    def run(self, task: Task) -> Iterator[Message]:
        """Do a task; what there is to say comes as it happens, how it ended last."""
        self._orders.put(task)
        while (report := self._reports.get()) is not _END:
            yield report

    def _work(self) -> None:
        from .work import Worker

        try:
            worker = (self._make_worker or Worker)(self._number, self._settings, self._threads, None)
        except DvisError as error:
            self._reports.put(Broken(self._number, error))
            return
        except BaseException as error:
            self._reports.put(Broken(self._number, DvisError(f"a worker could not start: {error!r}")))
            return
        self._reports.put(worker.ready)
        while True:
            worker.run(self._orders.get(), self._reports.put)
            self._reports.put(_END)


class RayEngine:
    """Actors with a model each.

    Raises:
        UsageError: Ray is not installed, or cannot be reached.
    """

    def __init__(
        self, settings: VideoSettings, options: BatchOptions, make_worker: MakeWorker | None = None
    ) -> None:
        """`make_worker`: what to run instead of `Worker`; measurements of the scheduler use one without a model."""
        self._ray = import_ray()
        self._settings, self._options = settings, options
        self._make_worker = make_worker
        self._started_ray = False
        self.workers = options.jobs or 0  # the cluster decides
        self._gpus = 0.0
        self._actors: dict[int, Any] = {}
        self._waiting: dict[Any, int] = {}  # what Ray has promised -> the worker it comes from

    def start(self, most: int | None = None) -> None:
        self._connect()
        total = self._ray.cluster_resources()
        cluster_gpus = float(total.get("GPU", 0))
        device = str(self._settings.load.get("device") or "auto")
        wants_gpu = cluster_gpus > 0 and device in ("auto", "cuda")
        self._gpus = self._options.ray_gpus if self._options.ray_gpus is not None else float(wants_gpu)
        if not self.workers:
            room = total.get("CPU", 1) / self._options.ray_cpus
            if self._gpus:
                room = min(room, cluster_gpus / self._gpus)
            self.workers = max(int(room), 1)
        if most is not None:
            self.workers = min(self.workers, most)
        for number in range(self.workers):
            self._spawn(number)

    def submit(self, worker: int, task: Task) -> None:
        stream = self._actors[worker].run.options(num_returns="streaming").remote(task)
        self._waiting[stream] = worker

    def messages(self, timeout: float) -> list[Message]:
        if not self._waiting:
            return []
        ready, _ = self._ray.wait(list(self._waiting), num_returns=1, timeout=timeout)
        more: list[Any] = []
        if ready and len(self._waiting) > 1:
            more, _ = self._ray.wait(list(self._waiting), num_returns=len(self._waiting), timeout=0)
        found: list[Message] = []
        for promise in {id(one): one for one in [*ready, *more]}.values():
            number = self._waiting.pop(promise)
            try:
                found.extend(self._take(promise, number))
            except self._ray.exceptions.RayError as error:
                found.append(Died(number, _reason(error)))
                self._end_actor(number)
                self._spawn(number)
        return found

    def kill(self, worker: int) -> None:
        self._ray.kill(self._actors[worker])

    def stop(self) -> None:
        for number in list(self._actors):
            self._end_actor(number)
        self._waiting.clear()
        if self._started_ray:
            self._ray.shutdown()

    def _take(self, promise: Any, number: int) -> list[Message]:
        """One report; a stream that has more to come is waited for again."""
        if isinstance(promise, self._ray.ObjectRef):
            return [self._ray.get(promise)]
        try:
            reference = next(promise)
        except StopIteration:
            return []
        message: Message = self._ray.get(reference)
        self._waiting[promise] = number
        return [message]

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        address = self._options.ray_address
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "address": address}
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            workers = self._options.jobs or 1
            room = max(cores(), round(workers * self._options.ray_cpus + 0.5))
            options |= {"address": "local", "include_dashboard": False, "num_cpus": room}
        try:
            with _own_signals():
                self._ray.init(**options)
        except Exception as error:
            where = "on this machine" if address is None else f"at {address!r}"
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"Ray cannot be reached {where}: {reason}; check --ray-address") from error
        self._started_ray = True

    def _spawn(self, number: int) -> None:
        threads = self._options.threads or max(int(self._options.ray_cpus), 1)
        actor = self._ray.remote(
            num_cpus=self._options.ray_cpus, num_gpus=self._gpus, max_restarts=0, max_task_retries=0
        )(RayWorker)
        self._actors[number] = actor.remote(number, self._settings, threads, self._make_worker)
        self._waiting[self._actors[number].load.remote()] = number

    def _end_actor(self, number: int) -> None:
        self._ray.kill(self._actors.pop(number))


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep who listens to Ctrl-C and SIGTERM: Ray takes SIGTERM for itself, and ends the process with a stack trace."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: not set from Python
                signal.signal(number, handler)


def import_ray() -> Any:
    """Ray, or the way to get it. Raises `UsageError`."""
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise UsageError("--engine ray needs Ray: pip install 'dvis[ray]'") from None
    return ray


def _reason(error: Exception) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"the Ray worker died: {first[:200]}"
