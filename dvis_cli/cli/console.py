"""What every command prints: progress and warnings on stderr, results on stdout.

On a terminal progress is a live rich bar; anywhere else it is a plain line now and then, so that a log
file stays readable. `quiet` leaves only errors.
"""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dvis_cli.errors import warnings_to
from dvis_cli.files import output_errors, to_json

PLAIN_LINE_EVERY_S = 10.0
FIRST_LINE_AFTER_S = 2.0


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    print_result(to_json(document, indent=2))


def print_result(text: str) -> None:
    """A line, or several, on stdout, at once. Raises `OutputError`: nobody reads, or a disk is full."""
    with output_errors(Path("standard output")):
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def clock(seconds: float) -> str:
    """`75.2` -> `1:15`, `3700` -> `1:01:40`."""
    whole = max(round(seconds), 0)
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


class Reporter:
    """Everything a command prints to stderr."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.warned: list[str] = []  # every warning so far, shown or not

    def say(self, text: str) -> None:
        """A line a person may want to read."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """A line a person should read."""
        self.warned.append(text)
        if not self.quiet:
            print(f"warning: {text}", file=sys.stderr, flush=True)

    def warnings_as_lines(self) -> AbstractContextManager[None]:
        """Show `DvisWarning`s as lines of ours."""
        return warnings_to(self.warn)

    def progress(self, label: str, total: int | None, unit: str = "frames") -> Progress:
        """A progress display to be used as a context manager.

        Args:
            label: what is being worked on, e.g. the file name.
            total: how many units there will be, None when nobody knows.
            unit: what is counted, plural.
        """
        if self.quiet:
            return Progress(label, total, unit)
        if sys.stderr.isatty():
            return _RichProgress(label, total, unit)
        return _PlainProgress(label, total, unit)


class Progress:
    """Silent progress: counts and shows nothing. The shown kinds derive from it."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self.begun_at = 0  # units that were done before this process began
        self.stage_name = ""
        self.next_line = 0.0  # when a log gets its next line
        self.started = time.monotonic()

    def __enter__(self) -> Progress:
        self.started = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def advance(self, count: int = 1) -> None:
        """`count` more units are done."""
        self.done += count
        self.show()

    def advance_named(self, name: str, total: int | None = None) -> None:
        """One more unit is done, `name`; `total` where it was not known before."""
        self.total = self.total if total is None else total
        self.advance()

    def begin_at(self, done: int) -> None:
        """Count from here and now: what went before does not count in the rate."""
        self.done = self.begun_at = done
        self.started = time.monotonic()

    def update(self, done: int, stage: str | None = None) -> None:
        """Set the count, and what is going on."""
        self.done = done
        if stage is not None:
            self.stage_name = stage
        self.show()

    def begin(self, stage: str) -> None:
        """Show a stage at once: it is long, and nothing counts meanwhile."""
        self.next_line = 0.0
        self.update(self.done, stage)

    def show(self) -> None:
        """Bring the display up to date."""

    def close(self) -> None:
        """Take the display down."""

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return (self.done - self.begun_at) / max(time.monotonic() - self.started, 1e-6)

    def describe(self) -> str:
        """`12/60 frames, 2.3 frames/s, 0:21 left, network`."""
        parts = [f"{self.done}/{self.total} {self.unit}" if self.total else f"{self.done} {self.unit}"]
        if self.done > self.begun_at:
            parts.append(f"{self.rate:.2f} {self.unit}/s")
            if self.total and self.total >= self.done:
                parts.append(f"{clock((self.total - self.done) / self.rate)} left")
        if self.stage_name:
            parts.append(self.stage_name)
        return ", ".join(parts)


class _PlainProgress(Progress):
    """A line every few seconds, for logs."""

    def __enter__(self) -> Progress:
        self.next_line = time.monotonic() + FIRST_LINE_AFTER_S
        return super().__enter__()

    def show(self) -> None:
        now = time.monotonic()
        if now >= self.next_line:
            self.next_line = now + PLAIN_LINE_EVERY_S
            print(f"{self.label}: {self.describe()}", file=sys.stderr, flush=True)


class _RichProgress(Progress):
    """A live bar on a terminal."""

    def __enter__(self) -> Progress:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[facts]}", style="dim"),
            console=Console(stderr=True),
            transient=True,
        )
        self.bar.start()
        self.task = self.bar.add_task(escape(self.label), total=self.total, facts="")
        return super().__enter__()

    def show(self) -> None:
        # A source's frame count is an estimate: grow the bar rather than stand at 105 %.
        total = max(self.total, self.done) if self.total else None
        self.bar.update(self.task, completed=self.done, total=total, facts=self.describe())

    def close(self) -> None:
        self.bar.stop()
