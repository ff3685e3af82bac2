"""Score documents as terminal tables that read like the challenge report's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dvis_cli.challenge.tables import GROUPS, MEANS, headline

NOTHING = "-"


def print_scores(documents: Sequence[dict[str, Any]], headed: bool, per_class: bool, per_video: bool) -> None:
    """One row for each run, then what was chosen of each; with `headed`, runs have headings and no totals."""
    _print_headlines(documents)
    for document in documents:
        _print_details(document, headed, per_class, per_video)


def _print_headlines(documents: Sequence[dict[str, Any]]) -> None:
    """VPQ, VPQ1, VPQ2, VPQ4, VPQ6, STQ and the like; with methods, as in the report's table 3."""
    rows = [headline(document) for document in documents]
    compared = "method" in documents[0]
    table = _table([*(["Method"] if compared else []), "Run", *rows[0], *(["Gain"] if compared else [])])
    if compared:
        table.columns[1].justify = "left"
    for document, name, row in zip(documents, _names(documents), rows, strict=True):
        cells = [_number(value, 3 if key == "STQ" else 1) for key, value in row.items()]
        if compared:
            table.add_row(document["method"], name, *cells, _gain(rows[0], row) if row is not rows[0] else "")
        else:
            table.add_row(name, *cells)
    _console().print(table)


def _gain(first: dict[str, float | None], row: dict[str, float | None]) -> str:
    """In the first column."""
    key = next(iter(row))
    value, base = row[key], first.get(key)
    return NOTHING if value is None or base is None else f"{value - base:+.{3 if key == 'STQ' else 1}f}"


def _print_details(document: dict[str, Any], headed: bool, per_class: bool, per_video: bool) -> None:
    console = _console()
    if headed:
        if not (per_class or per_video):
            return
        console.print(f"\n{document['prediction']}", markup=False, highlight=False)
    else:
        _print_totals(console, document)
    if per_class:
        console.print()
        console.print(_class_table(document) if "task" in document else _panoptic_classes(document))
    if per_video:
        console.print()
        console.print(_video_table(document) if "task" in document else _panoptic_videos(document))


def _print_totals(console: Console, document: dict[str, Any]) -> None:
    if "vpq" in document:
        console.print()
        console.print(_window_table(document["vpq"]))
        _print_empty(console, document)
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
    windows = vpq["windows"]
    means = [f"mean {','.join(map(str, wanted))}" for wanted in MEANS.values()]
    table = _table(["", *(f"VPQ{window}" for window in windows), *means])
    for part in ("pq", "sq", "rq"):
        for group in GROUPS:
            cells = [_number(groups[group][part]) for groups in windows.values()]
            if part == "pq":
                cells += [_number(vpq["means"][kind][group]) for kind in MEANS]
            table.add_row(f"{part.upper()} {group}", *cells, end_section=group == "stuff")
    return table


def _print_empty(console: Console, document: dict[str, Any]) -> None:
    for window in document["vpq"]["empty_windows"]:
        console.print(
            f"VPQ{window}: no video has {window} frames; left out of the means",
            highlight=False,
            style="yellow",
        )


def _class_table(document: dict[str, Any]) -> Table:
    """Of instances or classes."""
    if document["task"] == "semantic":
        table = _table(["Class", "Id", "IoU"])
        for row in document["per_class"]:
            table.add_row(row["name"], str(row["id"]), _number(100 * row["iou"]))
        return table
    table = _table(["Class", "Id", "AP", "AP50", "AP75", "True tubes"])
    for row in document["per_class"]:
        scores = [_number(row[key]) for key in ("ap", "ap50", "ap75")]
        table.add_row(row["name"], str(row["id"]), *scores, str(row["tubes"]))
    return table


def _video_table(document: dict[str, Any]) -> Table:
    rows = [(row["video_id"], headline(row)) for row in document["per_video"]]
    table = _table(["Video", *(rows[0][1] if rows else [])])
    for name, values in rows:
        table.add_row(name, *(_number(value) for value in values.values()))
    return table


def _panoptic_classes(document: dict[str, Any]) -> Table:
    windows = list(document.get("vpq", {}).get("windows", {}))
    iou = {row["id"]: row["iou"] for row in document.get("stq", {}).get("per_class", [])}
    known = {row["id"]: row for row in document.get("vpq", {}).get("per_class", [])}
    names = {row["id"]: row for part in ("stq", "vpq") for row in document.get(part, {}).get("per_class", [])}
    table = _table(["Class", "Id", "", *(f"VPQ{window}" for window in windows), *(["IoU"] if iou else [])])
    for number in sorted(names):
        cells = known.get(number, {}).get("windows", {})
        scores = [_number(cells.get(window, {}).get("pq")) for window in windows]
        last = [_number(100 * iou[number] if number in iou else None)] if iou else []
        kind = "thing" if names[number]["isthing"] else "stuff"
        table.add_row(names[number]["name"], str(number), kind, *scores, *last)
    return table


def _panoptic_videos(document: dict[str, Any]) -> Table:
    windows = list(document.get("vpq", {}).get("windows", {}))
    vpq = {row["video_id"]: row for row in document.get("vpq", {}).get("per_video", [])}
    stq = {row["video_id"]: row for row in document.get("stq", {}).get("per_video", [])}
    columns = (["VPQ", *(f"VPQ{window}" for window in windows)] if vpq else []) + (
        ["STQ", "AQ", "SQ"] if stq else []
    )
    table = _table(["Video", *columns])
    for name in vpq or stq:
        cells = []
        if vpq:
            cells += [_number(vpq[name]["report"])]
            cells += [_number(vpq[name]["windows"][window]) for window in windows]
        if stq:
            cells += [_number(stq[name][key], 3) for key in ("stq", "aq", "sq")]
        table.add_row(name, *cells)
    return table


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _console() -> Console:
    """A terminal's own width, and no cut-off cells in a file or pipe."""
    return Console() if sys.stdout.isatty() else Console(width=240)


def _names(documents: Sequence[dict[str, Any]]) -> list[str]:
    """Folder names where these tell the runs apart, else whole paths."""
    paths = [document["prediction"] for document in documents]
    short = [Path(path).name or path for path in paths]
    return short if len(set(short)) == len(short) else paths


def _number(value: float | None, digits: int = 1) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"
