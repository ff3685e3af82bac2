"""`index.html` of an output whose results have report pages: a picture, the counts and a link for each video."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dvis_cli.errors import DvisError, OutputError
from dvis_cli.writers.folder import REPORT_PAGE, REPORT_THUMBNAIL
from dvis_cli.writers.html_page import fill_page

from .claims import FLUSH_EVERY, Claims, SharedFile
from .output import INDEX, RECORD, Output, parse
from .places import as_utf8
from .report import Event, OnEvent

_DATA = re.compile(rb'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


class IndexPage(SharedFile):
    """Written every now and then and at the end.

    Args:
        keys: of videos that may have a result already.
        settings: the hash with which a result counts as one of this batch.
    """

    def __init__(self, output: Output, claims: Claims, keys: Sequence[str], settings: str) -> None:
        super().__init__(INDEX, output, claims)
        self._settings = settings
        self._unread = list(keys)
        self._rows: dict[str, dict[str, Any]] = {}  # key -> frames and segments, or error

    def listen(self, on_event: OnEvent) -> OnEvent:
        """`on_event`, with this page kept up to date."""

        def heard(event: Event) -> None:
            on_event(event)
            facts = event.data
            if event.kind == "video_done":
                self._rows[as_utf8(facts["key"])] = {"frames": facts["frames"], "segments": facts["segments"]}
            elif event.kind == "video_failed":
                self._rows[as_utf8(facts["key"])] = {"error": facts["error"]}
            else:
                return
            try:
                self.flush()
            except DvisError as error:
                self.wait(12 * FLUSH_EVERY)
                on_event(Event("note", {"text": str(error)}))

        return heard

    def _update(self) -> bytes | None:
        self._read_results()
        there = next(self._output.read([INDEX]))
        if there is not None and not _DATA.search(there):
            raise OutputError(
                f"{self._output.name}/{INDEX} is none of ours and stays as it is; no index is written"
            )
        self._rows = {**_rows_of(there), **self._rows}
        return _page(self._rows, self._output.name).encode() if self._rows else there

    def _read_results(self) -> None:
        keys, self._unread = self._unread, []
        for key, data in zip(keys, self._output.read(f"{key}/{RECORD}" for key in keys), strict=True):
            record = parse(data)
            if record.get("settings") == self._settings:
                row = {name: record.get(name) for name in ("frames", "segments")}
                self._rows.setdefault(as_utf8(key), row)


def _rows_of(page: bytes | None) -> dict[str, dict[str, Any]]:
    """What an index lists, as far as it makes sense: the file may be anybody's."""
    found = _DATA.search(page or b"")
    rows = parse(found[1] if found else b"")
    return {key: row for key, row in rows.items() if isinstance(row, dict) and _is_row(row)}


def _is_row(row: dict[str, Any]) -> bool:
    counts = [row.get(name) for name in ("frames", "segments")]
    return isinstance(row.get("error"), str) or all(type(count) is int for count in counts)


def _page(rows: dict[str, dict[str, Any]], name: str) -> str:
    done = [key for key in sorted(rows) if "error" not in rows[key]]
    failed = [key for key in sorted(rows) if "error" in rows[key]]
    frames = sum(rows[key]["frames"] for key in done)
    return fill_page(
        Path(__file__).with_name("index.html"),
        ("index.js",),
        json.dumps(rows),
        TITLE=escape(as_utf8(name).rstrip("/").rpartition("/")[2] or "Results"),
        FACTS=f"{len(done)} videos, {frames:,} frames" + (f", {len(failed)} failed" if failed else ""),
        CARDS="\n".join(_card(key, rows[key]) for key in done),
        FAILED="\n".join(f"<li><b>{escape(key)}</b> {escape(rows[key]['error'])}</li>" for key in failed),
        HIDDEN="" if failed else "hidden",
    )


def _card(key: str, row: dict[str, Any]) -> str:
    folder = quote(key)
    return (
        f'<li><a href="{folder}/{REPORT_PAGE}"><img src="{folder}/{REPORT_THUMBNAIL}" alt="" loading="lazy">'
        f"<span>{escape(key)}</span><small>{row['frames']:,} frames, {row['segments']:,} segments</small></a></li>"
    )
