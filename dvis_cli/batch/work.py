"""What a worker does, in a process of this machine or of a cluster: one model, one video after the other."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvis_cli import __version__
from dvis_cli.errors import DvisError, OutputError, warnings_to
from dvis_cli.files import output_errors
from dvis_cli.run.options import SegmentOptions
from dvis_cli.video.source import plain_name
from dvis_cli.writers.folder import check_target

from .addresses import TransferError, fetch, join, local_path, one_line, publish, scratch_folder
from .messages import Broken, Finished, Outcome, Progress, Ready, Say, Task, Warned
from .output import RECORD, AddressOutput, parse
from .places import as_utf8
from .plan import content_of

if TYPE_CHECKING:
    from dvis_cli.run.model import DvisModel

_SYNCS = 16  # files that are on their way to the disk at once
_FULL = {errno.ENOSPC, errno.EDQUOT}
# What may be gone the next time: a network disk, a busy machine.
_PASSING = {
    errno.ENOENT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENETDOWN, errno.ECONNRESET, errno.EAGAIN
}  # fmt: skip


class Worker:
    """A loaded model, and how to use it on a task."""

    def __init__(self, number: int, options: SegmentOptions) -> None:
        """Load the model. Raises `DvisError` when it cannot be loaded."""
        from dvis_cli.run.loading import load_for
        from dvis_cli.run.placement import prepare_process

        began = time.monotonic()
        prepare_process(options.threads)
        self.number, self._options = number, options
        self._model: DvisModel = load_for(options)
        untrained = self._model.weights is None
        self.ready = Ready(number, time.monotonic() - began, self._model.config.name, untrained)

    def run(self, task: Task, say: Say) -> None:
        """Do one video and tell how it ended; every failure is an outcome."""
        began = time.monotonic()
        names: dict[str, str] = {}  # temporary path -> what it stands for

        def named(text: str) -> str:
            for stand_in, name in names.items():
                text = text.replace(stand_in, name)
            return " ".join(text.split())

        try:
            with warnings_to(lambda text: say(Warned(self.number, task.key, named(text)))):
                record = self._do(task, say, names)
            outcome = Outcome(task.key, "done", frames=record["frames"], segments=record["segments"])
        except Exception as error:
            outcome = _outcome_of(task.key, error)
            if outcome.verdict != "full" and (reason := self.device_failure(error)) is not None:
                outcome = Outcome(task.key, "device", error=reason)
        seconds, error_text = round(time.monotonic() - began, 3), named(outcome.error or "") or None
        say(Finished(self.number, outcome._replace(seconds=seconds, error=error_text)))

    def device_failure(self, error: Exception) -> str | None:
        """Why nothing runs on this worker's accelerator any more; None when it still works.

        After a sticky error (an illegal address, an uncorrectable memory error) every operation of the process fails.
        """
        device = self._model.device
        if device.type == "cpu":
            return None
        import torch

        try:
            torch.ones(64, device=device).sum().item()
        except Exception as probe:
            return f"{one_line(error)}; then {type(probe).__name__} on {device}"
        return None

    def _do(self, task: Task, say: Say, names: dict[str, str]) -> dict[str, Any]:
        """Make a result and put it in its place; returns its record."""
        overwrite, out, source = self._options.overwrite, local_path(task.out), local_path(task.source)
        if out is None:
            _refuse_foreign(task, overwrite)
        else:
            target = out / task.key
            _check(target, overwrite)
        with _work_folder(task.stage) as folder, scratch_folder() as scratch:
            content = content_of(task.source)  # now: what changes meanwhile is seen the next time
            names[str(folder / "result")] = join(task.out, task.key)
            path = source
            if source is None:
                path = fetch(task.source, scratch)
            elif as_utf8(task.source) != task.source:  # no name for a JSON file
                path = scratch / as_utf8(plain_name(source))
                path.symlink_to(source.absolute())
            assert path is not None
            if path != source:
                names[str(path)] = as_utf8(task.source)
            document = self._segment(path, folder, task, say)
            made = folder / "result"
            record = {
                "format": "dvis-batch",
                "dvis": __version__,
                "source": as_utf8(task.source if source is None else os.path.abspath(source)),  # noqa: PTH100
                "fingerprint": task.fingerprint,
                "content": content,
                "settings": task.settings,
                "frames": document["source"]["frames"],
                "segments": len(document["segments"]),
            }
            with output_errors(folder):
                (made / RECORD).write_text(json.dumps(record, indent=2) + "\n")
            if out is None:
                publish(made, join(task.out, task.key), RECORD)
            else:
                _put_in_place(made, target, overwrite)
        return record

    def _segment(self, source: Path, folder: Path, task: Task, say: Say) -> dict[str, Any]:
        """Make `folder`/result; returns what is in segments.json."""
        from dvis_cli.run.saving import save_video
        from dvis_cli.video import open_video

        options = self._options
        total = open_video(source, options.selection, folder_fps=options.folder_fps).info.frames
        progress = _Progress(self.number, task, total, say)
        # Not the file that stands for it.
        named = None if str(source) == task.source else as_utf8(task.source)
        return save_video(
            source, folder, self._model, options, name="result", source_path=named, on_progress=progress
        )


# Called in the worker with its number and its own options (device, threads, memory); loads the model.
MakeWorker = Callable[[int, SegmentOptions], Worker]


def serve(
    number: int,
    options: SegmentOptions,
    make_worker: MakeWorker | None,
    receive: Callable[[], Task],
    say: Say,
) -> None:
    """The life of a worker: it loads the model, then does one task after the other."""
    try:
        worker = (make_worker or Worker)(number, options)
    except Exception as error:
        known = isinstance(error, DvisError)
        say(Broken(number, error if known else f"{type(error).__name__}: {one_line(error)}"))  # type: ignore[arg-type]
        receive()  # the run ends, or this worker does
        return
    say(worker.ready)
    while True:
        worker.run(receive(), say)


class _Progress:
    """Passes on how far a video is, not too often."""

    def __init__(self, worker: int, task: Task, total: int | None, say: Say) -> None:
        self._worker, self._task, self._total, self._say = worker, task, total, say
        self._last, self._frames = 0.0, 0
        self("network", 0)

    def __call__(self, stage: str, frames: int) -> None:
        if stage == "network":  # frames count where they enter it; other stages only show that it goes on
            self._frames = frames
        now = time.monotonic()
        if now - self._last >= self._task.say_every:
            self._last = now
            self._say(Progress(self._worker, self._task.key, self._frames, self._total))


@contextmanager
def _work_folder(stage: str) -> Iterator[Path]:
    """A folder to make a result in, on the output's disk where that has one."""
    if not stage:
        with scratch_folder() as folder:
            yield folder
        return
    folder = Path(stage)
    with output_errors(folder):
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check(target: Path, overwrite: bool) -> None:
    """Refuse to replace what is no result of a batch, without --overwrite."""
    if os.path.lexists(target):
        check_target(target, overwrite or (target / RECORD).is_file())


