"""One video to files: what `dvis segment` writes, and the formats of `--format`, made from these before they show."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvis_cli.errors import DvisError, DvisWarning
from dvis_cli.structures import Category
from dvis_cli.writers.folder import EXPORTS_FOLDER, check_target, safe_name
from dvis_cli.writers.frame_files import frame_files
from dvis_cli.writers.instance_picture import SHOWN_FROM
from dvis_cli.writers.video_folder import VideoFolderWriter

from .model import DvisModel
from .options import SegmentOptions
from .video import OnProgress, segment_video

if TYPE_CHECKING:
    from dvis_cli.export.run import ExportOptions


def save_video(
    source: str | Path,
    out: str | Path,
    model: DvisModel | str | Path | None = None,
    options: SegmentOptions | None = None,
    *,
    name: str | None = None,
    source_path: str | None = None,
    on_progress: OnProgress | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Segment a video and write `OUT/<name>/`: PNG maps (or masks.jsonl), segments.json, an overlay video, exports.

    Args:
        source, model, options, on_progress, changes: as for `segment_video`.
        out: folder in which the video's own folder is made.
        name: of that folder; None is the source's, made safe.
        source_path: the path of the source in segments.json; None is its own.

    Returns:
        the document in segments.json, without what is there for every frame.

    Raises:
        OutputError: the result exists or cannot be written. Nothing half-written stays.
    """
    options = replace(options or SegmentOptions(), **changes)
    video = segment_video(source, model, options, on_progress=on_progress)
    target = Path(out) / (safe_name(video.info.name) if name is None else name)
    check_target(target, options.overwrite)
    writer = VideoFolderWriter(
        target,
        replace(video.info, path=source_path or video.info.path),
        options.outputs,
        run=video.facts,
        overwrite=options.overwrite,
        audio_from=Path(source) if video.info.has_audio else None,
        files=frame_files(options.task, video.model.categories),
        shown_from=video.settings.score_threshold or SHOWN_FROM,
        finishing=_exporter(options, video.model.categories, Path(source), on_progress),
        encoding=video.settings.encoding,
    )
    try:
        with writer:
            for frame in video:
                writer.add(frame)
                if on_progress:
                    on_progress("files", frame.index + 1)
            return writer.finish(video.segments)
    finally:
        video.close()


def _exporter(
    options: SegmentOptions,
    categories: Sequence[Category],
    source: Path,
    on_progress: OnProgress | None,
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

    return partial(_export, wanted, categories, on_progress)


def _export(
    wanted: ExportOptions, categories: Sequence[Category], on_progress: OnProgress | None, folder: Path
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
