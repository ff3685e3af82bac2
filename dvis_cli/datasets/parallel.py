"""The same function over many items in worker processes, results in the order of the items."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

from dvis_cli.errors import DvisError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4  # items handed out for each worker, so that neither side waits and little is held


class _Worker(SpawnProcess):
    """Ends with its parent: after a second Ctrl-C nobody is left to tell a worker that there is no more work."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "daemon": True})


class _Context(SpawnContext):
    Process = _Worker


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def parallel_map(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Yield `function(item)` for every item, in order.

    Args:
        function: importable by name (a `functools.partial` of such a function will do).
        items: what to work on.
        workers: processes; with 1 the work is done here.

    Raises:
        DvisError: a worker died (out of memory, killed). What `function` raises comes through, and items
            that were not begun are dropped.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        yield from map(function, items)
        return
    # Fresh interpreters: forking a process that holds threads (progress display, torch) can hang.
    pool = ProcessPoolExecutor(workers, mp_context=_Context(), initializer=_leave_interrupts_to_parent)
    try:
        waiting: list[Future[Result]] = []
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= AHEAD * workers:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    except BrokenProcessPool as error:
        raise DvisError(
            "a worker process died, out of memory perhaps; try again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
