"""Hands videos to workers as these become free, and records what comes of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dvis_cli.errors import DvisError, OutputError

from .engine import Broken, Died, Engine, Finished, Message, Outcome, Progress, Ready, Task, Warned
from .manifest import Manifest, Row
from .options import BatchOptions
from .output import Output
from .plan import GONE, INPUT, SETTINGS, Job
from .report import BatchReport, Event, Failure, OnEvent, Stopped
from .stop import Stop

_LOOK_UP = 0.2  # seconds: how soon a signal is noticed
_PROGRESS_EVERY = 0.5  # seconds
_REPORTS = 100  # of progress, from all workers in a second: one costs about a millisecond here
_LOADING_DEATHS = 3  # workers lost in a row before any had its model: none will

MoreJobs = Callable[[], "list[Job] | None"]  # [] for now, None for good


@dataclass
class _Running:
    job: Job
    heard: float  # time.monotonic() of the last sign of life
    frames: int = 0
    total: int | None = None


@dataclass
class _Pace:
    """How fast the work goes, in frames and in bytes of input."""

    started: float = field(default_factory=time.monotonic)
    frames: int = 0
    bytes_done: float = 0.0
    bytes_left: float = 0.0


class Scheduler:
    """Runs jobs until there are none, the run is told to stop, or cannot go on.

    Args:
        engine: started workers.
        manifest, output: where it is recorded.
        report: filled in as things happen.
        on_event: told of everything.
        stop: asked regularly.
    """

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        output: Output,
        options: BatchOptions,
        report: BatchReport,
        on_event: OnEvent,
        stop: Stop,
    ) -> None:
        self._engine, self._manifest, self._output = engine, manifest, output
        self._options, self._report, self._on_event, self._stop = options, report, on_event, stop
        self._queue: deque[Job] = deque()
        self._idle: deque[int] = deque()
        self._running: dict[int, _Running] = {}
        self._pace = _Pace()
        self._loading_deaths = 0
        self._ready = False  # whether any worker ever was
        self._failures = 0  # of this run
        self._said = 0.0
        self._said_stopping = False

    def run(self, jobs: list[Job], more: MoreJobs | None = None) -> None:
        """Do the jobs, and what `more` finds.

        Raises:
            DvisError: no worker can load the model, or the manifest cannot be written.
        """
        self._queue.extend(jobs)
        self._pace.bytes_left = float(sum(_size(job) for job in jobs))
        try:
            while self._goes_on(more):
                self._hand_out()
                for message in self._engine.messages(_LOOK_UP):
                    self._take(message)
                self._kill_stalled()
                self._say_progress()
                self._output.tick()
        finally:
            self._drop_running()
            self._report.left = len(self._queue)

    @property
    def busy(self) -> bool:
        """Whether anything waits or is under way."""
        return bool(self._queue or self._running)

    def _goes_on(self, more: MoreJobs | None) -> bool:
        if self._stop.level >= 2:
            self._set_stopped(self._stop.kind, "stopped at once")
            return False
        if self._stop.level == 1:
            self._set_stopped(self._stop.kind, "asked to stop")
        if self._report.stopped is not None:
            if self._running and not self._said_stopping:
                self._said_stopping = True
                self._note(
                    f"stopping: {len(self._running)} videos are finished first; Ctrl-C again stops at once"
                )
            return bool(self._running)
        if more is not None:
            found = more()
            if found is not None:
                self._queue.extend(found)
                self._pace.bytes_left += sum(_size(job) for job in found)
                return True
        return bool(self._queue or self._running)

    def _hand_out(self) -> None:
        while self._queue and self._idle and self._report.stopped is None:
            worker, job = self._idle.popleft(), self._queue.popleft()
            self._start(worker, job)

    def _start(self, worker: int, job: Job) -> None:
        row = self._row(job)
        row.state, row.error = "running", None
        row.ours = row.ours or self._output.is_free(row.key)
        row.tries += 1
        job.tries += 1
        try:
            # Not waited for: after a power cut it would only be done again.
            self._manifest.put(row, sync=False)
        except OutputError as error:
            self._queue.appendleft(job)
            return self._set_stopped("full", str(error))
        every = max(0.25, self._engine.workers / _REPORTS)
        task = Task(row.key, row.source, self._output.name, bool(row.ours), every)
        self._running[worker] = _Running(job, time.monotonic())
        self._engine.submit(worker, task)
        self._emit(
            "video_started", key=job.item.key, source=job.item.source, worker=worker, **{"try": job.tries}
        )

    def _take(self, message: Message) -> None:
        running = self._running.get(message.worker)
        if running is not None:
            running.heard = time.monotonic()
        match message:
            case Ready():
                if not self._ready:
                    self._ready, self._pace.started = True, time.monotonic()
                self._loading_deaths = 0
                self._idle.append(message.worker)
                text = f"ready after {message.seconds:.1f} s"
                self._emit(
                    "worker",
                    worker=message.worker,
                    text=text,
                    model=message.model,
                    untrained=message.untrained,
                )
            case Progress():
                if running is not None:
                    running.frames, running.total = message.frames, message.total
            case Warned():
                self._emit("warning", key=message.key, text=message.text)
            case Finished():
                self._running.pop(message.worker, None)
                self._idle.append(message.worker)
                if running is not None:
                    self._finish(running.job, message.outcome)
            case Died():
                self._bury(message)
            case Broken():
                raise message.error

    def _bury(self, message: Died) -> None:
        running = self._running.pop(message.worker, None)
        if message.worker in self._idle:
            self._idle.remove(message.worker)
        elif running is None:
            self._loading_deaths += 1
            if self._loading_deaths >= _LOADING_DEATHS:
                raise DvisError(
                    f"workers end while they load the model ({message.reason}); try fewer --jobs, or one video alone"
                )
        self._emit("worker", worker=message.worker, text=message.reason)
        if running is not None:
            job = running.job
            self._output.clean(job.item.key)
            self._finish(job, Outcome(job.item.key, "retry", error=message.reason))

    def _finish(self, job: Job, outcome: Outcome) -> None:
        try:
            if outcome.verdict == "done":
                self._done(job, outcome)
            elif outcome.verdict == "stop":
                self._put_back(job)
                self._set_stopped("full", outcome.error or "no space left on the disk")
            elif outcome.verdict == "retry" and job.tries < self._options.max_tries:
                self._put_back(job)
                self._emit(
                    "video_retried",
                    key=job.item.key,
                    source=job.item.source,
                    error=outcome.error,
                    **{"try": job.tries},
                )
            else:
                self._failed(job, outcome)
        except OutputError as error:  # the manifest's own disk is full
            self._set_stopped("full", str(error))

    def _done(self, job: Job, outcome: Outcome) -> None:
        row = self._row(job)
        row.state, row.error, row.seconds = "done", None, outcome.seconds
        row.ours = True
        row.frames, row.segments, row.content = outcome.frames, outcome.segments, outcome.content
        self._manifest.put(row)
        self._report.done += 1
        self._report.frames += outcome.frames or 0
        if job.reason in (SETTINGS, INPUT, GONE):
            self._report.redone[job.reason] = self._report.redone.get(job.reason, 0) + 1
        self._pace.frames += outcome.frames or 0
        self._pace.bytes_done += _size(job)
        self._pace.bytes_left -= _size(job)
        self._emit(
            "video_done",
            key=job.item.key,
            source=job.item.source,
            frames=outcome.frames,
            segments=outcome.segments,
            seconds=outcome.seconds,
        )

    def _failed(self, job: Job, outcome: Outcome) -> None:
        row = self._row(job)
        error = outcome.error or "failed"
        if job.tries > 1:
            error = f"{error} (tried {job.tries} times)"
        row.state, row.error, row.seconds = "failed", error, outcome.seconds
        self._manifest.put(row)
        self._report.failed.append(Failure(job.item.key, job.item.source, error))
        self._pace.bytes_left -= _size(job)
        self._failures += 1
        self._output.prune(job.item.key)
        self._emit("video_failed", key=job.item.key, source=job.item.source, error=error)
        limit = self._options.max_failures
        if limit is not None and self._failures >= limit:
            what = "the first failure" if limit == 1 else f"{limit} failures"
            self._set_stopped("failures", f"stopped after {what}; the same command goes on")

    def _put_back(self, job: Job) -> None:
        row = self._row(job)
        row.state = "pending"
        self._queue.append(job)
        self._manifest.put(row)

    def _drop_running(self) -> None:
        """End the workers; what was under way is as if it had not begun."""
        dropped = [running.job for running in self._running.values()]
        self._running.clear()
        self._engine.stop()
        for job in dropped:
            self._output.clean(job.item.key)
            self._output.prune(job.item.key)
            self._queue.append(job)
            row = self._row(job)
            row.state = "pending"
            try:
                self._manifest.put(row)
            except OutputError:
                continue  # "running" does as well: the next run begins it again

    def _kill_stalled(self) -> None:
        now = time.monotonic()
        for worker, running in self._running.items():
            if now - running.heard > self._options.stall:
                running.heard = now
                self._note(
                    f"{running.job.item.key}: no frame for {self._options.stall:.0f} s, its worker is ended"
                )
                self._engine.kill(worker)

    def _row(self, job: Job) -> Row:
        row = self._manifest.get(job.item.key)
        assert row is not None, "the plan recorded it"
        return row

    def _set_stopped(self, kind: Stopped, reason: str) -> None:
        if self._report.stopped is None:
            self._report.stopped, self._report.reason = kind, reason

    def _note(self, text: str) -> None:
        self._emit("note", text=text)

    def _emit(self, kind: Any, **data: Any) -> None:
        self._on_event(Event(kind, data))

    def _say_progress(self) -> None:
        now = time.monotonic()
        if not self._ready or now - self._said < _PROGRESS_EVERY:
            return
        self._said = now
        report, pace = self._report, self._pace
        frames = pace.frames + sum(one.frames for one in self._running.values())
        # Part of a video counts as that part of its bytes: a folder of long and short ones is estimated fairly.
        begun = sum(_size(r.job) * min(r.frames / r.total, 1.0) for r in self._running.values() if r.total)
        done, left = pace.bytes_done + begun, max(pace.bytes_left - begun, 0.0)
        elapsed = now - pace.started
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
