"""Workers without a model for the tests of batches, and a batch as a program of its own.

A source is a text file whose first line says what happens to it: `ok`, `slow SECONDS`, `fail`, `full`, `bug`,
`crash`, `crash-once MARK`, `wait FILE`, `hang`. Its result is made from its bytes alone.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dvis_cli.batch import BatchOptions, Event, parse_shard, run_batch
from dvis_cli.batch.work import Progress, Ready, Say, Task, Worker
from dvis_cli.batch.workers import LocalEngine, RayEngine
from dvis_cli.errors import UsageError, VideoError
from dvis_cli.files import as_utf8, output_errors
from dvis_cli.run.options import SegmentOptions
from dvis_cli.writers.folder import AtomicFolder

FRAMES = 6


class NoModel:
    """What `Worker` knows of a model: its device."""

    def __init__(self, kind: str = "cpu") -> None:
        self.device = SimpleNamespace(type=kind)


class PaperWorker(Worker):
    """Everything of a worker but the model and the video."""

    def __init__(self, number: int, options: SegmentOptions) -> None:
        self.number, self._options, self._model = number, options, NoModel()  # type: ignore[assignment]
        self.ready = Ready(0.0, "paper", False)

    def _segment(self, source: Path, folder: Path, task: Task, say: Say) -> dict[str, Any]:
        words = source.read_text().split("\n")[0].split() or ["ok"]
        pause = float(words[1]) / FRAMES if words[0] == "slow" else 0.0
        with AtomicFolder(folder / "result") as result:
            (result.path / "panoptic").mkdir()
            for i in range(FRAMES):
                say(Progress(i, FRAMES))
                time.sleep(pause)
                with output_errors(result.target):
                    (result.path / "panoptic" / f"{i:06d}.png").write_bytes(source.read_bytes() * (i + 1))
                if i == FRAMES // 2:
                    _act(words, source)
            named = source if str(source) == task.video.source else as_utf8(task.video.source)
            document = {"source": {"path": str(named), "frames": FRAMES}, "segments": []}
            (result.path / "segments.json").write_text(json.dumps(document))
        return document


def fail_as_a_device(worker: PaperWorker, text: str) -> None:
    """Raise as a sticky CUDA error does: from now on every operation of this process fails."""

    def ones(*_unused: object, **_options: object) -> None:
        raise RuntimeError(text)

    worker._model = NoModel("cuda")  # type: ignore[assignment]
    sys.modules["torch"] = SimpleNamespace(ones=ones)  # type: ignore[assignment]
    raise RuntimeError(text)


class DeviceFails(PaperWorker):
    """Worker 0 has a broken accelerator; the others wait until it has shown that three times."""

    def _segment(self, source: Path, folder: Path, task: Task, say: Say) -> dict[str, Any]:
        faults = Path(task.out).parent / "faults"
        if self.number == 0:
            with faults.open("a") as file:
                file.write("x")
            fail_as_a_device(self, "CUDA error: uncorrectable ECC error encountered")
        while not faults.exists() or faults.stat().st_size < 3:
            time.sleep(0.01)
        return super()._segment(source, folder, task, say)


class EveryDeviceFails(PaperWorker):
    def _segment(self, source: Path, folder: Path, task: Task, say: Say) -> dict[str, Any]:
        fail_as_a_device(self, "CUDA error: uncorrectable ECC error encountered")
        raise AssertionError


class Poisoned(PaperWorker):
    """The device fails at the video that is named poison, on whichever worker."""

    def _segment(self, source: Path, folder: Path, task: Task, say: Say) -> dict[str, Any]:
        if source.stem == "poison":
            fail_as_a_device(self, "CUDA error: device-side assert triggered")
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
    while words[0] == "wait" and not Path(words[1]).exists():
        time.sleep(0.02)
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


class FirstCannotLoad(PaperWorker):
    def __init__(self, number: int, options: SegmentOptions) -> None:
        if number == 0:
            raise RuntimeError("no device")
        super().__init__(number, options)


def broken_worker(*_unused: object) -> PaperWorker:
    raise UsageError("no such weights")


def dying_worker(*_unused: object) -> PaperWorker:
    os._exit(3)
