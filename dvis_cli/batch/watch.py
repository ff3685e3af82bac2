"""A folder that fills up: new videos are done when they have stopped growing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dvis_cli import __version__
from dvis_cli.errors import DvisError

from .folders import Filters, identity_of
from .inputs import look_at
from .manifest import Manifest
from .options import BatchOptions
from .output import Output
from .plan import Job, make_plan
from .report import BatchReport
from .sources import Item, list_videos, place_videos


class Watch:
    """Looks for videos that were not there before, every few seconds."""

    def __init__(
        self,
        sources: Sequence[str | Path],
        out: str | Path,
        filters: Filters,
        options: BatchOptions,
        known: dict[str, str],
    ) -> None:
        self._sources, self._out, self._filters, self._options = sources, out, filters, options
        self._known = known  # identity of a source -> its key
        self._first_seen: dict[str, tuple[str | None, float]] = {}  # key -> fingerprint, since when
        self._taken: set[str] = set()  # keys that are in the plan
        self._next = time.monotonic() + options.watch_every
        self._busy_at = time.monotonic()

    def settled(self, items: Sequence[Item]) -> list[Item]:
        """Those that have not changed for a while; each is returned once."""
        ready = []
        now = time.monotonic()
        for given in items:
            if given.key in self._taken:
                continue
            item = look_at(given)
            mark, since = self._first_seen.get(item.key, (None, now))
            if mark != item.fingerprint or item.key not in self._first_seen:
                since = now - _age(item)  # a file that is old already need not be waited for
                self._first_seen[item.key] = (item.fingerprint, max(since, now) if mark else since)
                since = self._first_seen[item.key][1]
            if now - since >= self._options.settle:
                ready.append(item)
                self._taken.add(item.key)
                del self._first_seen[item.key]
        return ready

    def look(
        self, manifest: Manifest, output: Output, settings: str, report: BatchReport, busy: Callable[[], bool]
    ) -> list[Job] | None:
        """New jobs; None when there has been nothing to do for as long as was agreed."""
        now = time.monotonic()
        if busy() or self._first_seen:
            self._busy_at = now
        idle = self._options.watch_idle
        if idle is not None and now - self._busy_at >= idle:
            return None
        if now < self._next:
            return []
        self._next = now + self._options.watch_every
        try:
            found = list_videos(self._sources, self._out, self._filters).found
            items = place_videos(found, self._known)
        except DvisError:  # a folder that is away for a moment
            return []
        self._known.update((identity_of(item.source), item.key) for item in items)
        plan = make_plan(self.settled(items), manifest, output, self._options, settings, __version__)
        report.total += plan.total
        report.skipped += plan.skipped
        report.failed.extend(plan.failed_before)
        return plan.jobs


def _age(item: Item) -> float:
    """Seconds since the input last changed; 0 when unknown."""
    if item.fingerprint is None or ":" not in item.fingerprint:
        return 0.0
    stamp = item.fingerprint.rpartition(":")[2]
    return max(time.time() - int(stamp) / 1e9, 0.0) if stamp.isdecimal() else 0.0
