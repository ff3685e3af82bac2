"""Which videos are to be done: what the results in the output were made from, against what there is now."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dvis_cli.errors import DvisError

from .claims import Claims
from .options import BatchOptions, in_shard, order_of
from .output import RECORD, Output, is_url, parse
from .places import place_videos, settled_places
from .report import BatchReport, Failure, Stop
from .sources import Video
from .summary import Summary

NEW, SETTINGS, INPUT, RETRY = "new", "settings changed", "input changed", "failed before"


@dataclass(slots=True, eq=False)
class Job:
    """A video to be done, and how far that is."""

    video: Video
    reason: str
    tries: int = 0  # in this run
    faulty: tuple[int, ...] = ()  # workers whose accelerator failed at it
    elsewhere: bool = False  # another run had it when it was to be begun
    not_before: float = 0.0  # by the monotonic clock
    heard: float = 0.0  # time.monotonic() of its worker's last sign of life
    frames: int = 0
    frames_in_all: int | None = None

    @property
    def size(self) -> int:
        """Bytes, where they are known: long and short videos are estimated fairly."""
        return max(self.video.size or 0, 1)

    @property
    def size_done(self) -> float:
        return self.size * min(self.frames / self.frames_in_all, 1.0) if self.frames_in_all else 0.0


@dataclass
class Run:
    """What one run works with."""

    output: Output
    claims: Claims
    summary: Summary
    options: BatchOptions
    settings: str  # the hash of everything that changes results
    report: BatchReport
    stop: Stop


def make_plan(videos: Sequence[Video], run: Run) -> list[Job]:
    """Decide about every video of this part: what is to be done. The rest is told in the report."""
    jobs, report = [], run.report
    mine = [video for video in videos if in_shard(video.key, run.options.shard)]
    report.total += len(mine)
    for given, data in zip(mine, run.output.read(f"{video.key}/{RECORD}" for video in mine), strict=True):
        video, record = look_at(given), parse(data)
        failure = run.summary.failure(video.key)
        if is_current(record, video, run.settings):
            report.skipped += 1
            run.summary.done(video.key, record)
        elif failure is None or not is_current(failure, video, run.settings):
            reason = NEW if not record else SETTINGS if record.get("settings") != run.settings else INPUT
            jobs.append(Job(video, reason))
        elif run.options.retry_failed:
            jobs.append(Job(video, RETRY))
        else:
            report.failed.append(Failure(video.key, video.source, failure["error"], earlier=True))
    if run.options.shuffle:
        jobs.sort(key=lambda job: order_of(job.video.key))
    return jobs


def is_current(record: dict[str, Any], video: Video, settings: str) -> bool:
    """Whether a result, or a failure, came from this input with these settings.

    A file that was only copied or touched has another time and the same bytes; it has not changed.
    """
    mark, now = record.get("fingerprint"), video.fingerprint
    if record.get("settings") != settings:
        return False
    if now is None or not isinstance(mark, str) or now == mark:
        return bool(now == mark)
    same_size = mark.partition(":")[0] == now.partition(":")[0]
    content = record.get("content")
    return same_size and content is not None and content == content_of(video.source)


def look_at(video: Video) -> Video:
    """The video with its fingerprint and size, as far as the file system tells them."""
    if video.fingerprint is not None or is_url(video.source):
        return video
    with suppress(OSError, ValueError):  # work on it will say why
        facts = os.stat(video.source)  # noqa: PTH116 - a million of them
        if not stat.S_ISDIR(facts.st_mode):
            mark = f"{facts.st_size}:{facts.st_mtime_ns}"
            return replace(video, fingerprint=mark, size=facts.st_size)
        with os.scandir(video.source) as entries:
            files = [entry.stat() for entry in entries if entry.is_file()]
        size, latest = sum(one.st_size for one in files), max((one.st_mtime_ns for one in files), default=0)
        return replace(video, fingerprint=f"{len(files)}/{size}:{latest}", size=size)
    return video


def content_of(source: str) -> str | None:
    """Hash of a file's bytes; None for what is no readable file of this machine."""
    if is_url(source) or not os.path.isfile(source):  # noqa: PTH113 - ValueErrors are False
        return None
    digest = hashlib.blake2b(digest_size=16)
    with suppress(OSError), Path(source).open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
        return digest.hexdigest()
    return None


class Watch:
    """A folder that fills up: new videos are planned when they have stopped growing.

    Args:
        find: lists all videos there are now.
    """

    def __init__(self, find: Callable[[], Sequence[Video]], run: Run) -> None:
        self._find, self._run = find, run
        self._places: dict[str, str] = {}  # that videos have, by identity
        self._growing: dict[str, tuple[str | None, float]] = {}  # key -> fingerprint, since when
        self._taken: set[str] = set()  # keys that were planned
        self._next = time.monotonic() + run.options.watch_every

    def look(self) -> list[Job]:
        """New jobs, now and then."""
        jobs: list[Job] = []
        now = time.monotonic()
        if now >= self._next:
            with suppress(DvisError):  # a folder that is away for a moment
                jobs = make_plan(self.settled(self._find()), self._run)
            took = time.monotonic() - now  # a million are not listed all the time
            self._next = now + max(self._run.options.watch_every, 10 * took)
        return jobs

    def settled(self, found: Sequence[Video]) -> list[Video]:
        """Those that have not changed for a while; each is returned once."""
        ready, now = [], time.monotonic()
        videos = place_videos(found, settled_places(found, self._run.output, self._places))
        self._places.update((video.identity, video.key) for video in videos)
        for video in (look_at(one) for one in videos if one.key not in self._taken):
            # An old file need not be waited for.
            mark, since = self._growing.get(video.key, (video.fingerprint, now - _age(video)))
            since = since if mark == video.fingerprint else now
            self._growing[video.key] = (video.fingerprint, since)
            if now - since >= self._run.options.settle:
                ready.append(video)
                self._taken.add(video.key)
                del self._growing[video.key]
        return ready


def _age(video: Video) -> float:
    """Seconds since the input last changed; 0 when unknown."""
    stamp = (video.fingerprint or "").rpartition(":")[2]
    return max(time.time() - int(stamp) / 1e9, 0.0) if stamp.isdecimal() else 0.0
