"""Documents of scores as one flat table, for spreadsheets."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dvis_cli.errors import OutputError

Rows = Callable[[dict[str, Any]], Iterator[dict[str, Any]]]


def write_rows(path: Path, documents: Iterable[dict[str, Any]], rows_of: Rows) -> None:
    """One row for each run x (all, video or class); a column for every number that any row has.

    Raises:
        OutputError: the file cannot be written.
    """
    rows = [{"run": document["prediction"], **row} for document in documents for row in rows_of(document)]
    columns: Sequence[str] = list(dict.fromkeys(column for row in rows for column in row))
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
