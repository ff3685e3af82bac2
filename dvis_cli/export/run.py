"""A finished result to files in other forms: one pass over its frames for many formats, each whole or not at all."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from dvis_cli.errors import DvisWarning, OutputError, UsageError
from dvis_cli.files import abandoned, output_errors, partial_path, put_in_place, remove
from dvis_cli.structures import Category, FinishedFrame, Segment
from dvis_cli.writers.folder import EXPORTS_FOLDER, safe_name

from .formats import Chosen, parse_formats
from .job import Job, Writer
from .pictures import with_pictures
from .result import Result
from .selection import choose, names_and_ids

WRITERS_AT_ONCE = 8  # open encoders at any moment; more take another pass over the frames


@dataclass(frozen=True)
class ExportOptions:
    """What of a result to export, and how."""

    formats: tuple[str, ...]  # `coco`, `matte:webm`, ..., or `all`
    only: tuple[str, ...] | None = None  # classes or ids; None: all things, and stuff where the format has it
    per_object: bool = False  # a file for each chosen segment
    images: bool = False  # the frames as JPEG beside annotations
    source: Path | None = None  # the film; None: where it was
    overwrite: bool = False


@dataclass(frozen=True)
class _Output:
    """One file or folder to make."""

    chosen: Chosen
    target: Path
    job: Job

    @property
    def needs_pictures(self) -> bool:
        return self.job.images or self.chosen.format.load().needs_pictures


def export_result(
    result: Result,
    options: ExportOptions,
    out: Path | None = None,
    on_frame: Callable[[int], object] | None = None,
    known: Sequence[Category] | None = None,
) -> list[Path]:
    """Write a result in the chosen formats.

    Args:
        out: the folder; of a single format, a file's name with its suffix, too. None is `exports/` in the result.
        on_frame: called with 1 for each frame of each pass.
        known: all classes of the model: one that the video does not show is then no error.

    Returns:
        the files and folders that were made.

    Raises:
        UsageError, DatasetError, OutputError, VideoError: in one line. What is complete by then stays.
    """
    made: list[Path] = []
    outputs = plan_outputs(result, options, out, known)
    _tell_missing(result, options, outputs)
    for start in range(0, len(outputs), WRITERS_AT_ONCE):
        group = outputs[start : start + WRITERS_AT_ONCE]
        pictures = any(output.needs_pictures for output in group)
        frames: Iterable[FinishedFrame] = with_pictures(result, options.source) if pictures else result
        write_outputs(group, _counted(frames, on_frame), options.overwrite)
        made += [output.target for output in group]
    return made


def passes(result: Result, options: ExportOptions, known: Sequence[Category] | None = None) -> int:
    """How often the frames are gone through."""
    return -(-len(plan_outputs(result, options, Path(), known)) // WRITERS_AT_ONCE)


def plan_outputs(
    result: Result, options: ExportOptions, out: Path | None, known: Sequence[Category] | None = None
) -> list[_Output]:
    """What is to be made; refuses what exists."""
    named = [(result.file_id(segment), segment) for segment in result.segments]
    segments = choose(named, options.only, known)
    formats, folder = parse_formats(options.formats), result.folder / EXPORTS_FOLDER if out is None else out
    if len(formats) == 1 and folder.suffix and not options.per_object:
        formats, folder, name = _named_file(formats[0], folder)
        outputs = [_Output(formats[0], folder / name, _job(result, options, segments, formats[0]))]
    else:
        outputs = [one for chosen in formats for one in _outputs(result, options, segments, chosen, folder)]
    for output in outputs:
        _check(output, options.overwrite)
    return outputs


def _tell_missing(result: Result, options: ExportOptions, outputs: list[_Output]) -> None:
    """Warn of ids that no segment has, and of what will be empty."""
    there = set(map(result.file_id, result.segments))
    if missing := [str(id) for id in names_and_ids(options.only or ())[1] if id not in there]:
        _warn(f"{result.info.name}: --only {','.join(missing)}: no segment has such an id")
    empty = [output.target.name for output in outputs if not output.job.segments]
    if empty or not outputs:
        what = ",".join(options.only or ()) or ("things" if result.segments else "all")
        then = f"{', '.join(empty)} will be empty" if outputs else "nothing is written"
        _warn(f"{result.info.name}: there is nothing to export of {what}: {then}")


def _outputs(
    result: Result, options: ExportOptions, segments: list[Segment], chosen: Chosen, folder: Path
) -> Iterator[_Output]:
    job = _job(result, options, segments, chosen)
    if not options.per_object:
        yield _Output(chosen, folder / chosen.file, job)
        return
    stem, suffix = Path(chosen.file).stem, Path(chosen.file).suffix
    for segment in job.segments:
        name = re.sub(r"[^\w-]+", "_", segment.category.name.split(",")[0]).strip("_") or "segment"
        target = folder / stem / f"{safe_name(name)}-{job.number(segment)}{suffix}"
        yield _Output(chosen, target, replace(job, chosen=_among({segment.id}), segments=(segment,)))


def _job(result: Result, options: ExportOptions, segments: list[Segment], chosen: Chosen) -> Job:
    if options.only is None and not chosen.format.stuff and result.task != "semantic":
        segments = [segment for segment in segments if segment.category.isthing]
    return Job(
        info=result.info,
        chosen=_among({segment.id for segment in segments}),
        segments=tuple(segments),
        pts=result.pts,
        names=[name or f"{index:06d}" for index, name in enumerate(result.names)],
        number=result.file_id,
        images=options.images,
        variant=chosen.variant,
        warn=_warn,
    )


def _among(ids: set[int]) -> Callable[[Segment], bool]:
    return lambda segment: segment.id in ids


def write_outputs(outputs: list[_Output], frames: Iterable[FinishedFrame], overwrite: bool) -> None:
    """One pass over the frames for all outputs; they get their names when all are complete."""
    for output in outputs:
        for left in abandoned(output.target, "partial"):  # by a run that was killed
            remove(left)
    parts = [partial_path(output.target) for output in outputs]
    writers: list[Writer] = []
    with ExitStack() as stack:
        for output, part in zip(outputs, parts, strict=True):
            with output_errors(output.target):
                output.target.parent.mkdir(parents=True, exist_ok=True)
            stack.callback(remove, part)
            writers.append(output.chosen.format.load()(part, output.job))
            stack.callback(writers[-1].abort)
        for frame in frames:
            for writer in writers:
                writer.add(frame)
        for writer in writers:
            writer.close()
        for output, part in zip(outputs, parts, strict=True):
            _check(output, overwrite)
            with output_errors(output.target):
                put_in_place(part, output.target)


def _check(output: _Output, overwrite: bool) -> None:
    """Refuse what would be replaced by accident, and a folder in which somebody keeps something of their own."""
    target = output.target
    if target.is_symlink():
        raise OutputError(f"{target} is a symbolic link; choose another folder with --out")
    if target.exists() and not overwrite:
        raise OutputError(f"{target} already exists; add --overwrite to replace it")
    known = output.chosen.format.inside.split()
    foreign = [one.name for one in target.iterdir()] if target.is_dir() else []
    foreign = [name for name in foreign if not any(fnmatch(name, pattern) for pattern in known)]
    if foreign:
        raise OutputError(
            f"{target} holds what is no {output.chosen.format.name} ({foreign[0]}): move it elsewhere"
        )


def _named_file(chosen: Chosen, path: Path) -> tuple[list[Chosen], Path, str]:
    """`-o person.webm`: the suffix is the variant, where the format has it."""
    suffix = path.suffix[1:].lower()
    format = chosen.format
    if format.name == "matte" and suffix == "mp4":
        parse_formats([f"matte:{suffix}"])  # refused by name
    if suffix in format.files and suffix != "png":
        chosen = Chosen(format, suffix)
    if Path(chosen.file).suffix[1:] == suffix:
        return [chosen], path.parent, path.name
    if Path(chosen.file).suffix and not path.is_dir():
        raise UsageError(
            f"{format.name} writes {Path(chosen.file).suffix}, not .{suffix}: name a folder, or such a file"
        )
    return [chosen], path, chosen.file


def _counted(
    frames: Iterable[FinishedFrame], on_frame: Callable[[int], object] | None
) -> Iterator[FinishedFrame]:
    for frame in frames:
        yield frame
        if on_frame is not None:
            on_frame(1)


def _warn(message: str) -> None:
    warnings.warn(message, DvisWarning, stacklevel=3)