def _put_in_place(made: Path, target: Path, overwrite: bool) -> None:
    """Move a result to where it belongs, whole or not at all; it is on the disk before it appears there."""
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        make_durable(made)
        _check(target, overwrite)
        if target.exists():
            target.rename(made.with_name("earlier"))
        made.rename(target)
        _sync(str(target.parent))


def make_durable(folder: Path) -> None:
    """Have all files of a folder on the disk.

    Side by side: a file system that is asked for many at once writes them in one go. One after the other, the maps of
    a minute took 8 seconds instead of a third of one.
    """
    paths = [str(folder), *(str(path) for path in folder.rglob("*"))]
    with ThreadPoolExecutor(_SYNCS) as together:
        list(together.map(_sync, paths))


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _FULL | {errno.EIO}:  # others: a file system that cannot
            raise
    finally:
        os.close(descriptor)


def _refuse_foreign(task: Task, overwrite: bool) -> None:
    """As for folders: what is behind an address and no result of a batch is not replaced."""
    url = join(task.out, task.key)
    place = AddressOutput(url)
    if not overwrite and place.exists() and not parse(next(place.read([RECORD]))):
        raise OutputError(f"{url} already exists; add --overwrite to replace it")


def _outcome_of(key: str, error: Exception) -> Outcome:
    """What a failure means for this video, for a second try and for the whole run."""
    numbers = _error_numbers(error)
    text = (
        one_line(error)
        if isinstance(error, DvisError)
        else f"unexpected {type(error).__name__}: {one_line(error)}"
    )
    if numbers & _FULL:
        known = isinstance(error, DvisError)
        return Outcome(key, "full", error=text if known else f"no space left on the disk: {one_line(error)}")
    if isinstance(error, DvisError):
        again = isinstance(error, TransferError) or (isinstance(error, OutputError) and numbers & _PASSING)
        return Outcome(key, "retry" if again else "failed", error=text)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Outcome(key, "retry", error="out of memory: fewer --jobs, or lower --short-side or --window")
    return Outcome(
        key, "retry" if isinstance(error, OSError) or "CUDA" in str(error) else "failed", error=text
    )


def _error_numbers(error: BaseException | None) -> set[int]:
    """Numbers of the system's errors along the chain of causes."""
    numbers = set()
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            numbers.add(error.errno)
        error = error.__cause__ or error.__context__
    return numbers
