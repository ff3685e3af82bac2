"""Weights on this machine that were pulled or added: a folder NAME each, with `dvis.json` that says what is in it.

A folder is made beside its place and renamed, so that what has a name is whole. Checksums stay pinned in `pins.json`
of the weights folder when a model is removed: the same address must give the same file again.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from dvis_cli.errors import CheckpointError, UsageError
from dvis_cli.files import atomic_text, output_errors

from .download import Digest, digest_of
from .home import weights_folder
from .published import Published, check_name, entry_from

RECORD = "dvis.json"
PINS = "pins.json"
_STAGING = ".pulling-"


@dataclass(frozen=True)
class Installed:
    """What lies in a model's folder."""

    entry: Published
    folder: Path
    files: dict[str, Digest]  # by name
    since: str  # date

    @property
    def path(self) -> Path:
        """What `--model` takes: the weight file, or the folder where there are several files."""
        names = list(self.files)
        return self.folder / names[0] if len(names) == 1 else self.folder

    @property
    def size(self) -> int:
        return sum(digest.size for digest in self.files.values())


def installed(name: str) -> Installed | None:
    """What is installed under a name. Raises `CheckpointError` where the record cannot be read."""
    folder = weights_folder() / check_name(name)
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        files = {str(key): Digest(**value) for key, value in record["files"].items()}
        entry = entry_from({**record["entry"], "name": name}, f"{path}, entry")
        if not files or any(Path(key).name != key or key.startswith(".") for key in files):
            raise ValueError("file names")
        return Installed(entry, folder, files, str(record["since"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): 'dvis weights remove {name}' clears it away"
        ) from None


def installed_names() -> list[str]:
    """Names of all that was pulled or added."""
    folder = weights_folder()
    if not folder.is_dir():
        return []
    return sorted(one.parent.name for one in folder.glob(f"[!.]*/{RECORD}"))


def problems(found: Installed) -> list[str]:
    """Compare the files with their record; nothing when all are as they were."""
    wrong = []
    for name, digest in found.files.items():
        path = found.folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif digest_of(path) != digest:
            wrong.append(f"{name} has changed")
    return wrong


def remove(name: str) -> Path:
    """Delete a model's folder, and what is left of attempts to pull it. Raises `UsageError` when there is none."""
    folder, staging = weights_folder() / check_name(name), weights_folder() / f"{_STAGING}{name}"
    if not (folder / RECORD).exists() and not staging.exists():
        raise UsageError(f"{name!r} is not installed; 'dvis weights list' shows what is")
    with locked(name):
        doomed = weights_folder() / f".removed-{name}"
        shutil.rmtree(doomed, ignore_errors=True)
        if (folder / RECORD).exists():
            folder.replace(doomed)
        for path in (doomed, staging):
            shutil.rmtree(path, ignore_errors=True)
    return folder


def staging_folder(name: str) -> Path:
    """Where a model is put together; kept when an attempt fails, so that the next goes on."""
    folder = weights_folder() / f"{_STAGING}{check_name(name)}"
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def finish(entry: Published, staging: Path, files: dict[str, Digest]) -> Installed:
    """Write the record and give the folder its name."""
    made = Installed(entry, weights_folder() / entry.name, files, date.today().isoformat())
    document = {
        "entry": entry.document(),
        "since": made.since,
        "files": {name: dataclasses.asdict(digest) for name, digest in files.items()},
    }
    for leftover in staging.iterdir():
        if leftover.name not in files:
            leftover.unlink()
    atomic_text(staging / RECORD, json.dumps(document, indent=2))
    with output_errors(made.folder):
        staging.replace(made.folder)
    return made


def pinned(address: str) -> Digest | None:
    """What an address gave the first time."""
    return _pins().get(address)


def pin(address: str, digest: Digest) -> None:
    """Remember what an address gave."""
    with locked("pins"):
        pins = {key: dataclasses.asdict(one) for key, one in {**_pins(), address: digest}.items()}
        atomic_text(weights_folder() / PINS, json.dumps(pins, indent=2, sort_keys=True))


def _pins() -> dict[str, Digest]:
    path = weights_folder() / PINS
    try:
        pins = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): Digest(**value) for key, value in pins.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} is damaged: delete it, then checksums are pinned anew") from None


@contextmanager
def locked(name: str, on_wait: Any = None) -> Iterator[None]:
    """One process at a time; the kernel lets go of it when a process dies.

    Args:
        on_wait: called once if another process has it.
    """
    import fcntl

    path = weights_folder() / f".{name}.lock"
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if on_wait is not None:
                on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
