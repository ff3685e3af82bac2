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

import torch

from dvis_cli.batch import BatchOptions, Event, parse_shard, run_batch
from dvis_cli.batch.local import LocalEngine
from dvis_cli.batch.messages import Progress, Ready, Say, Task
from dvis_cli.batch.ray_engine import RayEngine
from dvis_cli.batch.work import Worker
from dvis_cli.errors import VideoError
from dvis_cli.run.options import SegmentOptions
from dvis_cli.writers.failures import output_errors
from dvis_cli.writers.folder import AtomicFolder

FRAMES = 6


class NoModel:
    """What `Worker` knows of a model."""

    device = torch.device("cpu")


class PaperWorker(Worker):
    """Everything of a worker but the model and the video."""

    def __init__(self, number: int, options: SegmentOptions) -> None:
        self.number, self._options, self._model = number, options, NoModel()  # type: ignore[assignment]
        self.ready = Ready(number, 0.0, "paper", False)

    def _segment(self, source: Path, folder: Path, task: Task, say: Say) -> dict[str, Any]:
        words = source.read_text().split("\n")[0].split() or ["ok"]
        pause = float(words[1]) / FRAMES if words[0] == "slow" else 0.0
        with AtomicFolder(folder / "result") as result:
            (result.path / "panoptic").mkdir()
            for i in range(FRAMES):
                say(Progress(self.number, task.key, i, FRAMES))
                time.sleep(pause)
                with output_errors(result.target):
                    (result.path / "panoptic" / f"{i:06d}.png").write_bytes(source.read_bytes() * (i + 1))
                if i == FRAMES // 2:
                    _act(words, source)
            document = {"source": {"path": str(source), "frames": FRAMES}, "segments": []}
            (result.path / "segments.json").write_text(json.dumps(document))
        return document


class DeviceFails(PaperWorker):
    """Worker 0 has a broken accelerator: its first operation fails, and all others after it."""

    def __init__(self, number: int, options: SegmentOptions) -> None:
        super().__init__(number, options)
        if number == 0:
            self._model.device = torch.device("meta")  # on which nothing has a value

    def _segment(self, source: Path, folder: Path, task: Task, say: Say) -> dict[str, Any]:
        if self.number == 0:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        return super()._segment(source, folder, task, say)


class EveryDeviceFails(DeviceFails):
    """All workers have."""

    def __init__(self, number: int, options: SegmentOptions) -> None:
        super().__init__(0, options)
        self.number, self.ready = number, Ready(number, 0.0, "paper", False)

    def _segment(self, source: Path, folder: Path, task: Task, say: Say) -> dict[str, Any]:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")


class Poisoned(PaperWorker):
    """The device fails at the videos that are named poison, on whichever worker."""

    def _segment(self, source: Path, folder: Path, task: Task, say: Say) -> dict[str, Any]:
        if source.stem == "poison":
            self._model.device = torch.device("meta")
            raise RuntimeError("CUDA error: device-side assert triggered")
        return super()._segment(source, folder, task, say)


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
    paper = chosen.pop("paper", True)
    segment = SegmentOptions(**chosen.pop("segment", {}))
    if "shard" in chosen:
        chosen["shard"] = parse_shard(chosen["shard"])
    options = BatchOptions(**chosen)
    make = RayEngine if options.engine == "ray" else LocalEngine
    engine = make(segment, options, PaperWorker) if paper else None
    report = run_batch(sources, out, segment, options, say, engine=engine)
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
