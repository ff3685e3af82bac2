"""Keeps workers busy: a thread for each takes a video, claims it, has it done, and records what came of it."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from dvis_cli.errors import DvisError, OutputError

from .output import RECORD
from .plan import INPUT, SETTINGS, Job, Run, is_current
from .report import Event, EventKind, Failure, Stopped
from .work import Outcome, Progress, Ready, Task, WorkerDiedError
from .workers import Engine, LocalWorker, RayHandle

_LOOK_UP = 0.1  # seconds: how soon a signal is noticed, or that there is work again
_PROGRESS_EVERY = 0.5  # seconds
_OTHERS = 1.0  # seconds that another run gets to finish the video that it works on
_REPORTS = 100  # of progress, from all workers in a second: one costs about a millisecond here
_STRIKES = 3  # failures of its device, or to load, in a row, after which a worker is not replaced


class Scheduler:
    """Does jobs until there are none, the run is told to stop, or cannot go on."""

    def __init__(self, engine: Engine, run: Run) -> None:
        self._engine, self._run, self._report = engine, run, run.report
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._lock = threading.RLock()  # around all that follows
        self._queue: deque[Job] = deque()
        self._running: dict[int, Job] = {}  # by worker
        self._workers: dict[int, LocalWorker | RayHandle] = {}  # that live, or are being replaced
        self._able: set[int] = set()  # workers that did a video
        self._watching = self._closed = False
        self._started: float | None = None  # when the first worker was ready
        self._size = self._size_left = 0.0  # of all jobs, in bytes
        self._failed_now = 0

    def events(
        self, jobs: list[Job], workers: int, more: Callable[[], list[Job]] | None = None
    ) -> Generator[Event]:
        """Do the jobs, and what `more` finds; what happens meanwhile.

        Raises:
            DvisError: no worker can load the model.
        """
        self._watching, next_progress = more is not None, 0.0
        self._add(jobs)
        with ThreadPoolExecutor(max(workers, 1), "dvis-batch") as together:
            try:
                lives = [together.submit(self._live, number) for number in range(workers)]
                while self._goes_on(lives):
                    yield from self._happened(_LOOK_UP)
                    if more is not None:
                        self._add(more())
                    self._look_after()
                    if self._started is not None and time.monotonic() >= next_progress:
                        next_progress = time.monotonic() + _PROGRESS_EVERY
                        yield Event("progress", self._progress(self._started))
            finally:
                with self._lock:
                    self._closed = True
                    for worker in self._workers.values():
                        worker.kill()
        yield from self._happened(0)
        self._report.left = len(self._queue)

    def _goes_on(self, lives: list[Future[None]]) -> bool:
        stop = self._run.stop
        if stop.level:
            self._end(stop.kind, "asked to stop" if stop.level < 2 else "at once")
        ended = [life.result() for life in lives if life.done()]  # raises what it raised
        with self._lock:
            under_way = bool(self._running) and stop.level < 2
            return len(ended) < len(lives) and (under_way or not self._is_over())

    def _happened(self, wait: float) -> Generator[Event]:
        """What happened; waits for the first."""
        try:
            while True:
                event, wait = self._events.get(wait > 0, wait), 0
                self._report.warnings += event.kind == "warning"
                yield event
        except queue.Empty:
            pass

    def _emit(self, kind: EventKind, **data: Any) -> None:
        self._events.put(Event(kind, data))

    def _emit_of(self, job: Job, kind: EventKind, **data: Any) -> None:
        self._emit(kind, key=job.video.key, source=job.video.source, **data)

    def _add(self, jobs: list[Job]) -> None:
        with self._lock:
            self._queue.extend(jobs)
            size = sum(job.size for job in jobs)
            self._size, self._size_left = self._size + size, self._size_left + size

    def _is_over(self) -> bool:
        """Whether no more videos are begun."""
        with self._lock:
            nothing_left = not (self._queue or self._running or self._watching)
            return self._closed or self._report.stopped is not None or nothing_left

    def _end(self, kind: Stopped, reason: str) -> None:
        with self._lock:
            if self._report.stopped is None:
                self._report.stopped, self._report.reason = kind, reason
                if self._running and self._run.stop.level < 2:
                    text = f"stopping: {len(self._running)} videos are finished first; Ctrl-C again stops at once"
                    self._emit("note", text=text)

    def _look_after(self) -> None:
        """End workers that are stuck, show other runs that we live, and write down what is new."""
        now, stall = time.monotonic(), self._run.options.stall
        with self._lock:
            for number, job in self._running.items():
                if now - job.heard > stall:
                    job.heard = now
                    self._emit(
                        "note", text=f"{job.video.key}: no frame for {stall:.0f} s, its worker is ended"
                    )
                    self._workers[number].kill()
        self._run.claims.beat()
        try:
            self._run.summary.flush()
        except DvisError as error:
            self._emit("note", text=str(error))

    def _progress(self, started: float) -> dict[str, Any]:
        """Of the whole: the fields of a `progress` event."""
        with self._lock:
            report, elapsed, running = self._report, time.monotonic() - started, sorted(self._running.items())
            frames = report.frames + sum(job.frames for _, job in running)
            left = self._size_left - sum(job.size_done for _, job in running)
            done = self._size - left
            rate = frames / elapsed if elapsed > 0 else 0.0
            # Bytes tell little of two films of different kinds; what is under way takes at least its frames.
            under_way = sum(max((job.frames_in_all or 0) - job.frames, 0) for _, job in running)
            seconds = max(elapsed * left / done, under_way / rate if rate else 0.0) if done > 0 else None
            return {
                "videos": report.done + report.skipped + len(report.failed),
                "total": report.total,
                "failed": len(report.failed),
                "frames": frames,
                "frames_per_second": round(rate, 3),
                "seconds_left": None if seconds is None else round(seconds, 1),
                "current": [
                    {"key": job.video.key, "worker": number, "frames": job.frames, "total": job.frames_in_all}
                    for number, job in running
                ],
            }

    # What follows runs in the threads.

    def _live(self, number: int) -> None:
        """A worker's life, and that of those which take its place when it dies or its device fails."""
        strikes = 0
        while not self._is_over():
            with self._lock:
                if self._closed:
                    return
                worker = self._workers[number] = self._engine.start(number)
            fault = self._load(number, worker)
            strikes, died = strikes + bool(fault), ""
            while not (fault or died):
                job = self._next(number)
                if job is None:
                    return
                outcome = self._do(number, worker, job)
                died = outcome.error if outcome.verdict == "died" else ""
                fault = f"its device failed: {outcome.error}" if outcome.verdict == "device" else ""
                strikes = strikes + 1 if fault else strikes if died else 0
            if self._closed:
                return
            worker.kill()
            fate = "; retired" if strikes == _STRIKES else "; it is replaced"
            self._emit("worker", worker=number, text=died or fault + fate)
            if strikes == _STRIKES:
                self._retire(number, fault)
                return

    def _load(self, number: int, worker: LocalWorker | RayHandle) -> str:
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
        for text in message.warnings:
            self._emit("note", text=f"worker {number}: {text}")
        return ""

    def _retire(self, number: int, trouble: str) -> None:
        with self._lock:
            del self._workers[number]
            if not self._workers and self._started is None:
                raise DvisError(trouble)
            if not self._workers:
                self._end("workers", f"no worker is left, the last one said: {trouble}")

    def _next(self, number: int) -> Job | None:
        """The next video for a worker, claimed; waits while there may be one. None: nothing is begun any more."""
        while not self._is_over():
            with self._lock:
                job = next((job for job in self._queue if self._may_try(number, job)), None)
                if job is not None:
                    self._queue.remove(job)
                    self._running[number], job.frames, job.heard = job, 0, time.monotonic()
            if job is None:
                time.sleep(_LOOK_UP)
            elif (outcome := self._claim(job)) is None:
                return job
            else:
                self._finish(number, job, outcome)
        return None

    def _may_try(self, number: int, job: Job) -> bool:
        """Whether its device has not failed at a video, or that of every worker has; and it is time to."""
        able = number not in job.faulty or not self._workers.keys() - set(job.faulty)
        return able and time.monotonic() >= job.not_before

    def _claim(self, job: Job) -> Outcome | None:
        """None: the video is ours to do. Another run may have it, or have done it since the plan."""
        key = job.video.key
        try:
            holder = self._run.claims.take(key)
            if holder is not None:
                return Outcome("elsewhere", error=f"another run ({holder}) is working on the rest")
            record = self._run.output.read_document(f"{key}/{RECORD}")
            return Outcome("skipped") if is_current(record, job.video, self._run.settings) else None
        except OutputError as error:
            return Outcome("full", error=str(error))
        except DvisError as error:  # a store that is away for a moment
            job.tries += 1
            return Outcome("retry", error=str(error))

    def _do(self, number: int, worker: LocalWorker | RayHandle, job: Job) -> Outcome:
        """One try at a claimed video."""
        video, run = job.video, self._run
        job.tries += 1
        self._emit_of(job, "video_started", **{"worker": number, "try": job.tries})
        every = max(0.25, self._engine.workers / _REPORTS)
        worker.send(Task(video, run.output.name, run.claims.stage(video.key), run.settings, every))
        try:
            while not isinstance(message := worker.receive(), Outcome):
                job.heard = time.monotonic()
                if isinstance(message, Progress):
                    job.frames, job.frames_in_all = message
                else:
                    self._emit("warning", key=video.key, text=str(message))
            outcome = message
        except WorkerDiedError as death:
            outcome = Outcome("died", error=str(death))
        self._finish(number, job, outcome)
        return outcome

    def _finish(self, number: int, job: Job, outcome: Outcome) -> None:
        """Record what came of a video, and let go of it."""
        verdict, report = outcome.verdict, self._report
        if verdict != "elsewhere":
            self._run.claims.release(job.video.key)
        with self._lock:
            del self._running[number]
            again = self._is_tried_again(number, job, verdict)
            if again:
                self._queue.append(job)
            else:
                self._size_left -= job.size
            if verdict == "done":
                self._able.add(number)
                self._done(job, outcome)
            elif verdict == "skipped":
                report.skipped += 1
            elif verdict == "full":
                self._end("full", outcome.error)
            elif verdict == "elsewhere":
                if not again:
                    report.elsewhere, report.reason = report.elsewhere + 1, outcome.error
            elif not again:
                self._failed(job, outcome.error)
            elif not self._closed:
                self._emit_of(job, "video_retried", **{"error": outcome.error, "try": job.tries})

    def _is_tried_again(self, number: int, job: Job, verdict: str) -> bool:
        most, before = self._run.options.max_tries, job.elsewhere
        job.elsewhere = verdict == "elsewhere"  # it is looked at again: once, or while watching
        job.not_before = time.monotonic() + _OTHERS * job.elsewhere
        if verdict == "device":  # no try is lost, unless it met one device that works after the other so
            job.faulty += (number,)
            job.tries -= len(job.faulty) < most or not self._able & set(job.faulty)
        if verdict in ("retry", "device", "died"):
            return job.tries < most or self._closed
        return verdict == "full" or (job.elsewhere and (self._watching or not before))

    def _done(self, job: Job, outcome: Outcome) -> None:
        report = self._report
        report.done, report.frames = report.done + 1, report.frames + outcome.frames
        if job.reason in (SETTINGS, INPUT):
            report.redone[job.reason] = report.redone.get(job.reason, 0) + 1
        facts = {"frames": outcome.frames, "segments": outcome.segments, "seconds": outcome.seconds}
        self._run.summary.done(job.video.key, facts)
        self._emit_of(job, "video_done", **facts)

    def _failed(self, job: Job, error: str) -> None:
        video, limit = job.video, self._run.options.max_failures
        error = f"{error} (tried {job.tries} times)" if job.tries > 1 else error
        failure = Failure(video.key, video.source, error)
        self._report.failed.append(failure)
        self._run.summary.failed(failure, video.fingerprint, self._run.settings)
        self._emit_of(job, "video_failed", error=error)
        self._failed_now += 1
        if self._failed_now == limit:
            what = "the first failure" if limit == 1 else f"{limit} failures"
            self._end("failures", f"after {what}; the same command goes on")
