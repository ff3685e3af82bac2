"""Results of `dvis segment --task semantic` -> one VSPW submission: `<video>/<stem>.png`, zip or folder.

A run is any of: a result (a folder with `segments.json` and `semantic/`); a folder of such; a submission (folder or
zip of `<video>/<stem>.png`). PNGs are taken over as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from dvis_cli.datasets.class_maps import PredictedMaps, check_header, find_maps
from dvis_cli.datasets.id_map import PngHeader
from dvis_cli.errors import DatasetError, OutputError
from dvis_cli.files import output_errors
from dvis_cli.writers.folder import AtomicFolder
from dvis_cli.writers.submission_zip import ZipTarget


@dataclass(frozen=True, slots=True)
class VspwReport:
    """What was made."""

    path: Path
    videos: int
    frames: int
    unnamed: tuple[str, ...]  # videos whose frames have no source names: numbered 000000, 000001, ...


def export_vspw(
    runs: Sequence[Path],
    target: Path,
    overwrite: bool = False,
    on_video: Callable[[str], None] = lambda name: None,
) -> VspwReport:
    """Make a submission.

    Args:
        runs: results, see the module.
        target: a zip where its name ends in .zip, else a folder.
        overwrite: replace an existing zip. Folders are never replaced.
        on_video: called as each video is in.

    Raises:
        DatasetError: a run is not what it should be, or two hold a video of the same name.
        OutputError: the target exists or cannot be written; nothing half-written stays.
    """
    videos = _find(runs)
    frames = 0
    with _opened(target, overwrite) as place:
        for maps in videos:
            for position, stem in enumerate(maps.stems):
                data = maps.data(position)
                _check(maps, stem, data)
                place.write(f"{maps.video}/{stem}.png", data)
            frames += len(maps.stems)
            on_video(maps.video)
    unnamed = tuple(maps.video for maps in videos if not maps.named)
    return VspwReport(target, len(videos), frames, unnamed)


def count_videos(runs: Sequence[Path]) -> int:
    """How many videos the runs hold. Raises as `export_vspw`."""
    return len(_find(runs))


def _find(runs: Sequence[Path]) -> list[PredictedMaps]:
    found: dict[str, PredictedMaps] = {}
    for run in runs:
        for name, maps in find_maps(run).items():
            other = found.setdefault(name, maps)
            if other != maps:
                raise DatasetError(f"video '{name}' is in {other.place} and in {maps.place}; leave one out")
    return [found[name] for name in sorted(found)]


def _check(maps: PredictedMaps, stem: str, data: bytes) -> None:
    try:
        check_header(PngHeader.parse(data))
    except DatasetError as error:
        raise DatasetError(f"video '{maps.video}', frame '{stem}': the map {error}") from error


def _opened(target: Path, overwrite: bool) -> AbstractContextManager[ZipTarget | _FolderTarget]:
    return ZipTarget(target, overwrite) if target.suffix.lower() == ".zip" else _FolderTarget(target)


class _FolderTarget:
    """A folder of folders of PNGs that appears whole or not at all."""

    def __init__(self, target: Path) -> None:
        if target.exists():
            raise OutputError(f"{target} already exists; remove it or choose another name")
        self._folder = AtomicFolder(target)

    def __enter__(self) -> _FolderTarget:
        self._folder.__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        self._folder.__exit__(*failure)  # type: ignore[arg-type]

    def write(self, name: str, data: bytes) -> None:
        path = self._folder.path.joinpath(*name.split("/"))
        with output_errors(path):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
