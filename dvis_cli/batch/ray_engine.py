"""Workers that are Ray actors: processes of this machine or of a whole cluster.

Ray finds the machines, starts the workers where there is room, and carries tasks and reports. Which video is next,
what is tried again and what is recorded is decided here as for any other engine.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from dvis_cli.errors import UsageError
from dvis_cli.files import memory_limit, usable_cores
from dvis_cli.run.options import SegmentOptions

from .addresses import one_line
from .messages import Died, Finished, Message, Task
from .options import BatchOptions
from .work import MakeWorker, serve


class RayWorker:
    """The actor: a thread with a model, and its reports, which stream out."""

    def __init__(
        self, number: int, options: SegmentOptions, sharers: int | None, make_worker: MakeWorker | None
    ) -> None:
        """`sharers`: workers that share this machine's memory, where a budget is to be set."""
        if sharers is not None:
            options = dataclasses.replace(options, memory_budget=memory_limit() // 4 // sharers)
        self._orders: queue.Queue[Task] = queue.Queue()
        self._reports: queue.Queue[Message] = queue.Queue()
        # One thread for everything: numbers of threads are a thread's own affair in torch.
        order = (number, options, make_worker, self._orders.get, self._reports.put)
        threading.Thread(target=serve, args=order, daemon=True).start()

    def load(self) -> Message:
        """Wait for the model."""
        return self._reports.get()

    def run(self, task: Task) -> Iterator[Message]:
        """Do a task; what there is to tell comes as it happens, how it ended last."""
        self._orders.put(task)
        report = None
        while not isinstance(report, Finished):
            yield (report := self._reports.get())


class RayEngine:
    """Actors with a model, used as `LocalEngine` is. Raises `UsageError` when there is no Ray, or no cluster."""

    def __init__(
        self, segment: SegmentOptions, options: BatchOptions, make_worker: MakeWorker | None = None
    ) -> None:
        """`make_worker`: what to run instead of `Worker`; measurements of the scheduler use one without a model."""
        self._ray = import_ray()
        self._segment, self._options, self._make_worker = segment, options, make_worker
        self._started_ray = False
        self.workers = options.jobs or 0  # the cluster decides
        self._gpus = 0.0  # of a worker
        self._sharers: int | None = None
        self._actors: dict[int, Any] = {}
        self._waiting: dict[Any, int] = {}  # what Ray has promised -> the worker it comes from
        self._killed: list[Message] = []

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
        if segment.memory_budget is None and (self._gpus or segment.device not in ("auto", "cpu")):
            self._sharers = max(min(self.workers, max(map(room, nodes), default=1)), 1)
        threads = segment.threads or max(int(cpus), 1)
        self._segment = dataclasses.replace(segment, threads=threads)
        return self.workers

    def start(self, worker: int) -> None:
        options = {"num_cpus": self._options.ray_cpus, "num_gpus": self._gpus}
        actor = self._ray.remote(**options, max_restarts=0, max_task_retries=0)(RayWorker)
        self._actors[worker] = actor.remote(worker, self._segment, self._sharers, self._make_worker)
        self._waiting[self._actors[worker].load.remote()] = worker

    def submit(self, worker: int, task: Task) -> None:
        stream = self._actors[worker].run.options(num_returns="streaming").remote(task)
        self._waiting[stream] = worker

    def messages(self, timeout: float) -> list[Message]:
        found, self._killed = self._killed, []
        waiting = list(self._waiting)
        if not waiting:
            time.sleep(0 if found else timeout)
            return found
        ready, _ = self._ray.wait(waiting, num_returns=1, timeout=0 if found else timeout)
        if ready and len(waiting) > 1:
            ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        for promise in ready:
            number = self._waiting.pop(promise)
            try:
                found.extend(self._take(promise, number))
            except self._ray.exceptions.RayError as error:
                self._forget(number)
                found.append(Died(number, _reason(error)))
        return found

    def kill(self, worker: int) -> None:
        if worker not in self._actors:
            return
        self._forget(worker)
        self._killed.append(Died(worker, "the Ray worker died: it was ended"))

    def stop(self) -> None:
        for number in list(self._actors):
            self._forget(number)
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

    def _forget(self, number: int) -> None:
        self._ray.kill(self._actors.pop(number))
        self._waiting = {promise: worker for promise, worker in self._waiting.items() if worker != number}

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
            raise UsageError(
                f"Ray cannot be reached {where}: {one_line(error)[:200]}; check --ray-address"
            ) from error
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():  # Ray takes SIGTERM for itself, and ends the process
                signal.signal(number, handler)
        self._started_ray = True


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
