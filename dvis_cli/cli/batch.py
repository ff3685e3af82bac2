"""What a batch of videos looks like: a live display on a terminal, lines in a log, JSON lines for machines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .console import PLAIN_LINE_EVERY_S, Reporter, clock

if TYPE_CHECKING:
    from dvis_cli.batch import BatchOptions, BatchReport, Event
    from dvis_cli.run.options import SegmentOptions

_FAILURES_SHOWN = 40
_CURRENT_SHOWN = 3  # videos under way that a line of progress names


def segment_many(
    reporter: Reporter,
    sources: Sequence[str | Path],
    out: str | Path,
    segment: SegmentOptions,
    options: BatchOptions,
    json_output: bool = False,
) -> int:
    """Run a batch and show it; returns the exit code. Raises `DvisError` when it cannot begin."""
    from dvis_cli.batch import run_batch

    live = not reporter.quiet and sys.stderr.isatty()
    display = (
        _JsonDisplay(reporter) if json_output else _LiveDisplay(reporter) if live else _Display(reporter)
    )
    with display:
        report = run_batch(sources, out, segment, options, display)
    if not json_output:
        show_report(reporter, report, out)
    return report.exit_code


def show_report(reporter: Reporter, report: BatchReport, out: str | Path) -> None:
    """The table at the end: what failed and why, then the counts. Failures are shown even when quiet."""
    reporter.say("")
    for failure in report.failed[:_FAILURES_SHOWN]:
        earlier = " (in an earlier run; --retry-failed tries again)" if failure.earlier else ""
        print(f"failed: {shown(failure.key)}: {shown(failure.error)}{earlier}", file=sys.stderr)
    if len(report.failed) > _FAILURES_SHOWN:
        print(f"... {len(report.failed) - _FAILURES_SHOWN} more in {out}/failures.jsonl", file=sys.stderr)
    rate = f", {report.frames / report.seconds:.2f} frames/s" if report.frames and report.seconds else ""
    again = "".join(f"; {count} again: {why}" for why, count in sorted(report.redone.items()))
    rows = [
        ("done", report.done, f"{report.frames} frames in {clock(report.seconds)}{rate}{again}"),
        ("skipped", report.skipped, "done before, and unchanged"),
        ("failed", len(report.failed), ""),
        ("left", report.left, "the same command goes on with them"),
        ("elsewhere", report.elsewhere, "another run is working on them"),
    ]
    for name, count, facts in rows:
        if count or name in ("done", "skipped", "failed"):
            reporter.say(f"{name:9} {count:7}   {facts}".rstrip())
    if report.reason:
        print(f"{'stopped: ' if report.stopped else ''}{report.reason}", file=sys.stderr)
    sys.stderr.flush()


def shown(text: str) -> str:
    """A name as one line that any terminal takes: control characters and invalid UTF-8 are spelled out."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


class _Display:
    """Lines for a log: one for each video, and one of progress now and then."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self._finished = self._total = 0
        self._last = time.monotonic()

    def __enter__(self) -> _Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to take down."""

    def __call__(self, event: Event) -> None:
        for line in self.lines(event.kind, event.data):
            self.say(line)

    def say(self, line: str) -> None:
        self.reporter.say(line)

    def lines(self, kind: str, data: Any) -> list[str]:
        """What there is to say of an event."""
        if kind == "started":
            return self._started(data)
        if kind == "note":
            return [shown(data["text"])]
        if kind == "worker":
            return self._worker(data)
        if kind == "warning":
            return [f"warning: {shown(data['key'])}: {shown(data['text'])}"]
        if kind in ("video_done", "video_failed"):
            self._finished += 1
            return [f"[{self._finished}/{self._total}] {_outcome(kind, data)}"]
        if kind == "video_retried":
            return [f"again: {shown(data['key'])}: {shown(data['error'])} (try {data['try']})"]
        if kind == "progress":
            self._finished, self._total = data["videos"], data["total"]
            if time.monotonic() - self._last >= PLAIN_LINE_EVERY_S:
                self._last = time.monotonic()
                return [progress_line(data)]
        return []

    def _started(self, data: Any) -> list[str]:
        self._total, self._finished = data["total"], data["skipped"] + data["failed_before"]
        lines = [
            f"{data['total']} videos: {data['todo']} to do, {data['skipped']} done before"
            + (f", {data['failed_before']} failed before" if data["failed_before"] else "")
        ]
        lines += [f"{count} are done again: {reason}" for reason, count in sorted(data["redo"].items())]
        return lines

    def _worker(self, data: Any) -> list[str]:
        line = f"worker {data['worker']}: {shown(data['text'])}"
        if data.get("untrained") and data["worker"] == 0:
            return [
                line,
                f"warning: model {data['model']!r} is untrained: the files have the right form, the segments "
                "mean nothing; use a trained checkpoint with --model FILE",
            ]
        return [line]


def _outcome(kind: str, data: Any) -> str:
    key = shown(data["key"])
    if kind == "video_failed":
        return f"failed: {key}: {shown(data['error'])}"
    return f"{key}: {data['frames']} frames, {data['segments']} segments, {data['seconds']:.1f} s"


def progress_line(data: Any) -> str:
    """`12/40 videos, 1 failed, 3.2 frames/s, 0:21 left; a/clip 12/60, b 3`."""
    parts = [f"{data['videos']}/{data['total']} videos"]
    if data["failed"]:
        parts.append(f"{data['failed']} failed")
    parts.append(f"{data['frames_per_second']:.2f} frames/s")
    if data["seconds_left"] is not None:
        parts.append(f"{clock(data['seconds_left'])} left")
    current = [f"{shown(one['key'])} {_fraction(one)}" for one in data["current"][:_CURRENT_SHOWN]]
    if len(data["current"]) > _CURRENT_SHOWN:
        current.append(f"{len(data['current']) - _CURRENT_SHOWN} more")
    return ", ".join(parts) + ("; " + ", ".join(current) if current else "")


def _fraction(one: Any) -> str:
    return f"{one['frames']}/{one['total']}" if one["total"] else f"{one['frames']}"


class _JsonDisplay(_Display):
    """Events as JSON lines on stdout; stderr keeps errors only."""

    def __call__(self, event: Event) -> None:
        sys.stdout.write(json.dumps(event.document()) + "\n")
        sys.stdout.flush()


class _LiveDisplay(_Display):
    """A bar for the whole and one for each worker, with what happened above them."""

    def __enter__(self) -> _LiveDisplay:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[facts]}", style="dim", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._bars.start()
        self._all = self._bars.add_task("loading", total=None, facts="")
        self._of_worker: dict[int, Any] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        if event.kind == "progress":
            self._update(event.data)
        super().__call__(event)

    def say(self, line: str) -> None:
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def lines(self, kind: str, data: Any) -> list[str]:
        self._last = time.monotonic()  # the bars show progress
        return super().lines(kind, data)

    def _update(self, data: Any) -> None:
        facts = progress_line({**data, "current": []})
        self._bars.update(
            self._all, description="all", total=data["total"], completed=data["videos"], facts=facts
        )
        current = {one["worker"]: one for one in data["current"]}
        for worker in [w for w in self._of_worker if w not in current]:
            self._bars.remove_task(self._of_worker.pop(worker))
        for worker, one in current.items():
            if worker not in self._of_worker:
                self._of_worker[worker] = self._bars.add_task("", total=None, facts="")
            total = max(one["total"], one["frames"]) if one["total"] else None
            self._bars.update(
                self._of_worker[worker],
                description=shown(one["key"])[-40:],
                total=total,
                completed=one["frames"],
                facts=_fraction(one),
            )
