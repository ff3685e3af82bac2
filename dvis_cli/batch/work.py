"""What a worker does, in a process of this machine or of a cluster: one model, one video after the other."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dvis_cli import __version__
from dvis_cli.errors import DvisError, OutputError, warnings_to
from dvis_cli.files import abandoned, as_utf8, output_errors, partial_path
from dvis_cli.run.options import SegmentOptions
from dvis_cli.video.source import plain_name

from .output import (
    DISK_FULL,
    RECORD,
    Output,
    TransferError,
    base_name,
    file_system,
    join,
    local_path,
    one_line,
    transfers,
)
from .plan import content_of, is_current
from .sources import Video

if TYPE_CHECKING:
    from dvis_cli.run.model import DvisModel

# What may be gone the next time: a network disk, a busy machine.
_PASSING = {
    errno.ENOENT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENETDOWN, errno.ECONNRESET, errno.EAGAIN
}  # fmt: skip


class Task(NamedTuple):
    """One video to be done: what a worker is told."""

    video: Video
    out: str  # the output: folder or address
    stage: str  # a folder on the output's disk to work in; of an output behind an address, ""
    settings: str  # hash of everything that changes results
    say_every: float = 0.25  # seconds between reports of progress: many workers speak less often


class Ready(NamedTuple):
    """A worker has its model and waits for work."""

    seconds: float  # that loading took
    model: str = ""
    untrained: bool = False
    warnings: tuple[str, ...] = ()  # while it loaded


class Progress(NamedTuple):
    """Frames of the video that are through the network, of `total` where that is known."""

    frames: int
    total: int | None


class Outcome(NamedTuple):
    """How a try ended; the worker waits for work.

    verdict: "done"; "failed": the same would happen again; "retry": it may go better another time; "full": no space
    is left on the disk; "device": the worker's accelerator has failed, and will with every other video. The scheduler
    adds "died" (the worker), "skipped" (another run has done it) and "elsewhere" (another run is at it).
    """

    verdict: Literal["done", "failed", "retry", "full", "device", "died", "skipped", "elsewhere"]
    seconds: float = 0.0
    frames: int = 0
    segments: int = 0
    error: str = ""


# What a worker says. Text: something was wrong with the video, but the work goes on. An exception: it cannot load its
# model; a `DvisError` will meet every worker alike.
Message = Ready | Progress | str | Outcome | Exception
Say = Callable[[Message], None]


class WorkerDiedError(Exception):
    """A worker is gone; the text says how."""


class Worker:
    """A loaded model, and how to use it on a task."""

    def __init__(self, number: int, options: SegmentOptions) -> None:
        """Load the model. Raises `DvisError` when it cannot be loaded."""
        from dvis_cli.run.loading import load_for
        from dvis_cli.run.placement import prepare_process

        began = time.monotonic()
        prepare_process(options.threads)
        self.number, self._options = number, options
        warned: list[str] = []
        with warnings_to(warned.append):
            self._model: DvisModel = load_for(options)
        name, untrained = self._model.config.name, self._model.weights is None
        self.ready = Ready(time.monotonic() - began, name, untrained, tuple(warned))

    def run(self, task: Task, say: Say) -> None:
        """Do one video and tell how it ended; every failure is an outcome."""
        began = time.monotonic()
        names: dict[str, str] = {}  # temporary path -> what it stands for

        def named(text: str) -> str:
            for stand_in, name in names.items():
                text = text.replace(stand_in, name)
            return " ".join(text.split())

        try:
            with warnings_to(lambda text: say(named(text))):
                record = self._do(task, say, names)
            outcome = Outcome("done", frames=record["frames"], segments=record["segments"])
        except Exception as error:
            outcome = _outcome_of(error)
            if outcome.verdict != "full" and (reason := self.device_failure(error)) is not None:
                outcome = Outcome("device", error=reason)
        seconds = round(time.monotonic() - began, 3)
        say(outcome._replace(seconds=seconds, error=named(outcome.error)))

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
        video, output, overwrite = task.video, Output(task.out), self._options.overwrite
        output.check(video.key, overwrite)
        if not overwrite:
            _check_same_video(video, output)
        with scratch_folder() as scratch, _folder(Path(task.stage or scratch / "stage")) as folder:
            content = content_of(video.source)  # now: what changes meanwhile is seen the next time
            made, path = folder / "result", _readable(video.source, scratch)
            names.update({str(made): join(task.out, video.key), str(path): as_utf8(video.source)})
            document = self._segment(path, folder, task, say)
            record = {
                "format": "dvis-batch",
                "dvis": __version__,
                "source": as_utf8(video.identity),
                "fingerprint": video.fingerprint,
                "content": content,
                "settings": task.settings,
                "frames": document["source"]["frames"],
                "segments": len(document["segments"]),
            }
            with output_errors(folder):
                (made / RECORD).write_text(json.dumps(record, indent=2) + "\n")
            output.put(made, video.key, overwrite)
        return record

    def _segment(self, source: Path, folder: Path, task: Task, say: Say) -> dict[str, Any]:
        """Make `folder`/result; returns what is in segments.json."""
        from dvis_cli.run.saving import save_video
        from dvis_cli.video import open_video

        options = self._options
        total = open_video(source, options.selection, folder_fps=options.folder_fps).info.frames
        # Not the file that stands for it.
        named = None if str(source) == task.video.source else as_utf8(task.video.source)
        return save_video(
            source,
            folder,
            self._model,
            options,
            name="result",
            source_path=named,
            on_progress=_progress(task, total, say),
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
        say(error if known else RuntimeError(f"{type(error).__name__}: {one_line(error)}"))
        receive()  # the run ends, or this worker does
        return
    say(worker.ready)
    while True:
        worker.run(receive(), say)


def _progress(task: Task, total: int | None, say: Say) -> Callable[[str, int], None]:
    """Passes on how far a video is, not too often."""
    last, networked = 0.0, 0

    def show(stage: str, frames: int) -> None:
        nonlocal last, networked
        if stage == "network":  # frames count where they enter it; other stages only show that it goes on
            networked = frames
        now = time.monotonic()
        if now - last >= task.say_every:
            last = now
            say(Progress(networked, total))

    show("network", 0)
    return show


def _check_same_video(video: Video, output: Output) -> None:
    """Refuse to replace the result of another video, of a folder in which names are the same. Raises `OutputError`."""
    record, own = output.read_document(join(video.key, RECORD)), as_utf8(video.identity)
    other = record.get("source", own)
    if other != own and not is_current(record, video, record.get("settings", "")):  # not just moved
        where = join(output.name, video.key)
        raise OutputError(
            f"{where} is the result of {other}; take another output, or add --overwrite to replace it"
        )


@contextmanager
def _folder(folder: Path) -> Iterator[Path]:
    """A folder to work in, which is removed."""
    with output_errors(folder):
        folder.parent.mkdir(exist_ok=True)
        folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def scratch_folder() -> AbstractContextManager[Path]:
    """A temporary folder of this process; those that killed processes left on this machine are removed."""
    beside = Path(tempfile.gettempdir()) / "dvis-batch"
    for stray in abandoned(beside, "scratch"):
        shutil.rmtree(stray, ignore_errors=True)
    return _folder(partial_path(beside, "scratch"))


def _readable(source: str, scratch: Path) -> Path:
    """A path that can be read and named in JSON: the source, or something in `scratch` that stands for it."""
    path = local_path(source)
    if path is None:
        fs, there = file_system(source)
        stand_in = scratch / base_name(there)
        with transfers(source, "download"):
            fs.get_file(there, str(stand_in))
    elif as_utf8(source) == source:
        return path
    else:
        stand_in = scratch / as_utf8(plain_name(path))
        stand_in.symlink_to(path.absolute())
    return stand_in


def _outcome_of(error: Exception) -> Outcome:
    """What a failure means for this video, for a second try and for the whole run."""
    known, numbers = isinstance(error, DvisError), _error_numbers(error)
    text = one_line(error) if known else f"unexpected {type(error).__name__}: {one_line(error)}"
    if numbers & DISK_FULL:
        return Outcome("full", error=text if known else f"no space left on the disk: {one_line(error)}")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Outcome("retry", error="out of memory: fewer --jobs, or lower --short-side or --window")
    if known:
        passing = isinstance(error, TransferError) or (isinstance(error, OutputError) and numbers & _PASSING)
    else:
        passing = isinstance(error, OSError) or "CUDA" in str(error)
    return Outcome("retry" if passing else "failed", error=text)


def _error_numbers(error: BaseException | None) -> set[int]:
    """Numbers of the system's errors along the chain of causes."""
    numbers = set()
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            numbers.add(error.errno)
        error = error.__cause__ or error.__context__
    return numbers
