"""Work beside the caller's: a thread and a bounded queue, so that neither side runs far ahead of the other.

What fails in the thread is raised in the caller's, where it can be dealt with.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")
_LOOK_UP = 0.05  # seconds between looks at the other side while waiting for it


class BoundedThread(Generic[T]):
    """A thread that works through the items of a bounded queue, in order, until the first failure.

    Args:
        name: of the thread.
        work: called with each item.
        size: items that may wait, 1 or more.
    """

    def __init__(self, name: str, work: Callable[[T], object], size: int) -> None:
        self._work = work
        self._queue: queue.Queue[tuple[T] | None] = queue.Queue(max(1, size))
        self._failure: BaseException | None = None
        self._cancelled = False
        # A daemon, so that even a crash of the main thread that skips `cancel` lets the program end.
        self._thread = threading.Thread(target=self._run, name=f"dvis-{name}", daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Queue an item, waiting for room; raises what `work` raised for an earlier one."""
        self._put((item,))

    def finish(self) -> None:
        """Wait until all items are through; raises what `work` raised."""
        self._put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def cancel(self) -> None:
        """Forget the items that wait, and end the thread after the one at hand. Does not raise."""
        self._cancelled = True
        while self._thread.is_alive():
            with suppress(queue.Empty):
                while True:
                    self._queue.get_nowait()
            with suppress(queue.Full):
                self._queue.put_nowait(None)
            self._thread.join(_LOOK_UP)

    def _put(self, entry: tuple[T] | None) -> None:
        while True:
            if self._failure is not None:
                raise self._failure
            try:
                return self._queue.put(entry, timeout=_LOOK_UP)
            except queue.Full:
                continue

    def _run(self) -> None:
        try:
            while (entry := self._queue.get()) is not None and not self._cancelled:
                self._work(entry[0])
        except BaseException as error:  # carried over to the thread that can act on it
            self._failure = error


def ahead(items: Iterable[T], size: int, name: str) -> Iterator[T]:
    """The same items, made by a thread that is up to `size` of them ahead. Closing the iterator ends the thread."""
    made: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()
    source = iter(items)

    def make(_: None) -> None:
        try:
            made.put((next(source),))
        except StopIteration:
            made.put(None)
        except BaseException as error:
            made.put(error)

    thread = BoundedThread(name, make, size)
    try:
        for _ in range(size):
            thread.put(None)
        while (entry := made.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            thread.put(None)  # an item taken is one more to make
            yield entry[0]
    finally:
        thread.cancel()
