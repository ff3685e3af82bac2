"""The three formats, and which of them a file is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dvis_cli.challenge.archive import ZipArchive, open_archive
from dvis_cli.challenge.format import Format
from dvis_cli.challenge.vipseg import VIPSEG
from dvis_cli.challenge.vipseg_checks import JSON_NAME, PNG_FOLDER
from dvis_cli.challenge.vspw import VSPW
from dvis_cli.challenge.ytvis import JSON_NAME as RESULTS
from dvis_cli.challenge.ytvis import YTVIS
from dvis_cli.config import TaskName
from dvis_cli.errors import DatasetError

FORMATS: dict[TaskName, Format[Any]] = {"panoptic": VIPSEG, "instance": YTVIS, "semantic": VSPW}


def task_of_submission(path: Path) -> TaskName:
    """`instance` with a results.json, `semantic` with <video>/<stem>.png and no pred.json, else `panoptic`."""
    if path.suffix.lower() == ".json":
        return "instance"
    try:
        names = _names(path)
    except DatasetError:
        return "panoptic"
    if RESULTS in names:
        return "instance"
    maps = any(name.count("/") == 1 and name.endswith(".png") for name in names)
    return "semantic" if maps and JSON_NAME not in names and PNG_FOLDER not in names else "panoptic"


def _names(path: Path) -> set[str]:
    """Files of the first two levels, and the folders of the first."""
    archive = open_archive(path)
    if isinstance(archive, ZipArchive):
        return archive.members.keys() | {name.split("/")[0] for name in archive.members}
    return archive.names("") | {f"{p.parent.name}/{p.name}" for p in path.glob("*/*.png")}
