"""Hands videos to workers as these become free, and records what comes of it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dvis_cli.errors import DvisError, OutputError

from .claims import Claims
from .local import LocalEngine
from .messages import Broken, Died, Finished, Message, Outcome, Progress, Ready, Task, Warned
from .options import BatchOptions
from .output import RECORD, Output, parse
from .plan import INPUT, SETTINGS, Failures, Job, is_current
from .report import BatchReport, Event, EventKind, Failure, OnEvent, Stop, Stopped

if TYPE_CHECKING:
    from .ray_engine import RayEngine

_LOOK_UP = 0.2  # seconds: how soon a signal is noticed
_PROGRESS_EVERY = 0.5  # seconds
_REPORTS = 100  # of progress, from all workers in a second: one costs about a millisecond here
_STRIKES = 3  # failures of its device, or to load, in a row, after which a worker is not replaced
_OTHER_RUN = 1.0  # seconds until a video that another run has is looked at again, once

# Told whether anything is under way; [] for now, None for good.
MoreJobs = Callable[[bool], "list[Job] | None"]


@dataclass
class _Running:
    job: Job
    heard: float  # time.monotonic() of the last sign of life
    frames: int = 0
    total: int | None = None

    @property
    def size_done(self) -> float:
        """Part of a video counts as that part of its bytes: long and short ones are estimated fairly."""
        return _size(self.job) * min(self.frames / self.total, 1.0) if self.total else 0.0


class Scheduler:
    """Runs jobs until there are none, the run is told to stop, or cannot go on.

    Args:
        settings: the hash of everything that changes results.
        report: filled in as things happen.
        on_event: told of everything.
        stop: asked regularly.
    """

    def __init__(
        self,
        engine: LocalEngine | RayEngine,
        output: Output,
        claims: Claims,
        failures: Failures,
        options: BatchOptions,
        settings: str,
        report: BatchReport,
        on_event: OnEvent,
        stop: Stop,
    ) -> None:
        self._engine, self._output, self._claims, self._failures = engine, output, claims, failures
        self._options, self._settings = options, settings
        self._report, self._on_event, self._stop = report, on_event, stop
        self._queue: deque[Job] = deque()
        self._workers: set[int] = set()  # that live or are being replaced
        self._loading: set[int] = set()
        self._idle: deque[int] = deque()
        self._running: dict[int, _Running] = {}
        self._strikes: Counter[int] = Counter()
        self._done_by: Counter[int] = Counter()
        self._started: float | None = None  # when the first worker was ready
        self._size_done = self._size_left = 0.0
        self._failed_now = 0
        self._progress_at = 0.0

    def run(self, jobs: list[Job], workers: int, more: MoreJobs | None = None) -> None:
        """Do the jobs, and what `more` finds.

        Raises:
            DvisError: no worker can load the model.
        """
        self._add(jobs)
        try:
            for worker in range(workers):
                self._workers.add(worker)
                self._load(worker)
            while self._goes_on(more):
                self._hand_out()
                for message in self._engine.messages(_LOOK_UP):
                    self._take(message)
                self._kill_stalled()
                self._tell_progress()
                self._claims.beat()
                self._write_failures()
        finally:
            self._drop_running()
            self._report.left = len(self._queue)

    def _add(self, jobs: list[Job]) -> None:
        self._queue.extend(jobs)
        self._size_left += sum(map(_size, jobs))

    def _goes_on(self, more: MoreJobs | None) -> bool:
        if self._stop.level:
            self._end(self._stop.kind, "stopped at once" if self._stop.level >= 2 else "asked to stop")
        if self._report.stopped is not None:
            return bool(self._running) and self._stop.level < 2
        found = more(bool(self._queue or self._running)) if more is not None else None
        self._add(found or [])
        return found is not None or bool(self._queue or self._running)

    def _hand_out(self) -> None:
        for worker in list(self._idle):
            while worker in self._idle and self._report.stopped is None:
                job = self._next(worker)
                if job is None:
                    break
                try:
                    if self._claim(job):
                        self._idle.remove(worker)
                        self._start(worker, job)
                except OutputError as error:
                    self._claims.release(job.item.key)
                    self._queue.appendleft(job)
                    self._end("full", str(error))
                except DvisError as error:  # a store that is away for a moment
                    job.tries += 1
                    self._finish(job, Outcome(job.item.key, "retry", error=str(error)))

    def _next(self, worker: int) -> Job | None:
        """The first job that may be tried now, by this worker."""
        for _ in range(len(self._queue)):
            job = self._queue.popleft()
            others = self._workers - set(job.faulty)
            if job.wait <= time.monotonic() and (worker not in job.faulty or not others):
                return job
            self._queue.append(job)
        return None

    def _claim(self, job: Job) -> bool:
        """Whether the video is ours to do; another run may have it, or have done it since the plan."""
        key = job.item.key
        holder = self._claims.take(key)
        if holder is None:
            if not is_current(parse(next(self._output.read([f"{key}/{RECORD}"]))), job.item, self._settings):
                return True
            self._claims.release(key)
            self._report.skipped += 1
        elif not job.wait:
            job.wait = time.monotonic() + _OTHER_RUN
            self._queue.append(job)
            return False
        else:
            self._report.elsewhere += 1
            self._report.reason = f"another run ({holder}) is working on the rest"
        self._size_left -= _size(job)
        return False

    def _start(self, worker: int, job: Job) -> None:
        item = job.item
        job.tries, job.wait = job.tries + 1, 0.0
        every = max(0.25, self._engine.workers / _REPORTS)
        stage = self._claims.stage(item.key)
        task = Task(item.key, item.source, self._output.name, stage, self._settings, item.fingerprint, every)
        self._running[worker] = _Running(job, time.monotonic())
        self._engine.submit(worker, task)
        facts = {"key": item.key, "source": item.source, "worker": worker, "try": job.tries}
        self._emit("video_started", **facts)

    def _take(self, message: Message) -> None:
        running = self._running.get(message.worker)
        if running is not None:
            running.heard = time.monotonic()
        match message:
            case Ready(worker, seconds, model, untrained):
                self._started = self._started or time.monotonic()
                self._loading.discard(worker)
                self._idle.append(worker)
                text = f"ready after {seconds:.1f} s"
                self._emit("worker", worker=worker, text=text, model=model, untrained=untrained)
            case Progress() if running is not None:
                running.frames, running.total = message.frames, message.total
            case Warned():
                self._report.warnings += 1
                self._emit("warning", key=message.key, text=message.text)
            case Finished(worker, outcome) if running is not None:
                del self._running[worker]
                if outcome.verdict == "device":
                    self._device_failed(worker, running.job, outcome.error or "failed")
                else:
                    self._idle.append(worker)
                    self._strikes[worker] = 0
                    self._done_by[worker] += outcome.verdict == "done"
                    self._finish(running.job, outcome)
            case Broken(worker, error):
                if isinstance(error, DvisError) and self._started is None:
                    raise error
                self._loading.discard(worker)
                self._strike(worker, f"it cannot load the model: {error}")
            case Died():
                self._bury(message)

    def _bury(self, message: Died) -> None:
        """A worker is gone: another takes its place, and its video is tried again."""
        worker, running = message.worker, self._running.pop(message.worker, None)
        if worker in self._idle:
            self._idle.remove(worker)
        if worker in self._loading:
            self._strike(
                worker, f"workers end while they load the model ({message.reason}); try fewer --jobs"
            )
        else:
            self._emit("worker", worker=worker, text=message.reason)
        if running is not None:
            self._finish(running.job, Outcome(running.job.item.key, "retry", error=message.reason))
        if worker in self._workers and self._report.stopped is None:
            self._load(worker)

    def _load(self, worker: int) -> None:
        self._loading.add(worker)
        self._engine.start(worker)

    def _strike(self, worker: int, reason: str) -> None:
        """A worker failed for a reason of its own. It is replaced, but not for ever."""
        self._strikes[worker] += 1
        retired = self._strikes[worker] >= _STRIKES
        self._emit("worker", worker=worker, text=f"{reason}; {'retired' if retired else 'it is replaced'}")
        if retired:
            self._workers.discard(worker)
        self._engine.kill(worker)
        if not self._workers:
            if self._started is None:
                raise DvisError(reason)
            self._end("workers", f"no worker is left, the last one said: {reason}")

    def _device_failed(self, worker: int, job: Job, error: str) -> None:
        """The worker ends, and its video costs no try: unless it meets one device that works after the other so."""
        job.faulty += (worker,)
        self._strike(worker, f"its device failed: {error}")
        if len(job.faulty) < self._options.max_tries or not any(self._done_by[one] for one in job.faulty):
            job.tries -= 1
        self._finish(job, Outcome(job.item.key, "retry", error=error))

    def _finish(self, job: Job, outcome: Outcome) -> None:
        key, error = job.item.key, outcome.error or "failed"
        if outcome.verdict != "done":
            self._claims.clean(key)
        if outcome.verdict == "done":
            self._done(job, outcome)
        elif outcome.verdict == "failed" or (
            outcome.verdict == "retry" and job.tries >= self._options.max_tries
        ):
            self._failed(job, error)
        else:
            self._queue.append(job)
            if outcome.verdict == "full":
                self._end("full", error)
            else:
                facts = {"key": key, "source": job.item.source, "error": error, "try": job.tries}
                self._emit("video_retried", **facts)
        self._claims.release(key)

    def _done(self, job: Job, outcome: Outcome) -> None:
        item, report, frames = job.item, self._report, outcome.frames or 0
        report.done += 1
        report.frames += frames
        if job.reason in (SETTINGS, INPUT):
            report.redone[job.reason] = report.redone.get(job.reason, 0) + 1
        self._size_done += _size(job)
        self._size_left -= _size(job)
        self._failures.forget(item.key)
        facts = {"frames": outcome.frames, "segments": outcome.segments, "seconds": outcome.seconds}
        self._emit("video_done", key=item.key, source=item.source, **facts)

    def _failed(self, job: Job, error: str) -> None:
        item, limit = job.item, self._options.max_failures
        failure = Failure(
            item.key, item.source, f"{error} (tried {job.tries} times)" if job.tries > 1 else error
        )
        self._report.failed.append(failure)
        self._failures.add(failure, item, self._settings)
        self._size_left -= _size(job)
        self._failed_now += 1
        self._emit("video_failed", key=item.key, source=item.source, error=failure.error)
        if limit is not None and self._failed_now >= limit:
            what = "the first failure" if limit == 1 else f"{limit} failures"
            self._end("failures", f"stopped after {what}; the same command goes on")

    def _write_failures(self) -> None:
        try:
            self._failures.flush()
        except OutputError as error:
            self._end("full", str(error))
        except DvisError as error:
            self._emit("note", text=str(error))

    def _drop_running(self) -> None:
        """End the workers; what was under way is as if it had not begun."""
        self._engine.stop()
        for running in self._running.values():
            self._queue.append(running.job)
            self._claims.clean(running.job.item.key)
            self._claims.release(running.job.item.key)
        self._running.clear()

    def _kill_stalled(self) -> None:
        now, stall = time.monotonic(), self._options.stall
        for worker, running in self._running.items():
            if now - running.heard > stall:
                running.heard = now
                self._emit(
                    "note", text=f"{running.job.item.key}: no frame for {stall:.0f} s, its worker is ended"
                )
                self._engine.kill(worker)

    def _end(self, kind: Stopped, reason: str) -> None:
        if self._report.stopped is None:
            self._report.stopped, self._report.reason = kind, reason
            if self._running and self._stop.level < 2:
                count = len(self._running)
                self._emit(
                    "note", text=f"stopping: {count} videos are finished first; Ctrl-C again stops at once"
                )

    def _emit(self, kind: EventKind, **data: Any) -> None:
        self._on_event(Event(kind, data))

    def _tell_progress(self) -> None:
        now = time.monotonic()
        if self._started is None or now - self._progress_at < _PROGRESS_EVERY:
            return
        self._progress_at = now
        report, elapsed = self._report, now - self._started
        frames = report.frames + sum(one.frames for one in self._running.values())
        begun = sum(one.size_done for one in self._running.values())
        done, left = self._size_done + begun, max(self._size_left - begun, 0.0)
        self._emit(
            "progress",
            videos=report.done + report.skipped + len(report.failed),
            total=report.total,
            failed=len(report.failed),
            frames=frames,
            frames_per_second=round(frames / elapsed, 3) if elapsed > 0 else 0.0,
            seconds_left=round(elapsed * left / done, 1) if done > 0 else None,
            current=[
                {"key": one.job.item.key, "worker": worker, "frames": one.frames, "total": one.total}
                for worker, one in sorted(self._running.items())
            ],
        )


def _size(job: Job) -> int:
    return max(job.item.size or 0, 1)
