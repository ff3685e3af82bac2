"""What is known of every video of a run, on the disk before anything depends on it.

A journal: a file of JSON lines, one whole row a line, the last line of a video counts. A change is one write at
the end of the file, so a crash at any byte costs at most the line it cut, and that is a line nothing was built
on yet. At the end of a run the file is rewritten, beside itself and renamed, with one row a video in order.

Not SQLite, though it is well kept: outputs of many machines lie on network disks, where its locks and its
write-ahead log are documented not to work; shards of one run must read one another's rows while they grow; and an
object store takes a manifest only as one plain file. Appending needs nothing of a file system.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from dvis_cli.errors import OutputError
from dvis_cli.files import output_errors

State = Literal["pending", "running", "done", "failed"]
STEM = "dvis-manifest"
FORMAT = {"format": STEM, "version": 1}
_SLACK = 1000  # superseded lines that are not worth rewriting the file for


@dataclass(slots=True)
class Row:
    """One video."""

    key: str  # its result's folder, relative to the output folder, with forward slashes
    source: str  # the path or address it was read from
    state: State = "pending"
    tries: int = 0  # times that work on it began, since its input or settings last changed
    seconds: float | None = None  # that the last finished try took
    frames: int | None = None
    segments: int | None = None
    error: str | None = None  # one line
    fingerprint: str | None = None  # of the input, by the file system: size and time
    content: str | None = None  # of the input, by its bytes
    settings: str | None = None  # hash of everything that changes the results
    ours: bool | None = None  # whether what lies at its place in the output is our own, to be replaced
    dvis: str | None = None  # version of the program
    when: float = 0.0  # Unix time of this row


_FIELDS = frozenset(field.name for field in dataclasses.fields(Row))


def file_name(shard: tuple[int, int] | None) -> str:
    """The name of the manifest of a whole run, or of part I of N."""
    return f"{STEM}.jsonl" if shard is None else f"{STEM}.{shard[0]}-of-{shard[1]}.jsonl"


class Manifest:
    """Context manager: rows by key, each change durable when `put` returns.

    Only one process may have a manifest open for writing; `lock.py` sees to that.

    Raises:
        OutputError: on entry, the file cannot be written, or was made by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        self.ignored = 0  # lines that could not be read, after a crash of the machine
        self._file = -1
        self._end = 0  # bytes that are whole lines
        self._lines = 0

    def __enter__(self) -> Manifest:
        with output_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for stray in self.path.parent.glob(f".{self.path.name}.partial-*"):
                stray.unlink(missing_ok=True)
            whole = self._load()
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.ftruncate(self._file, whole)  # a line that a crash cut
            self._end = whole
            if not whole:
                self._append(_line(FORMAT), sync=True)
        if self._lines > 2 * len(self.rows) + _SLACK:
            self.compact()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def get(self, key: str) -> Row | None:
        """The row of a video, None when it is new."""
        return self.rows.get(key)

    def put(self, *rows: Row, sync: bool = True) -> None:
        """Record rows, new or changed. With `sync` they survive a power cut, without a crash of ours."""
        now = time.time()
        for row in rows:
            row.when = now
        with output_errors(self.path):
            self._append("".join(_line(row_document(row)) for row in rows), sync)
        self.rows.update((row.key, row) for row in rows)
        self._lines += len(rows)

    def compact(self) -> None:
        """Rewrite the file with one line a video, in order of their keys; whole or not at all."""
        partial = self.path.with_name(f".{self.path.name}.partial-{os.getpid()}")
        try:
            with output_errors(self.path):
                with partial.open("w", encoding="ascii") as file:
                    file.write(_line(FORMAT))
                    file.writelines(_line(row_document(self.rows[key])) for key in sorted(self.rows))
                    file.flush()
                    os.fsync(file.fileno())
                    end = file.tell()
                new = os.open(partial, os.O_WRONLY | os.O_APPEND)
                partial.replace(self.path)
                sync_folder(self.path.parent)
        finally:
            partial.unlink(missing_ok=True)
        os.close(self._file)
        self._file, self._end, self._lines = new, end, len(self.rows)

    def adopt(self, others: Iterable[Row]) -> None:
        """Take over rows of other parts of the same output where they are newer; nothing is written yet."""
        for row in others:
            mine = self.rows.get(row.key)
            if mine is None or mine.when < row.when:
                self.rows[row.key] = row

    def _load(self) -> int:
        """Read the rows; returns where the last whole line ends."""
        if not self.path.exists():
            return 0
        whole = 0
        for document, end in read_lines(self.path):
            whole = end
            if document is None:
                self.ignored += 1
            elif (row := _row(document)) is not None:
                self.rows[row.key] = row
                self._lines += 1
        return whole

    def _append(self, text: str, sync: bool) -> None:
        data = memoryview(text.encode("ascii"))
        size = len(data)
        try:
            while data:
                data = data[os.write(self._file, data) :]
            if sync:
                os.fsync(self._file)
        except OSError:
            with suppress(OSError):  # a full disk: leave no half line for the next one to be glued to
                os.ftruncate(self._file, self._end)
            raise
        self._end += size


def rows_of(path: Path) -> Iterator[Row]:
    """Rows of a manifest that another process may be writing, the last one of each video last."""
    with suppress(FileNotFoundError):
        for document, _ in read_lines(path):
            row = _row(document) if document is not None else None
            if row is not None:
                yield row


def read_lines(path: Path) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """(document or None when damaged, offset of its end) of every whole line.

    Raises:
        OutputError: not a manifest of ours, or one of a newer version.
    """
    end = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            first, end = end == 0, end + len(line)
            try:
                document = json.loads(line)
            except ValueError:
                document = None
            if not isinstance(document, dict):
                document = None
            if first and document != FORMAT:
                raise OutputError(
                    f"{path} is not a manifest that this version reads ({line[:60]!r}); choose another output "
                    "folder, or move the file away and let finished videos be done again"
                )
            yield document, end


def row_document(row: Row) -> dict[str, Any]:
    """A row as JSON takes it; nothing is written for what is not known."""
    document = {name: getattr(row, name) for name in Row.__slots__}
    return {name: value for name, value in document.items() if value is not None}


def _row(document: dict[str, Any]) -> Row | None:
    if "key" not in document or "source" not in document:
        return None
    try:
        return Row(**document)
    except TypeError:  # a field of a later version
        return Row(**{name: value for name, value in document.items() if name in _FIELDS})


def _line(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":")) + "\n"  # ASCII: also for names that are no valid UTF-8


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
