"""Which task a submission is of, by what is in it."""

from __future__ import annotations

from pathlib import Path

from dvis_cli.config import TaskName
from dvis_cli.datasets.results import JSON_NAME as RESULTS
from dvis_cli.datasets.submission import JSON_NAME, PNG_FOLDER, ZipSubmission, open_submission
from dvis_cli.errors import DatasetError


def kind_of_submission(path: Path) -> TaskName:
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
    if path.is_dir():
        names = {entry.name for entry in path.iterdir()}
        return names | {f"{p.parent.name}/{p.name}" for p in path.glob("*/*.png")}
    submission = open_submission(path)
    members = set(submission.members) if isinstance(submission, ZipSubmission) else set()
    return members | {name.split("/")[0] for name in members}
