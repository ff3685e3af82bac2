"""What a batch tells in files of the output: `failures.jsonl` and, with --report, `index.html`.

Both are small, and rewritten whole now and then; runs side by side do so in turn, under a claim.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dvis_cli.errors import OutputError
from dvis_cli.files import as_utf8
from dvis_cli.writers.folder import REPORT_PAGE, REPORT_THUMBNAIL
from dvis_cli.writers.html_page import fill_page

from .claims import Claims
from .output import FAILURES, INDEX, Output, parse
from .report import Failure

_EVERY = 5.0  # seconds between two versions, at least
_DATA = re.compile(rb'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)

Row = dict[str, Any]


class Summary:
    """The failures that this run knows of, and its part of the index.

    What a killed run had not written yet of failures is tried again.

    Args:
        index: whether there is to be an index.
    """

    def __init__(self, output: Output, claims: Claims, index: bool) -> None:
        self._output, self._claims, self._with_index = output, claims, index
        self._failures = self._read_failures()
        self._changes: dict[str, Row | None] = {}  # of failures, not written yet
        self._results: dict[str, Row] = {}  # key -> frames and segments, for the index
        self._index_is_old = False
        self._next = 0.0  # time.monotonic()

    def failure(self, key: str) -> Row | None:
        """What is known of a video that failed."""
        return self._failures.get(as_utf8(key))

    def failed(self, failure: Failure, fingerprint: str | None, settings: str) -> None:
        """A video failed, on this input with these settings."""
        row = {name: as_utf8(value) for name, value in asdict(failure).items() if name != "earlier"}
        self._changes[row["key"]] = {**row, "fingerprint": fingerprint, "settings": settings}
        self._index_is_old = True

    def done(self, key: str, record: Row) -> None:
        """A video has a result, now or from an earlier run; `record`: at least its frames and segments."""
        if as_utf8(key) in self._failures:
            self._changes[as_utf8(key)] = None
        if self._with_index and _has_counts(record):
            self._results[key] = {name: record.get(name) for name in ("frames", "segments")}
            self._index_is_old = True

    def flush(self, at_once: bool = False) -> bool:
        """Write what is new if it is time; False where that has to be tried again: another run is writing.

        Raises:
            OutputError, TransferError: it cannot be written.
        """
        began = time.monotonic()
        due = self._changes or (self._with_index and self._index_is_old)
        if not due or (began < self._next and not at_once):
            return True
        if self._claims.take(FAILURES) is not None:
            return False
        self._next = began + 12 * _EVERY  # where it fails
        try:
            self._write_failures()
            if self._with_index:
                self._write_index()
        finally:
            self._claims.release(FAILURES)
        self._next = time.monotonic() + max(_EVERY, 20 * (time.monotonic() - began))
        return True

    def _write_failures(self) -> None:
        changes = dict(self._changes)
        rows = {**self._read_failures(), **changes}
        self._failures = {key: row for key, row in rows.items() if row is not None}
        lines = "".join(json.dumps(self._failures[key]) + "\n" for key in sorted(self._failures))
        if not lines:
            self._output.remove(FAILURES)
        elif changes:
            self._output.write(FAILURES, lines.encode(), self._claims.stage(FAILURES))
        for key, row in changes.items():
            if self._changes.get(key) is row:
                del self._changes[key]

    def _read_failures(self) -> dict[str, Row]:
        rows = (parse(line) for line in (next(self._output.read([FAILURES])) or b"").splitlines())
        return {
            row["key"]: row for row in rows if all(type(row.get(name)) is str for name in ("key", "error"))
        }

    def _write_index(self) -> None:
        there = next(self._output.read([INDEX]))
        if there is not None and not _DATA.search(there):
            where = f"{self._output.name}/{INDEX}"
            raise OutputError(f"{where} is none of ours and stays as it is; no index is written")
        self._index_is_old = False
        for key, row in _rows_of(there).items():
            self._results.setdefault(key, row)
        results = dict(self._results)  # the workers' threads go on adding
        if results or self._failures:
            page = _page(results, self._failures, self._output.name)
            self._output.write(INDEX, page.encode(), self._claims.stage(FAILURES))


def _rows_of(page: bytes | None) -> dict[str, Row]:
    """The results that an index lists, as far as they make sense: the file may be anybody's."""
    found = _DATA.search(page or b"")
    rows = parse(found[1] if found else b"")
    return {key: row for key, row in rows.items() if isinstance(row, dict) and _has_counts(row)}


def _has_counts(row: Row) -> bool:
    return all(type(row.get(name)) is int for name in ("frames", "segments"))


def _page(results: dict[str, Row], failures: dict[str, Row], name: str) -> str:
    frames = sum(row["frames"] for row in results.values())
    failed = f", {len(failures)} failed" if failures else ""
    return fill_page(
        Path(__file__).with_name("index.html"),
        ("index.js",),
        json.dumps(results),
        TITLE=escape(as_utf8(name).rstrip("/").rpartition("/")[2] or "Results"),
        FACTS=f"{len(results)} videos, {frames:,} frames{failed}",
        CARDS="\n".join(_card(key, results[key]) for key in sorted(results)),
        FAILED="\n".join(
            f"<li><b>{escape(key)}</b> {escape(str(failures[key]['error']))}</li>" for key in sorted(failures)
        ),
        HIDDEN="" if failures else "hidden",
    )


def _card(key: str, row: Row) -> str:
    folder = quote(key, errors="surrogateescape")
    return (
        f'<li><a href="{folder}/{REPORT_PAGE}"><img src="{folder}/{REPORT_THUMBNAIL}" alt="" loading="lazy">'
        f"<span>{escape(as_utf8(key))}</span>"
        f"<small>{row['frames']:,} frames, {row['segments']:,} segments</small></a></li>"
    )
