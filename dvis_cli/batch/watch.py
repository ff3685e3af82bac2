"""A folder that fills up: new videos are done when they have stopped growing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from dvis_cli.errors import DvisError

from .options import BatchOptions
from .places import Item
from .plan import Job, Plan, look_at


class Watch:
    """Looks for videos that were not there before, every few seconds.

    Args:
        find: lists all videos there are now.
        plan: decides about some of them; called once for each video.
    """

    def __init__(
        self,
        find: Callable[[], Sequence[Item]],
        plan: Callable[[Sequence[Item]], Plan],
        options: BatchOptions,
    ) -> None:
        self._find, self._plan, self._options = find, plan, options
        self._growing: dict[str, tuple[str | None, float]] = {}  # key -> fingerprint, since when
        self._taken: set[str] = set()  # keys that were planned
        self._next = time.monotonic() + options.watch_every
        self._busy_at = time.monotonic()

    def settled(self, items: Sequence[Item]) -> list[Item]:
        """Those that have not changed for a while; each is returned once."""
        ready = []
        now = time.monotonic()
        for item in (look_at(one) for one in items if one.key not in self._taken):
            # An old file need not be waited for.
            mark, since = self._growing.get(item.key, (None, now - _age(item)))
            if mark is not None and mark != item.fingerprint:
                since = now
            self._growing[item.key] = (item.fingerprint, since)
            if now - since >= self._options.settle:
                ready.append(item)
                self._taken.add(item.key)
                del self._growing[item.key]
        return ready

    def __call__(self, busy: bool) -> list[Job] | None:
        """New jobs; None when there has been nothing to do for as long as was agreed."""
        now = time.monotonic()
        if busy or self._growing:
            self._busy_at = now
        idle = self._options.watch_idle
        if idle is not None and now - self._busy_at >= idle:
            return None
        if now < self._next:
            return []
        try:
            jobs = self._plan(self.settled(self._find())).jobs
        except DvisError:  # a folder that is away for a moment
            jobs = []
        took = time.monotonic() - now
        # A million are not listed all the time.
        self._next = time.monotonic() + max(self._options.watch_every, 10 * took)
        return jobs


def _age(item: Item) -> float:
    """Seconds since the input last changed; 0 when unknown."""
    stamp = (item.fingerprint or "").rpartition(":")[2]
    return max(time.time() - int(stamp) / 1e9, 0.0) if stamp.isdecimal() else 0.0
