"""The formats of `dvis segment --format`: made from the result's files when all are there, before it gets its name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dvis_cli.errors import DvisError, DvisWarning
from dvis_cli.structures import Category
from dvis_cli.writers.folder import EXPORTS_FOLDER

from .options import SegmentOptions


def exporter(
    options: SegmentOptions,
    categories: Sequence[Category],
    source: Path,
    on_progress: Callable[[str, int], None] | None = None,
) -> Callable[[Path], None] | None:
    """What to call with the finished folder; None where no format is wanted.

    Args:
        categories: the model's.
        source: the film.

    Raises:
        UsageError: `only` names a class that the model does not have.
    """
    if options.format is None:
        return None
    from dvis_cli.export.run import ExportOptions
    from dvis_cli.export.selection import chosen_classes

    chosen_classes(categories, options.only or ())
    wanted = ExportOptions(options.format, options.only, options.per_object, options.images, source)

    def export(folder: Path) -> None:
        _export(folder, wanted, categories, on_progress)

    return export


def _export(
    folder: Path, wanted: Any, categories: Sequence[Category], on_progress: Callable[[str, int], None] | None
) -> None:
    """All formats in one pass; if one fails, each by itself, and what fails is left out: the result stays."""
    from dvis_cli.export.formats import parse_formats
    from dvis_cli.export.result import open_result
    from dvis_cli.export.run import export_result

    result, out, done = open_result(folder), folder / EXPORTS_FOLDER, 0

    def count(frames: int) -> None:
        nonlocal done
        done += frames
        if on_progress is not None:
            on_progress("exports", done)

    try:
        export_result(result, wanted, out, count, categories)
        return
    except DvisError as error:
        names = [f"{one.format.name}:{one.variant}".rstrip(":") for one in parse_formats(wanted.formats)]
        if len(names) == 1:
            return _left_out(names[0], error)
    for name in names:
        try:
            export_result(result, replace(wanted, formats=(name,), overwrite=True), out, count, categories)
        except DvisError as error:
            _left_out(name, error)


def _left_out(name: str, error: DvisError) -> None:
    warnings.warn(f"{name} was left out: {error}", DvisWarning, stacklevel=3)
