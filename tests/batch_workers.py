"""Workers without a model for the tests of batches, and a batch as a program of its own.

A source is a text file whose first line says what happens to it: `ok`, `slow SECONDS`, `fail`, `full`, `bug`,
`crash`, `crash-once MARK`, `hang`. Its result is made from its bytes alone.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from dvis_cli.batch import BatchOptions, Event, VideoSettings, parse_shard, run_batch
from dvis_cli.batch.engine import Progress, Ready, Task
from dvis_cli.batch.local import LocalEngine
from dvis_cli.batch.ray_engine import RayEngine
from dvis_cli.batch.work import Say, Worker
from dvis_cli.errors import VideoError
from dvis_cli.files import output_errors
from dvis_cli.writers.folder import AtomicFolder

FRAMES = 6


class PaperWorker(Worker):
    """Everything of a worker but the model and the video."""

    def __init__(self, number: int, settings: VideoSettings, threads: int | None, device: str | None) -> None:
        self.number, self._settings = number, settings
        self.ready = Ready(number, 0.0, "paper", False)

    def _segment(self, source: Path, out: Path, task: Task, say: Say) -> dict[str, Any]:
        words = source.read_text().split("\n")[0].split() or ["ok"]
        pause = float(words[1]) / FRAMES if words[0] == "slow" else 0.0
        replace = bool(self._settings.save.get("overwrite")) or task.replace
        with AtomicFolder(out / Path(task.key).name, replace) as folder:
            (folder.path / "panoptic").mkdir()
            for i in range(FRAMES):
                say(Progress(self.number, task.key, i, FRAMES))
                time.sleep(pause)
                with output_errors(folder.target):
                    (folder.path / "panoptic" / f"{i:06d}.png").write_bytes(source.read_bytes() * (i + 1))
                if i == FRAMES // 2:
                    _act(words, source)
            document = {"source": {"path": str(source), "frames": FRAMES}, "segments": []}
            (folder.path / "segments.json").write_text(json.dumps(document))
        return document


def _act(words: list[str], source: Path) -> None:
    if words[0] == "fail":
        raise VideoError(f"{source} is no video")
    if words[0] == "full":
        with output_errors(source):
            raise OSError(errno.ENOSPC, "full")
    if words[0] == "bug":
        raise KeyError("a bug")
    if words[0] == "crash" or (words[0] == "crash-once" and not Path(words[1]).exists()):
        if words[1:]:
            Path(words[1]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if words[0] == "hang":
        time.sleep(1000)


def main(arguments: list[str]) -> int:
    """`OUT OPTIONS-AS-JSON SOURCE...`; prints events as JSON lines. `paper` among the options needs no model."""
    out, text, *sources = arguments
    chosen = json.loads(text)
    paper, save = chosen.pop("paper", True), chosen.pop("save", {})
    if "shard" in chosen:
        chosen["shard"] = parse_shard(chosen["shard"])
    options = BatchOptions(**chosen)
    settings = VideoSettings(save=save)
    make = RayEngine if options.engine == "ray" else LocalEngine
    engine = make(settings, options, PaperWorker) if paper else None
    report = run_batch(sources, out, settings, options, say, engine=engine)
    return report.exit_code


def say(event: Event) -> None:
    """An event as a line."""
    sys.stdout.write(json.dumps(event.document()) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    from dvis_cli.errors import DvisError

    try:
        sys.exit(main(sys.argv[1:]))
    except DvisError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
