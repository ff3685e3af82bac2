"""Keeps workers busy: a thread for each takes a video, claims it, has it done, and records what came of it."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from dvis_cli.errors import DvisError, OutputError

from .claims import Claims
from .options import BatchOptions
from .output import RECORD, Output
from .plan import INPUT, SETTINGS, Job, is_current
from .report import BatchReport, Event, EventKind, Failure, OnEvent, Stop, Stopped
from .summary import Summary
from .work import Message, Outcome, Progress, Ready, Task, Warned, WorkerDiedError

_LOOK_UP = 0.1  # seconds: how soon a signal is noticed, or that there is work again
_PROGRESS_EVERY = 0.5  # seconds
_REPORTS = 100  # of progress, from all workers in a second: one costs about a millisecond here
_STRIKES = 3  # failures of its device, or to load, in a row, after which a worker is not replaced
_OTHER_RUN = 1.0  # seconds until a video that another run has is looked at again, once

# Told whether anything is under way; [] for now, None for good.
MoreJobs = Callable[[bool], "list[Job] | None"]


class Worker(Protocol):
    """A process of this machine (`local.py`) or a Ray actor (`ray_engine.py`)."""

    def send(self, task: Task) -> None: ...
    def receive(self) -> Message: ...
    def kill(self) -> None: ...


class Engine(Protocol):
    """Starts workers, numbered from 0."""

    workers: int

    def connect(self) -> int: ...
    def start(self, number: int) -> Worker: ...
    def close(self) -> None: ...


@dataclass
class _Running:
    job: Job
    heard: float = field(default_factory=time.monotonic)  # the last sign of life
    frames: int = 0
    total: int | None = None

    @property
    def size_done(self) -> float:
        """Part of a video counts as that part of its bytes: long and short ones are estimated fairly."""
        return self.job.size * min(self.frames / self.total, 1.0) if self.total else 0.0


class Scheduler:
    """Runs jobs until there are none, the run is told to stop, or cannot go on.

    Args:
        settings: the hash of everything that changes results.
        report: filled in as things happen.
        stop: asked regularly.
    """

    def __init__(
        self,
        engine: Engine,
        output: Output,
        claims: Claims,
        summary: Summary,
        options: BatchOptions,
        settings: str,
        report: BatchReport,
        stop: Stop,
    ) -> None:
        self._engine, self._output, self._claims, self._summary = engine, output, claims, summary
        self._options, self._settings, self._report, self._stop = options, settings, report, stop
        self._lock = threading.RLock()  # around all that follows
        self._queue: deque[Job] = deque()
        self._running: dict[int, _Running] = {}  # by worker
        self._workers: dict[int, Worker] = {}  # that live, or are being replaced
        self._able: set[int] = set()  # workers that did a video
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._watching = self._closed = False
        self._started: float | None = None  # when the first worker was ready
        self._size_done = self._size_left = 0.0
        self._failed_now = 0

    def run(self, jobs: list[Job], workers: int, on_event: OnEvent, more: MoreJobs | None = None) -> None:
        """Do the jobs, and what `more` finds. `on_event` is called in this thread.

        Raises:
            DvisError: no worker can load the model.
        """
        self._watching = more is not None
        self._add(jobs)
        next_progress = 0.0
        with ThreadPoolExecutor(max(workers, 1), "dvis-batch") as together:
            try:
                lives = [together.submit(self._live, number) for number in range(workers)]
                while not self._over(at_once=True) and not all(life.done() for life in lives):
                    self._tell(on_event, _LOOK_UP)
                    for life in lives:
                        if life.done():
                            life.result()
                    if self._stop.level:
                        self._end(
                            self._stop.kind, "asked to stop" if self._stop.level < 2 else "stopped at once"
                        )
                    elif more is not None and (found := more(bool(self._queue or self._running))) is not None:
                        self._add(found)
                    else:
                        self._watching = False
                    self._kill_stalled()
                    if self._started is not None and time.monotonic() >= next_progress:
                        next_progress = time.monotonic() + _PROGRESS_EVERY
                        on_event(Event("progress", self._progress(self._started)))
                    self._keep_up()
            finally:
                with self._lock:
                    self._closed = True
                    for worker in self._workers.values():
                        worker.kill()
        self._tell(on_event, 0)
        self._report.left = len(self._queue)

    def _tell(self, on_event: OnEvent, wait: float) -> None:
        """Pass on what happened; wait for the first."""
        try:
            while True:
                on_event(self._events.get(timeout=wait) if wait else self._events.get_nowait())
                wait = 0
        except queue.Empty:
            pass

    def _emit(self, kind: EventKind, **data: Any) -> None:
        self._events.put(Event(kind, data))

    def _add(self, jobs: list[Job]) -> None:
        with self._lock:
            self._queue.extend(jobs)
            self._size_left += sum(job.size for job in jobs)

    def _over(self, at_once: bool = False) -> bool:
        """Whether no more videos are begun; `at_once`: and none is under way that is to be finished."""
        with self._lock:
            if self._closed:
                return True
            stopped = self._report.stopped is not None
            if at_once and stopped:
                return not self._running or self._stop.level >= 2
            return stopped or not (self._queue or self._running or self._watching)

    def _end(self, kind: Stopped, reason: str) -> None:
        with self._lock:
            if self._report.stopped is None:
                self._report.stopped, self._report.reason = kind, reason
                if self._running and self._stop.level < 2:
                    text = f"stopping: {len(self._running)} videos are finished first; Ctrl-C again stops at once"
                    self._emit("note", text=text)

    def _live(self, number: int) -> None:
        """A worker's life, and that of those which take its place when it dies or its device fails."""
        strikes = 0
        while strikes < _STRIKES and not self._over():
            with self._lock:
                if self._closed:
                    return
                worker = self._workers[number] = self._engine.start(number)
            trouble = self._load(number, worker)
            strikes += bool(trouble)
            while not trouble:
                job = self._next(number)
                if job is None:
                    return
                outcome = self._do(number, worker, job)
                if outcome.verdict == "died":
                    self._emit("worker", worker=number, text=outcome.error)
                    break
                strikes = strikes + 1 if outcome.verdict == "device" else 0
                trouble = f"its device failed: {outcome.error}" if strikes else ""
            if trouble and not self._closed:
                worker.kill()
                fate = "it is replaced" if strikes < _STRIKES else "retired"
                self._emit("worker", worker=number, text=f"{trouble}; {fate}")
        if strikes == _STRIKES:
            self._retire(number, trouble)

    def _retire(self, number: int, trouble: str) -> None:
        with self._lock:
            del self._workers[number]
            if self._workers:
                return
            if self._started is None:
                raise DvisError(trouble)
            self._end("workers", f"no worker is left, the last one said: {trouble}")

    def _load(self, number: int, worker: Worker) -> str:
        """Wait for a worker's model; why it has none, or ""."""
        try:
            message = worker.receive()
        except WorkerDiedError as death:
            return f"workers end while they load the model ({death}); try fewer --jobs"
        if isinstance(message, DvisError) and self._started is None:
            raise message
        if not isinstance(message, Ready):
            return f"it cannot load the model: {message}"
        self._started = self._started or time.monotonic()
        text = f"ready after {message.seconds:.1f} s"
        self._emit("worker", worker=number, text=text, model=message.model, untrained=message.untrained)
        return ""

    def _next(self, number: int) -> Job | None:
        """The next video for a worker, claimed; waits while there may be one. None: nothing is begun any more."""
        while not self._over():
            with self._lock:
                job = self._first(number)
                if job is not None:
                    self._running[number] = _Running(job)
            if job is None:
                time.sleep(_LOOK_UP)
            elif self._claim(number, job):
                return job
        return None

    def _first(self, number: int) -> Job | None:
        """The first job that may be tried now, by this worker."""
        for _ in range(len(self._queue)):
            job = self._queue.popleft()
            others = self._workers.keys() - set(job.faulty)
            if job.wait <= time.monotonic() and (number not in job.faulty or not others):
                return job
            self._queue.append(job)
        return None

    def _claim(self, number: int, job: Job) -> bool:
        """Whether the video is ours to do; another run may have it, or have done it since the plan."""
        key = job.video.key
        try:
            holder = self._claims.take(key)
            if holder is None:
                record = self._output.read_document(f"{key}/{RECORD}")
                if not is_current(record, job.video, self._settings):
                    return True
                self._claims.release(key)
        except DvisError as error:
            full = isinstance(error, OutputError)
            job.tries += not full  # a store that is away for a moment
            self._finish(number, job, Outcome("full" if full else "retry", error=str(error)))
            return False
        with self._lock:
            del self._running[number]
            if holder is not None and not job.wait:
                job.wait = time.monotonic() + _OTHER_RUN
                self._queue.append(job)
                return False
            self._size_left -= job.size
            if holder is None:
                self._report.skipped += 1
            else:
                self._report.elsewhere += 1
                self._report.reason = f"another run ({holder}) is working on the rest"
        return False

    def _do(self, number: int, worker: Worker, job: Job) -> Outcome:
        """One try at a claimed video."""
        video, running = job.video, self._running[number]
        job.tries, job.wait = job.tries + 1, 0.0
        running.heard = time.monotonic()
        facts = {"key": video.key, "source": video.source}
        self._emit("video_started", **facts, worker=number, **{"try": job.tries})
        every = max(0.25, self._engine.workers / _REPORTS)
        stage = self._claims.stage(video.key)
        worker.send(
            Task(video.key, video.source, self._output.name, stage, self._settings, video.fingerprint, every)
        )
        try:
            while not isinstance(message := worker.receive(), Outcome):
                running.heard = time.monotonic()
                if isinstance(message, Progress):
                    running.frames, running.total = message
                elif isinstance(message, Warned):
                    with self._lock:
                        self._report.warnings += 1
                    self._emit("warning", key=video.key, text=message.text)
            outcome = message
        except WorkerDiedError as death:
            outcome = Outcome("died", error=str(death))
        self._finish(number, job, outcome)
        return outcome

    def _finish(self, number: int, job: Job, outcome: Outcome) -> None:
        key, error, tried_enough = job.video.key, outcome.error, job.tries >= self._options.max_tries
        self._claims.release(key, unfinished=outcome.verdict != "done")
        with self._lock:
            del self._running[number]
            if outcome.verdict == "device":
                tried_enough = self._is_to_blame(number, job) and tried_enough
            if outcome.verdict == "done":
                self._able.add(number)
                self._done(job, outcome)
            elif outcome.verdict == "failed" or (
                outcome.verdict != "full" and tried_enough and not self._closed
            ):
                self._failed(job, error)
            else:
                self._queue.append(job)
                if outcome.verdict == "full":
                    self._end("full", error)
                elif not self._closed:
                    facts = {"key": key, "source": job.video.source, "error": error, "try": job.tries}
                    self._emit("video_retried", **facts)

    def _is_to_blame(self, number: int, job: Job) -> bool:
        """Whether a video broke one device that works after the other; else it has not lost a try."""
        job.faulty += (number,)
        blamed = len(job.faulty) >= self._options.max_tries and bool(self._able & set(job.faulty))
        job.tries -= not blamed
        return blamed

    def _done(self, job: Job, outcome: Outcome) -> None:
        video, report = job.video, self._report
        report.done += 1
        report.frames += outcome.frames
        if job.reason in (SETTINGS, INPUT):
            report.redone[job.reason] = report.redone.get(job.reason, 0) + 1
        self._size_done += job.size
        self._size_left -= job.size
        facts = {"frames": outcome.frames, "segments": outcome.segments, "seconds": outcome.seconds}
        self._summary.done(video.key, facts)
        self._emit("video_done", key=video.key, source=video.source, **facts)

    def _failed(self, job: Job, error: str) -> None:
        video, limit = job.video, self._options.max_failures
        error = f"{error} (tried {job.tries} times)" if job.tries > 1 else error
        failure = Failure(video.key, video.source, error)
        self._report.failed.append(failure)
        self._summary.failed(failure, video.fingerprint, self._settings)
        self._size_left -= job.size
        self._failed_now += 1
        self._emit("video_failed", key=video.key, source=video.source, error=error)
        if limit is not None and self._failed_now >= limit:
            what = "the first failure" if limit == 1 else f"{limit} failures"
            self._end("failures", f"stopped after {what}; the same command goes on")

    def _kill_stalled(self) -> None:
        now, stall = time.monotonic(), self._options.stall
        with self._lock:
            for number, running in self._running.items():
                if now - running.heard > stall:
                    running.heard = now
                    text = f"{running.job.video.key}: no frame for {stall:.0f} s, its worker is ended"
                    self._emit("note", text=text)
                    self._workers[number].kill()

    def _keep_up(self) -> None:
        """Show other runs that we live, and write down what is new."""
        self._claims.beat()
        try:
            self._summary.flush()
        except DvisError as error:
            self._emit("note", text=str(error))

    def _progress(self, started: float) -> dict[str, Any]:
        """Of the whole: the fields of a `progress` event."""
        with self._lock:
            report, elapsed, running = self._report, time.monotonic() - started, sorted(self._running.items())
            frames = report.frames + sum(one.frames for _, one in running)
            begun = sum(one.size_done for _, one in running)
            done, left = self._size_done + begun, max(self._size_left - begun, 0.0)
            return {
                "videos": report.done + report.skipped + len(report.failed),
                "total": report.total,
                "failed": len(report.failed),
                "frames": frames,
                "frames_per_second": round(frames / elapsed, 3) if elapsed > 0 else 0.0,
                "seconds_left": round(elapsed * left / done, 1) if done > 0 else None,
                "current": [
                    {"key": one.job.video.key, "worker": number, "frames": one.frames, "total": one.total}
                    for number, one in running
                ],
            }
