"""Arrays that must wait: in RAM up to a budget, then in a memory-mapped temporary file.

What waits is the mask features, frames and winner maps of the frames that are decided together. The file has
no name on the disk (it is unlinked as soon as it is made), so it is gone however the process ends, kill -9
included.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Hashable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import IO

import numpy as np

from dvis_cli.errors import OutputError
from dvis_cli.structures import Frame

_NO_PIXELS = np.empty((0, 0, 3), np.uint8)  # of a frame whose pixels wait in the spool


class WaitingFrames:
    """The frames of a horizon until they are decided: their pixels, and what was decided, in a spool.

    Args:
        memory_budget: bytes to keep in RAM.
    """

    def __init__(self, memory_budget: int) -> None:
        self._spool = Spool(memory_budget)
        self.frames: list[Frame] = []  # without their pixels

    def __len__(self) -> int:
        return len(self.frames)

    def add(self, frame: Frame) -> None:
        """Keep one more frame."""
        self._spool.put(("rgb", len(self.frames)), frame.rgb)
        self.frames.append(replace(frame, rgb=_NO_PIXELS))

    def decide(self, index: int, decided: np.ndarray) -> None:
        """Keep what was decided of the frame at `index` of the horizon."""
        self._spool.put(("decided", index), decided)

    def close(self) -> None:
        """Give memory and disk space back."""
        self._spool.clear()

    def take(self) -> Iterator[tuple[Frame, np.ndarray]]:
        """Each whole frame with what was decided of it; then memory and disk space are given back."""
        with self._spool as spool:
            for index, frame in enumerate(self.frames):
                yield replace(frame, rgb=spool.get(("rgb", index))), spool.get(("decided", index))


class Spool:
    """A keyed store of arrays with a limit on the RAM it takes.

    Records are written once and may be read often; `clear` forgets them all and gives the disk space back.
    """

    def __init__(self, memory_budget: int, folder: str | None = None) -> None:
        """
        Args:
            memory_budget: bytes to keep in RAM; the rest goes to the file.
            folder: where the file is made; None is the system's folder for temporary files (`TMPDIR`).
        """
        self.memory_budget = memory_budget
        self.folder = folder
        self.in_memory = 0  # bytes
        self.on_disk = 0  # bytes, with padding
        self._arrays: dict[Hashable, np.ndarray] = {}
        self._records: dict[Hashable, tuple[int, tuple[int, ...], np.dtype]] = {}
        self._file: IO[bytes] | None = None

    def put(self, key: Hashable, array: np.ndarray) -> None:
        """Keep an array. It must not be written to afterwards.

        Raises:
            OutputError: the temporary file cannot be made or grown.
        """
        if self.in_memory + array.nbytes <= self.memory_budget:
            self._arrays[key] = array
            self.in_memory += array.nbytes
            return
        try:
            self._records[key] = (self._append(array), array.shape, array.dtype)
        except OSError as error:
            raise self._failure(error) from None

    def get(self, key: Hashable) -> np.ndarray:
        """The array put under `key`, read-only; of a record on disk, a view into its mapped pages.

        The pages belong to the returned array alone: what is read does not pile up in memory.
        """
        if key in self._arrays:
            return self._arrays[key]
        start, shape, dtype = self._records[key]
        size = int(np.prod(shape)) * dtype.itemsize
        assert self._file is not None
        if size == 0:
            return np.empty(shape, dtype)
        pages = mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_READ, offset=start)
        return np.frombuffer(pages, dtype).reshape(shape)

    def clear(self) -> None:
        """Forget everything and give memory and disk space back.

        Arrays that were handed out stay readable: the file is left to them, never cut under a mapping.
        """
        self._arrays.clear()
        self._records.clear()
        self.in_memory = self.on_disk = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def _append(self, array: np.ndarray) -> int:
        """Write at the end of the file; returns where. Written, not mapped: a full disk must be an error."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="dvis-spool-", dir=self.folder, buffering=0)  # noqa: SIM115
        start = self.on_disk
        self._file.seek(start)
        data = memoryview(np.ascontiguousarray(array).data).cast("B")
        while data:
            data = data[self._file.write(data) :]
        # Mapping needs records to begin on a page (the allocation granularity on some systems).
        self.on_disk = -(-(start + array.nbytes) // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        return start

    def _failure(self, error: OSError) -> OutputError:
        folder = self.folder or tempfile.gettempdir()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            need = self.on_disk / 2**30
            return OutputError(
                f"no space left for the temporary file in {folder} ({need:.1f} GiB written): free some, set "
                "TMPDIR to a larger disk, or lower --window and --horizon"
            )
        return OutputError(f"cannot write a temporary file in {folder}: {os.strerror(error.errno or 0)}")
