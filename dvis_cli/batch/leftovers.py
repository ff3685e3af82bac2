"""What workers that were killed left in the output.

Only called while the run holds the output's lock and nobody works on the video: whatever lies beside its result
under a work folder's name, made on whichever machine, is nobody's.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from dvis_cli.writers.folder import AtomicFolder


def remove_leftovers(target: Path) -> None:
    """Remove the work folders of a result; put back an old result that had been moved aside for a new one."""
    # `.NAME.partial-<pid>-<random>-<host>`: the part that all work folders of this target share.
    work = AtomicFolder(target).path.name.rsplit("-", 3)[0] + "-"
    aside = work.replace(".partial-", ".old-")
    with suppress(OSError):
        for path in sorted(target.parent.iterdir()):
            if path.name.startswith(work):
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith(aside):
                if target.exists():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.rename(target)


def remove_empty_parents(out: Path, key: str) -> None:
    """Remove the mirrored folders of a video that failed, as far as nothing else is in them."""
    for parent in (out / key).parents:
        if parent == out:
            return
        try:
            parent.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return
