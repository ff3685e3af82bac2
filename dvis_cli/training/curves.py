"""What training wrote down: a CSV that survives interruptions, and a picture of its columns."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

NAME = "curves.csv"
PICTURE = "curves.png"
SMOOTHED_OVER = 50  # rows, at the most, that a point of a curve averages


class Curves:
    """`RUN/curves.csv`: a row per logged iteration. Rows after the iteration resumed from are dropped."""

    def __init__(self, run: Path, resumed_at: int = 0) -> None:
        self.path = run / NAME
        self.columns: list[str] = []
        if resumed_at and self.path.is_file():
            rows = [row for row in read_curves(run) if row["iteration"] <= resumed_at]
            if rows:
                self.columns = list(dict.fromkeys(name for row in rows for name in row))
            self._rewrite(rows)
        else:
            self.path.unlink(missing_ok=True)

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row; columns that appear later are added to the file's head."""
        new = [name for name in row if name not in self.columns]
        if new:
            rows = read_curves(self.path.parent) if self.path.is_file() else []
            self.columns += new
            self._rewrite(rows)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="").writerow(dict(row))

    def _rewrite(self, rows: list[dict[str, float]]) -> None:
        partial = self.path.with_name(f".{NAME}.partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self.path)


def read_curves(run: Path) -> list[dict[str, float]]:
    """The rows of a run's CSV; a cell that is empty is left out, a row cut short by a crash, too."""
    with (run / NAME).open(newline="", encoding="utf-8") as file:
        rows = []
        for cells in csv.DictReader(file):
            try:
                row = {name: float(cell) for name, cell in cells.items() if name and cell}
            except (TypeError, ValueError):
                continue
            if "iteration" in row:
                rows.append(row)
        return rows


def draw_curves(run: Path, title: str) -> Path:
    """Write `RUN/curves.png`: the loss with its parts, the learning rate, and the validation scores."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_curves(run)
    panels = [("loss", ["loss", "loss_ce", "loss_mask", "loss_dice"]), ("learning rate", ["lr"])]
    scores = sorted({name for row in rows for name in row if name.startswith("vpq")})
    if scores:
        panels.append(("validation", scores))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 3.5), squeeze=False)
    for axis, (label, columns) in zip(axes[0], panels, strict=True):
        for column in columns:
            points = [(row["iteration"], row[column]) for row in rows if column in row]
            if points:
                axis.plot(*_smooth(points, 1 if label == "validation" else SMOOTHED_OVER), label=column)
        axis.set_xlabel("iteration")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0][0].set_yscale("log")
    figure.suptitle(title)
    figure.tight_layout()
    path = run / PICTURE
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _smooth(points: list[tuple[float, float]], over: int) -> tuple[list[float], list[float]]:
    """Running means over up to `over` points, fewer where there are few points in all."""
    over = max(1, min(over, len(points) // 10))
    means = [
        sum(y for _, y in points[max(0, i - over + 1) : i + 1]) / min(i + 1, over) for i in range(len(points))
    ]
    return [x for x, _ in points], means
