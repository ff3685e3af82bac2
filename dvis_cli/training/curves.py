"""The log of a run read back, and a picture of it.

Lightning's `CSVLogger` writes `RUN/log/version_<n>/metrics.csv`, a new version each time a run is resumed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from dvis_cli.files import atomic_path

LOG = "log"
PICTURE = "curves.png"
SMOOTHED_OVER = 50  # rows, at the most, that a point of a curve averages


def read_log(run: Path) -> list[dict[str, float]]:
    """The rows of all versions; what a resumed version did again replaces the rows before it."""
    rows: list[dict[str, float]] = []
    for path in sorted((run / LOG).glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name[8:])):
        new = list(_rows(path))
        if new:
            rows = [row for row in rows if row["step"] < new[0]["step"]] + new
    return rows


def _rows(path: Path) -> Iterator[dict[str, float]]:
    """Without empty cells, and without a row cut short by a crash."""
    with path.open(newline="", encoding="utf-8") as file:
        for cells in csv.DictReader(file):
            try:
                row = {name: float(cell) for name, cell in cells.items() if cell}
            except (TypeError, ValueError):
                continue
            if "step" in row:
                yield row


def draw_curves(run: Path, title: str) -> Path:
    """Write `RUN/curves.png`: the loss with its parts, the learning rate, and the validation scores."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_log(run)
    panels = [("loss", ["loss", "loss_ce", "loss_mask", "loss_dice"]), ("learning rate", ["lr"])]
    scores = sorted({name for row in rows for name in row if name.startswith("vpq")})
    if scores:
        panels.append(("validation", scores))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 3.5), squeeze=False)
    for axis, (label, columns) in zip(axes[0], panels, strict=True):
        for column in columns:
            points = [(row["step"], row[column]) for row in rows if column in row]
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
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
    pyplot.close(figure)
    return path


def _smooth(points: list[tuple[float, float]], over: int) -> tuple[list[float], list[float]]:
    """Running means over up to `over` points, fewer where there are few points in all."""
    over = max(1, min(over, len(points) // 10))
    means = [
        sum(y for _, y in points[max(0, i - over + 1) : i + 1]) / min(i + 1, over) for i in range(len(points))
    ]
    return [x for x, _ in points], means
