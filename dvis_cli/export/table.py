"""A row for each segment in each frame: `objects.csv`, `objects.parquet`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dvis_cli.errors import UsageError
from dvis_cli.files import output_errors
from dvis_cli.structures import FinishedFrame

from .job import Job, Writer
from .seen import seen_in

COLUMNS = {
    "frame": "int64",  # 0, 1, 2, ...
    "time": "float64",  # seconds on the source's own clock
    "id": "int64",
    "class_id": "int64",  # the dataset's
    "class": "string",
    "isthing": "bool_",
    "score": "float64",
    "area": "int64",  # pixels
    "x": "int64",  # the box, in pixels
    "y": "int64",
    "width": "int64",
    "height": "int64",
    "center_x": "float64",  # centroid of the pixels, in pixels
    "center_y": "float64",
}
ROWS_AT_ONCE = 8192  # of a Parquet row group


def rows_of(frame: FinishedFrame, job: Job) -> Iterator[list[Any]]:
    """The frame's rows, in the order of `COLUMNS`."""
    for one in seen_in(frame, job.chosen):
        kind, center = one.segment.category, one.centroid
        yield [
            frame.index,
            round(frame.pts, 6),
            job.number(one.segment),
            kind.id,
            kind.name,
            kind.isthing,
            round(float(one.segment.score), 6),
            one.area,
            *one.box,
            round(center[0], 3),
            round(center[1], 3),
        ]


class CsvTable(Writer):
    """Comma-separated values, UTF-8, with a head line."""

    def __init__(self, path: Path, job: Job) -> None:
        super().__init__(path, job)
        with output_errors(path):
            self._file = path.open("w", encoding="utf-8", newline="")
            self._csv = csv.writer(self._file, lineterminator="\n")
            self._csv.writerow(COLUMNS)

    def add(self, frame: FinishedFrame) -> None:
        with output_errors(self.path):
            self._csv.writerows(rows_of(frame, self.job))

    def close(self) -> None:
        with output_errors(self.path):
            self._file.close()

    def abort(self) -> None:
        with suppress(OSError):  # what waits to be written does not matter any more
            self._file.close()


class ParquetTable(Writer):
    """Apache Parquet, through pyarrow."""

    def __init__(self, path: Path, job: Job) -> None:
        super().__init__(path, job)
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise UsageError("parquet needs pyarrow: pip install 'dvis[parquet]', or take csv") from None
        self._arrow = pyarrow
        self._schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in COLUMNS.items()])
        self._rows: list[list[Any]] = []
        with output_errors(path):
            self._writer = pyarrow.parquet.ParquetWriter(path, self._schema)

    def add(self, frame: FinishedFrame) -> None:
        self._rows.extend(rows_of(frame, self.job))
        if len(self._rows) >= ROWS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        self._flush()
        with output_errors(self.path):
            self._writer.close()

    def abort(self) -> None:
        with suppress(OSError, ValueError):
            self._writer.close()

    def _flush(self) -> None:
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in self._rows]
        with output_errors(self.path):
            self._writer.write_table(self._arrow.Table.from_pylist(rows, schema=self._schema))
        self._rows = []
