"""What a batch of videos looks like: a live display on a terminal, lines in a log, JSON lines for machines."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvis_cli.files import to_json

from .console import PLAIN_LINE_EVERY_S, Reporter, clock, print_result
from .segment_runs import UNTRAINED

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
    display = _JsonDisplay if json_output else _LiveDisplay if live else _Display
    with display(reporter) as show:
        report = run_batch(sources, out, segment, options, show)
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
        self.say = reporter.say
        self._finished = self._total = 0
        self._last = time.monotonic()

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to take down."""

    def __call__(self, event: Event) -> None:
        kind, data = event.kind, event.data
        if kind == "progress":
            self._finished, self._total = data["videos"], data["total"]
            self.show(data)
        elif kind in ("video_done", "video_failed"):
            self._finished += 1
            self.say(f"[{self._finished}/{self._total}] {_outcome(kind, data)}")
        elif kind == "started":
            self._total, self._finished = data["total"], data["skipped"] + data["failed_before"]
            earlier = f", {data['failed_before']} failed before" if data["failed_before"] else ""
            self.say(f"{self._total} videos: {data['todo']} to do, {data['skipped']} done before{earlier}")
            for reason, count in sorted(data["redo"].items()):
                self.say(f"{count} are done again: {reason}")
        elif kind == "note":
            self.say(shown(data["text"]))
        elif kind == "worker":
            self.say(f"worker {data['worker']}: {shown(data['text'])}")
            if data.get("untrained") and data["worker"] == 0:
                self.say(f"warning: {UNTRAINED.format(data['model'])}")
        elif kind == "warning":
            self.say(f"warning: {shown(data['key'])}: {shown(data['text'])}")
        elif kind == "video_retried":
            self.say(f"again: {shown(data['key'])}: {shown(data['error'])} (try {data['try']})")

    def show(self, data: Any) -> None:
        """Show how far the whole is."""
        if data["current"] and time.monotonic() - self._last >= PLAIN_LINE_EVERY_S:  # not while it waits
            self._last = time.monotonic()
            self.say(progress_line(data))


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
    current = [
        f"{shown(one['key'])} {one['frames']}" + (f"/{one['total']}" if one["total"] else "")
        for one in data["current"][:_CURRENT_SHOWN]
    ]
    if len(data["current"]) > _CURRENT_SHOWN:
        current.append(f"{len(data['current']) - _CURRENT_SHOWN} more")
    return ", ".join(parts) + ("; " + ", ".join(current) if current else "")


class _JsonDisplay(_Display):
    """Events as JSON lines on stdout; stderr keeps errors only."""

    def __call__(self, event: Event) -> None:
        print_result(to_json(event.document()))


class _LiveDisplay(_Display):
    """A bar, with what happened above it."""

    def __enter__(self) -> _LiveDisplay:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        facts = TextColumn("{task.description}", markup=False)
        self._bar = Progress(BarColumn(bar_width=28), facts, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("loading", total=None)
        self.say = partial(self._bar.console.print, markup=False, highlight=False, soft_wrap=True)
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def show(self, data: Any) -> None:
        self._bar.update(
            self._task, description=progress_line(data), total=data["total"], completed=data["videos"]
        )
