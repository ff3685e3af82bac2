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
from collections.abc import Iterator
from typing import Any

from dvis_cli.errors import UsageError
from dvis_cli.files import memory_limit, usable_cores
from dvis_cli.run.options import SegmentOptions

from .addresses import one_line
from .options import BatchOptions
from .work import MakeWorker, Message, Progress, Task, Warned, WorkerDiedError, serve


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

    def run(self, task: Task | None) -> Iterator[Message]:
        """Do a task, or (None) load the model: what there is to tell as it happens, how it ended last."""
        if task is not None:
            self._orders.put(task)
        while isinstance(report := self._reports.get(), (Progress, Warned)):
            yield report
        yield report


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
            raise UsageError(
                f"Ray cannot be reached {where}: {one_line(error)[:200]}; check --ray-address"
            ) from error
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():  # Ray takes SIGTERM for itself, and ends the process
                signal.signal(number, handler)
        self._started_ray = True


class RayHandle:
    """An actor, used as `LocalWorker` is."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self.send(None)

    def send(self, task: Task | None) -> None:
        self._stream = self._actor.run.options(num_returns="streaming").remote(task)

    def receive(self) -> Message:
        try:
            message: Message = self._ray.get(next(self._stream))
        except (StopIteration, self._ray.exceptions.RayError) as error:
            lines = (line.strip() for line in str(error).splitlines())
            reason = next(filter(None, lines), type(error).__name__)
            raise WorkerDiedError(f"the Ray worker died: {reason[:200]}") from None
        return message

    def kill(self) -> None:
        self._ray.kill(self._actor)


def import_ray() -> Any:
    """Ray, or the way to get it. Raises `UsageError`."""
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise UsageError("--engine ray needs Ray: pip install 'dvis[ray]'") from None
    return ray
