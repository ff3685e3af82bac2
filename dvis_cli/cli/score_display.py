"""Score documents as terminal tables that read like the challenge report's."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dvis_cli.challenge.tables import GROUPS, MEANS, headline

NOTHING = "-"


def print_scores(documents: Sequence[dict[str, Any]], headed: bool, per_class: bool, per_video: bool) -> None:
    """One row for each run, then what was chosen of each; with `headed`, runs have headings and no totals."""
    console = Console() if sys.stdout.isatty() else Console(width=240)  # no cut-off cells in a file or pipe
    console.print(_table(_headlines(documents), left=2 if "method" in documents[0] else 1))
    for document in documents:
        if not headed:
            _print_totals(console, document)
        elif per_class or per_video:
            console.print(f"\n{document['prediction']}", markup=False, highlight=False)
        for rows in ([_class_rows] if per_class else []) + ([_video_rows] if per_video else []):
            console.print()
            console.print(_table(rows(document)))


def _headlines(documents: Sequence[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """VPQ, VPQ1, VPQ2, VPQ4, VPQ6, STQ and the like; with methods, as in the report's table 3."""
    rows = [headline(document) for document in documents]
    for document, name, row in zip(documents, _names(documents), rows, strict=True):
        cells = {"Run": name, **{key: _number(value, 3 if key == "STQ" else 1) for key, value in row.items()}}
        if "method" in document:
            gain = "" if row is rows[0] else _gain(rows[0], row)
            cells = {"Method": document["method"], **cells, "Gain": gain}
        yield cells


def _gain(first: dict[str, float | None], row: dict[str, float | None]) -> str:
    """In the first column."""
    key = next(iter(row))
    value, base = row[key], first.get(key)
    return NOTHING if value is None or base is None else f"{value - base:+.{3 if key == 'STQ' else 1}f}"


def _print_totals(console: Console, document: dict[str, Any]) -> None:
    if "vpq" in document:
        console.print()
        console.print(_window_table(document["vpq"]))
        for window in document["vpq"]["empty_windows"]:
            text = f"VPQ{window}: no video has {window} frames; left out of the means"
            console.print(text, highlight=False, style="yellow")
    if "stq" in document:
        stq = document["stq"]
        console.print(
            f"\nSTQ {stq['stq']:.4f}  AQ {stq['aq']:.4f}  SQ {stq['sq']:.4f}  ({stq['classes']} classes)",
            highlight=False,
        )
    counts = f"{document['videos']} videos, {document['frames']} frames"
    if "task" in document:
        counts = f"\n{counts}, {document['classes']} classes"
    console.print(f"{counts}, {document['seconds']:.1f} s", highlight=False)


def _window_table(vpq: dict[str, Any]) -> Table:
    """PQ, SQ and RQ by group; columns are window lengths, and for PQ the means over them."""
    rows = []
    for part in ("pq", "sq", "rq"):
        for group in GROUPS:
            row = {"": f"{part.upper()} {group}"}
            row |= {f"VPQ{window}": _number(groups[group][part]) for window, groups in vpq["windows"].items()}
            for kind, wanted in MEANS.items():
                mean = _number(vpq["means"][kind][group]) if part == "pq" else ""
                row[f"mean {','.join(map(str, wanted))}"] = mean
            rows.append(row)
    return _table(rows, sections=len(GROUPS))


def _class_rows(document: dict[str, Any]) -> Iterator[dict[str, str]]:
    if "task" not in document:
        yield from _panoptic_classes(document)
    for row in document.get("per_class", []):
        cells = {"Class": row["name"], "Id": str(row["id"])}
        if "iou" in row:
            yield {**cells, "IoU": _number(100 * row["iou"])}
        else:
            scores = {key.upper(): _number(row[key]) for key in ("ap", "ap50", "ap75")}
            yield {**cells, **scores, "True tubes": str(row["tubes"])}


def _panoptic_classes(document: dict[str, Any]) -> Iterator[dict[str, str]]:
    vpq, stq = (
        {row["id"]: row for row in document.get(part, {}).get("per_class", [])} for part in ("vpq", "stq")
    )
    for number in sorted(vpq.keys() | stq.keys()):
        row = vpq.get(number) or stq[number]
        cells = {"Class": row["name"], "Id": str(number), "": "thing" if row["isthing"] else "stuff"}
        for window in document.get("vpq", {}).get("windows", {}):
            cells[f"VPQ{window}"] = _number(vpq.get(number, {}).get("windows", {}).get(window, {}).get("pq"))
        if stq:
            cells["IoU"] = _number(100 * stq[number]["iou"] if number in stq else None)
        yield cells


def _video_rows(document: dict[str, Any]) -> Iterator[dict[str, str]]:
    for row in document.get("per_video", []):
        yield {"Video": row["video_id"], **{key: _number(value) for key, value in headline(row).items()}}
    vpq, stq = (
        {row["video_id"]: row for row in document.get(part, {}).get("per_video", [])}
        for part in ("vpq", "stq")
    )
    for name in vpq or stq:
        cells = {"Video": name}
        if vpq:
            cells["VPQ"] = _number(vpq[name]["report"])
            cells |= {f"VPQ{window}": _number(pq) for window, pq in vpq[name]["windows"].items()}
        if stq:
            cells |= {key.upper(): _number(stq[name][key], 3) for key in ("stq", "aq", "sq")}
        yield cells


def _table(rows: Iterable[dict[str, str]], left: int = 1, sections: int = 0) -> Table:
    """Cells by heading. The first `left` columns are words; a line comes after every `sections` rows."""
    table = Table(box=None, pad_edge=False)
    for number, row in enumerate(rows, start=1):
        if number == 1:
            for place, heading in enumerate(row):
                table.add_column(heading, justify="left" if place < left else "right", no_wrap=True)
        table.add_row(*row.values(), end_section=bool(sections) and number % sections == 0)
    return table


def _names(documents: Sequence[dict[str, Any]]) -> list[str]:
    """Folder names where these tell the runs apart, else whole paths."""
    paths = [document["prediction"] for document in documents]
    short = [Path(path).name or path for path in paths]
    return short if len(set(short)) == len(short) else paths


def _number(value: float | None, digits: int = 1) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"
