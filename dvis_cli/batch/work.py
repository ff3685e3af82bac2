"""What a worker does, in a process of this machine or of a cluster: one model, one video after the other."""

from __future__ import annotations

import errno
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvis_cli.errors import DvisError, DvisWarning
from dvis_cli.video.source import plain_name

from .engine import Finished, Message, Outcome, Progress, Ready, Task, Warned
from .inputs import content_of
from .options import VideoSettings
from .places import (
    LAST_FILE,
    TransferError,
    fetch,
    is_url,
    local_path,
    one_line,
    publish,
    read_bytes,
    scratch_folder,
)
from .places import join as join_url

if TYPE_CHECKING:
    from dvis_cli.run.model import DvisModel

Say = Callable[[Message], None]
_SYNCS = 16  # files that are on their way to the disk at once
_FULL = {errno.ENOSPC, errno.EDQUOT}
# What may be gone the next time: a network disk, a folder that another worker just removed, a busy GPU.
_PASSING = {
    errno.ENOENT,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENETDOWN,
    errno.ECONNRESET,
    errno.EAGAIN,
}


class Worker:
    """A loaded model, and how to use it on a task."""

    def __init__(self, number: int, settings: VideoSettings, threads: int | None, device: str | None) -> None:
        """Load the model. Raises `DvisError` when it cannot be loaded."""
        import torch

        from dvis_cli.run.loading import load_model
        from dvis_cli.run.placement import keep_freed_memory

        started = time.monotonic()
        keep_freed_memory()
        if threads:
            torch.set_num_threads(threads)
        self.number, self._settings = number, settings
        load = dict(settings.load)
        if device is not None:
            load["device"] = device
        self._model: DvisModel = load_model(load.pop("model", None), **load)
        self.ready = Ready(
            number, time.monotonic() - started, self._model.config.name, self._model.weights is None
        )

    def run(self, task: Task, say: Say) -> None:
        """Do one video and say how it ended; every failure is an outcome."""
        started = time.monotonic()
        names: dict[str, str] = {}

        def named(text: str) -> str:
            for stand_in, source in names.items():
                text = text.replace(stand_in, source)
            return text

        try:
            with _warnings_to(lambda text: say(Warned(self.number, task.key, named(text)))):
                document = self._save(task, say, names)
            outcome = Outcome(
                task.key,
                "done",
                frames=document["source"]["frames"],
                segments=len(document["segments"]),
                content=None if is_url(task.source) else content_of(task.source),
            )
        except Exception as error:
            outcome = _outcome_of(task.key, error)
        seconds = round(time.monotonic() - started, 3)
        text = named(outcome.error) if outcome.error is not None else None
        say(Finished(self.number, replace(outcome, seconds=seconds, error=text)))

    def _save(self, task: Task, say: Say, names: dict[str, str]) -> dict[str, Any]:
        """`names`: filled with the temporary path that stands for the source, and the source."""
        out = local_path(task.out)
        source = local_path(task.source)
        if out is not None and source is not None and _as_utf8(task.source) == task.source:
            target = out / task.key
            # Made here, and not by who writes the result: a neighbour that fails would remove it again.
            target.parent.mkdir(parents=True, exist_ok=True)
            document = self._segment(source, target.parent, task, say)
            make_durable(target)
            return document
        if out is None:
            _refuse_foreign(task)
        with scratch_folder() as folder:
            path = _alias(source, folder) if source is not None else fetch(task.source, folder)
            names[str(path)] = _as_utf8(task.source)
            results = folder / "result"
            document = self._segment(path, results, task, say)
            made = next(results.iterdir())
            if out is None:
                publish(made, join_url(task.out, task.key))
            else:
                _put_in_place(made, out / task.key, task.replace)
            return document

    def _segment(self, source: Path, out: Path, task: Task, say: Say) -> dict[str, Any]:
        from dvis_cli.run.options import SegmentOptions
        from dvis_cli.run.video import save_video
        from dvis_cli.video import open_video

        options = SegmentOptions(**self._settings.save)
        options = replace(options, overwrite=options.overwrite or task.replace)
        total = open_video(source, options.selection, folder_fps=options.folder_fps).info.frames
        progress = _Progress(self.number, task, total, say)
        # segments.json names what the user named, not the temporary file that stands for it.
        named = None if str(source) == task.source else _as_utf8(task.source)
        name = Path(task.key).name
        return save_video(
            source, out, self._model, options, name=name, source_path=named, on_progress=progress
        )


