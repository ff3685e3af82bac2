"""Result folders of `dvis segment`, read back: `segments.json` with `panoptic/`, `semantic/` or `masks.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvis_cli.coco_masks import check_counts
from dvis_cli.config import TaskName
from dvis_cli.datasets.id_map import LARGEST_SIDE
from dvis_cli.datasets.names import read_json, safe_name, stem_of
from dvis_cli.errors import DatasetError
from dvis_cli.structures import MaskTube

OUTPUT_JSON = "segments.json"
MASKS_NAME = "masks.jsonl"


@dataclass(frozen=True)
class Output:
    """One result folder and its segments.json."""

    folder: Path
    task: TaskName
    files: tuple[str | None, ...]  # of each frame, the PNG's path in the folder
    stems: tuple[str, ...]  # of each frame: its source's name without suffix, or 000000, 000001, ...
    named: bool  # the source's frames have names of their own
    segments: tuple[dict[str, Any], ...]  # id, category_id, score

    def pngs(self) -> tuple[str, ...]:
        """The frames' PNGs, as paths in the folder. Raises DatasetError where there are none."""
        if None in self.files:
            raise DatasetError(f"{self.folder} was made without PNGs; run dvis segment again with them")
        return tuple(file for file in self.files if file is not None)


def output_folders(run: Path) -> list[Path]:
    """The results in a folder: itself, or those of its folders that are results."""
    if (run / OUTPUT_JSON).is_file():
        return [run.resolve()]
    return sorted(path.parent.resolve() for path in run.glob(f"*/{OUTPUT_JSON}"))


def read_output(folder: Path, task: TaskName) -> Output:
    """Read a result of `task`.

    Raises:
        DatasetError: it is not one, or one of another task.
    """
    safe_name(folder.name, "output folder")
    document = read_json(folder / OUTPUT_JSON)
    try:
        found = str(document.get("task", "panoptic"))
        files = [frame["file_name"] for frame in document["frames"]]
        names = [frame.get("source_name") for frame in document["frames"]]
        segments = tuple(
            {"id": int(s["id"]), "category_id": int(s["category_id"]), "score": float(s["score"])}
            for s in document["segments"]
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DatasetError(f"{folder / OUTPUT_JSON} is not one of dvis segment") from None
    if found != task:
        raise DatasetError(f"{folder} is a result of --task {found}; one of --task {task} is needed")
    named = bool(names) and None not in names
    stems, paths = [], []
    for place, (file, name) in enumerate(zip(files, names, strict=True)):
        number = f"{place:06d}" if file is None else stem_of(safe_name(file, "file_name"))
        stems.append(safe_name(name, "frame name") if named else number)
        paths.append(None if file is None else f"{task}/{number}.png")
    if len(set(stems)) != len(stems):
        raise DatasetError(f"{folder}: two frames have the same source name")
    return Output(folder, task, tuple(paths), tuple(stems), named, segments)


def output_tubes(output: Output) -> tuple[tuple[int, int], list[MaskTube]]:
    """The size (height, width) and the tubes of an instance result.

    Raises:
        DatasetError: `masks.jsonl` is missing or does not fit `segments.json`.
    """
    path, count = output.folder / MASKS_NAME, len(output.files)
    frames: dict[int, list[str | None]] = {segment["id"]: [None] * count for segment in output.segments}
    size, lines = (0, 0), 0
    try:
        for place, (line_size, masks) in enumerate(_lines(path)):
            lines += 1
            if place >= count or (size != (0, 0) and line_size != size):
                raise DatasetError("more lines than frames, or sizes that differ")
            size = line_size
            for key, counts in masks.items():
                frames[int(key)][place] = check_counts(counts, size)
        if lines != count:
            raise DatasetError(f"{lines} lines for {count} frames")
    except (KeyError, ValueError, TypeError):
        raise DatasetError(f"{path} does not fit {OUTPUT_JSON} beside it") from None
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error
    return size, [MaskTube(s["category_id"], frames[s["id"]], s["score"]) for s in output.segments]


def _lines(path: Path) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    """Size and masks of each frame."""
    try:
        with path.open("r", encoding="utf-8") as file:
            for line in file:
                entry = json.loads(line)
                height, width = entry["size"]
                if any(type(side) is not int or not 0 < side <= LARGEST_SIDE for side in (height, width)):
                    raise DatasetError(f"size must be 1..{LARGEST_SIDE} pixels")
                yield (height, width), dict(entry["masks"])
    except FileNotFoundError:
        raise DatasetError("is missing; run dvis segment again without --no-maps") from None
    except OSError as error:
        raise DatasetError(f"cannot be read: {error.strerror}") from error
