"""A folder of results that appears whole or not at all.

The files are written to a hidden neighbour (`files.partial_path`), which takes the target's name in one step when all
is done. A folder that is replaced steps aside as `.NAME.old-...` first, so that there is no moment at which a crash
could cost both; whoever comes next puts it back.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from dvis_cli.errors import OutputError
from dvis_cli.files import abandoned, output_errors, partial_path, put_in_place

# What this package puts in an output folder. A folder with anything else in it is never deleted.
EXPORTS_FOLDER = "exports"
PANOPTIC_FOLDER, SEMANTIC_FOLDER, MASKS_NAME = "panoptic", "semantic", "masks.jsonl"  # one for each task
REPORT_PAGE, REPORT_FILM, REPORT_THUMBNAIL = "report.html", "report.mp4", "report.jpg"
_FILES = ("segments.json", "overlay.mp4", "batch.json", REPORT_PAGE, REPORT_FILM, REPORT_THUMBNAIL)
OUTPUT_NAMES = frozenset({PANOPTIC_FOLDER, SEMANTIC_FOLDER, MASKS_NAME, EXPORTS_FOLDER, *_FILES})
_HARMLESS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # file managers leave these behind

_LONGEST_NAME = 120  # bytes


def safe_name(name: str) -> str:
    """A video's name as one folder name: no separators, no control characters, not hidden, never empty."""
    cleaned = re.sub(r"[\x00-\x1f\x7f/\\:]+", "_", name).strip().lstrip(".").strip()
    while len(os.fsencode(cleaned)) > _LONGEST_NAME:
        cleaned = cleaned[:-1].rstrip()
    return cleaned or "video"


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse, before any work is done, a target folder that could not be written in the end.

    If an earlier run died while it replaced `target`, the folder it had moved aside is put back first.

    Raises:
        OutputError: the target exists and `overwrite` is False; it is a file, a link, or a folder holding
            something that is not ours; or the folder it would lie in cannot be written to.
    """
    _check_name(target)
    _restore_moved_aside(target)
    if target.is_symlink():
        raise OutputError(f"{target} is a symbolic link; name the folder itself or choose another one")
    if target.exists():
        if not target.is_dir():
            raise OutputError(f"{target} is a file; results need a folder, choose another name")
        if not overwrite:
            raise OutputError(f"{target} already exists; add --overwrite to replace it")
        _check_ours(target)
    parent = target.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise OutputError(f"cannot create {target}: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot create {target}: no permission to write to {parent}")


class AtomicFolder:
    """Context manager: fill `path`, and `target` appears when the block ends without an exception.

    Attributes:
        target: the folder that will appear.
        path: the hidden work folder beside it; exists inside the block only.

    Raises:
        OutputError: as `check_target`, on entry; or the target cannot be put in place, at the end.
    """

    def __init__(self, target: Path, overwrite: bool = False) -> None:
        self.target = target
        self.overwrite = overwrite
        self.path = partial_path(target)
        self._new_parents: list[Path] = []

    def __enter__(self) -> AtomicFolder:
        check_target(self.target, self.overwrite)
        try:
            with output_errors(self.target):
                self._create_parents()
                _remove_leftovers(self.target)
                self.path.mkdir()
        except BaseException:
            self.discard()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()

    def commit(self) -> None:
        """Give the work folder its name. On any failure it is removed and an old target is back in place."""
        try:
            with output_errors(self.target):
                if self.target.exists():
                    check_target(self.target, self.overwrite)  # it may have appeared meanwhile
                put_in_place(self.path, self.target)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the work folder, and the parents that were created for it. Never raises `OSError`."""
        shutil.rmtree(self.path, ignore_errors=True)
        for parent in reversed(self._new_parents):
            with suppress(OSError):  # someone else put something in it
                parent.rmdir()
        self._new_parents = []

    def _create_parents(self) -> None:
        missing = []
        parent = self.target.parent
        while not parent.exists():
            missing.append(parent)
            parent = parent.parent
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            self._new_parents.append(folder)


def _check_name(target: Path) -> None:
    if target.name in ("", ".", "..") or re.search(r"[\x00-\x1f\x7f]", target.name):
        raise OutputError(f"{str(target)!r} cannot be the name of an output folder; choose another one")


def _check_ours(target: Path) -> None:
    """Refuse to replace a folder in which a user keeps something of their own."""
    try:
        entries = sorted(entry.name for entry in target.iterdir())
    except OSError as error:
        raise OutputError(f"cannot look into {target}: {error.strerror}; choose another folder") from error
    foreign = [name for name in entries if name not in OUTPUT_NAMES and name not in _HARMLESS]
    if foreign:
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise OutputError(
            f"{target} holds files that are not results of this program ({shown}) and --overwrite would "
            "delete them; move them or choose another output folder"
        )


def _restore_moved_aside(target: Path) -> None:
    """If a run died between moving the old folder aside and naming the new one, the old one comes back."""
    if target.exists() or target.is_symlink():
        return
    with suppress(OSError):
        for path in abandoned(target, "old")[-1:]:
            path.rename(target)


def _remove_leftovers(target: Path) -> None:
    for role in ("partial", "old"):
        for path in abandoned(target, role):
            shutil.rmtree(path, ignore_errors=True)