class _Progress:
    """Passes on how far a video is, not too often."""

    def __init__(self, worker: int, task: Task, total: int | None, say: Say) -> None:
        self._worker, self._task, self._total, self._say = worker, task, total, say
        self._last = 0.0
        self._frames = 0
        say(Progress(worker, task.key, 0, total))

    def __call__(self, stage: str, frames: int) -> None:
        if stage == "network":  # frames count where they enter it; other stages only show that it goes on
            self._frames = frames
        now = time.monotonic()
        if now - self._last >= self._task.say_every:
            self._last = now
            self._say(Progress(self._worker, self._task.key, self._frames, self._total))


def make_durable(folder: Path) -> None:
    """Have a result, and that it is in its place, on the disk before the manifest says that it is there.

    Files side by side: a file system that is asked for many at once writes them in one go. One after the other, the
    maps of a minute took 8 seconds instead of a third of one.
    """
    folders = [str(folder.parent)]
    files: list[str] = []
    for parent, _, names in os.walk(folder):
        folders.append(parent)
        files.extend(f"{parent}/{name}" for name in names)
    with suppress(OSError), ThreadPoolExecutor(_SYNCS) as together:
        list(together.map(_sync, files))
        for path in reversed(folders):
            _sync(path)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _alias(source: Path, folder: Path) -> Path:
    """The source itself, or a link to it whose name can stand in segments.json: valid UTF-8."""
    if _as_utf8(str(source)) == str(source):
        return source
    link = folder / _as_utf8(plain_name(source))
    link.symlink_to(source.absolute())
    return link


def _as_utf8(text: str) -> str:
    """Text with its invalid bytes spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _put_in_place(made: Path, target: Path, replace: bool) -> None:
    """Move a result from the temporary folder to where it belongs, whole or not at all."""
    import shutil

    from dvis_cli.writers.failures import output_errors
    from dvis_cli.writers.folder import AtomicFolder

    target.parent.mkdir(parents=True, exist_ok=True)
    with AtomicFolder(target, replace) as folder, output_errors(target):
        shutil.copytree(made, folder.path, dirs_exist_ok=True)
    make_durable(target)


def is_result_of(url: str, source: str) -> bool:
    """Whether there is nothing at an address, or a result of this very source.

    A crash may cost the copy of the manifest there its last rows, so the result itself has to say whose it is.
    """
    data = read_bytes(join_url(url, LAST_FILE))
    if data is None:
        return True
    try:
        document = json.loads(data)
        return bool(document["format"] == "dvis-segments" and document["source"]["path"] == _as_utf8(source))
    except (ValueError, KeyError, TypeError):
        return False


def _refuse_foreign(task: Task) -> None:
    """As for folders: what lies there and is not ours is not replaced."""
    url = join_url(task.out, task.key)
    if not (task.replace or is_result_of(url, task.source)):
        raise DvisError(f"{url} already exists; add --overwrite to replace it")


def _outcome_of(key: str, error: Exception) -> Outcome:
    """What a failure means for this video, for a second try and for the whole run."""
    numbers = _error_numbers(error)
    if numbers & _FULL:
        text = str(error) if isinstance(error, DvisError) else f"no space left on the disk: {one_line(error)}"
        return Outcome(key, "stop", error=" ".join(text.split()))
    if isinstance(error, DvisError):
        again = isinstance(error, TransferError) or (_is_output(error) and bool(numbers & _PASSING))
        return Outcome(key, "retry" if again else "failed", error=" ".join(str(error).split()))
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Outcome(key, "retry", error="out of memory: fewer --jobs, or lower --short-side or --window")
    text = f"unexpected {type(error).__name__}: {one_line(error)}"
    passing = isinstance(error, OSError) or "CUDA" in str(error)
    return Outcome(key, "retry" if passing else "failed", error=text)


def _is_output(error: DvisError) -> bool:
    from dvis_cli.errors import OutputError

    return isinstance(error, OutputError)


def _error_numbers(error: BaseException | None) -> set[int]:
    """Numbers of the system's errors along the chain of causes."""
    numbers = set()
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            numbers.add(error.errno)
        error = error.__cause__ or error.__context__
    return numbers


@contextmanager
def _warnings_to(take: Callable[[str], None]) -> Iterator[None]:
    """Hand over our own warnings; leave other libraries' alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", DvisWarning)
        original = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
            if issubclass(category, DvisWarning):
                take(" ".join(str(message).split()))
            else:
                original(message, category, *rest, **options)

        warnings.showwarning = show
        yield
