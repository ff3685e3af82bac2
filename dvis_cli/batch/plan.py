"""Which videos are to be done: what the results in the output were made from, against what there is now."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .addresses import is_url
from .claims import Claims, SharedFile
from .options import BatchOptions, in_shard, order_of
from .output import FAILURES, RECORD, Output, parse
from .places import Item, as_utf8
from .report import Failure

NEW, SETTINGS, INPUT, RETRY = "new", "settings changed", "input changed", "failed before"


@dataclass(slots=True)
class Job:
    """A video to be done."""

    item: Item
    reason: str
    tries: int = 0  # in this run
    faulty: tuple[int, ...] = ()  # workers whose accelerator failed at it
    wait: float = 0.0  # time.monotonic() before which a claim that another run holds is not tried again


@dataclass
class Plan:
    """What this run will do about each video."""

    total: int = 0
    skipped: int = 0
    jobs: list[Job] = field(default_factory=list)
    failed_before: list[Failure] = field(default_factory=list)

    @property
    def redo(self) -> dict[str, int]:
        """Videos that have a result, by the reason why they are done again."""
        reasons = [job.reason for job in self.jobs]
        return {reason: reasons.count(reason) for reason in (SETTINGS, INPUT) if reason in reasons}


def make_plan(
    items: Sequence[Item], output: Output, failures: Failures, options: BatchOptions, settings: str
) -> Plan:
    """Decide about every video of this part. `settings`: the hash of everything that changes results."""
    plan = Plan()
    mine = [item for item in items if in_shard(item.key, options.shard)]
    plan.total = len(mine)
    for given, data in zip(mine, output.read(f"{item.key}/{RECORD}" for item in mine), strict=True):
        item, record = look_at(given), parse(data)
        failure = failures.get(item.key)
        if is_current(record, item, settings):
            plan.skipped += 1
        elif failure is None or not is_current(failure, item, settings):
            reason = NEW if not record else SETTINGS if record.get("settings") != settings else INPUT
            plan.jobs.append(Job(item, reason))
        elif options.retry_failed:
            plan.jobs.append(Job(item, RETRY))
        else:
            plan.failed_before.append(Failure(item.key, item.source, failure["error"], earlier=True))
    if options.shuffle:
        plan.jobs.sort(key=lambda job: order_of(job.item.key))
    return plan


def is_current(record: dict[str, Any], item: Item, settings: str) -> bool:
    """Whether a result, or a failure, came from this input with these settings.

    A file that was only copied or touched has another time and the same bytes; it has not changed.
    """
    mark = record.get("fingerprint")
    if record.get("settings") != settings:
        return False
    if item.fingerprint is None or mark is None or item.fingerprint == mark:
        return item.fingerprint == mark
    same_size = mark.partition(":")[0] == item.fingerprint.partition(":")[0]
    content = record.get("content")
    return same_size and content is not None and content == content_of(item.source)


def look_at(item: Item) -> Item:
    """The item with its fingerprint and size, as far as the file system tells them."""
    if item.fingerprint is not None or is_url(item.source):
        return item
    with suppress(OSError, ValueError):  # work on it will say why
        facts = os.stat(item.source)  # noqa: PTH116 - a million of them
        if not stat.S_ISDIR(facts.st_mode):
            return replace(item, fingerprint=f"{facts.st_size}:{facts.st_mtime_ns}", size=facts.st_size)
        with os.scandir(item.source) as entries:
            files = [entry.stat() for entry in entries if entry.is_file()]
        size, latest = sum(one.st_size for one in files), max((one.st_mtime_ns for one in files), default=0)
        return replace(item, fingerprint=f"{len(files)}/{size}:{latest}", size=size)
    return item


def content_of(source: str) -> str | None:
    """Hash of a file's bytes; None for what is no readable file of this machine."""
    if is_url(source) or not os.path.isfile(source):  # noqa: PTH113 - ValueErrors are False
        return None
    digest = hashlib.blake2b(digest_size=16)
    try:
        with Path(source).open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


class Failures(SharedFile):
    """Videos without a result, and why: `failures.jsonl`, one line a video, by key.

    What a killed run had not written yet is tried again.
    """

    def __init__(self, output: Output, claims: Claims) -> None:
        super().__init__(FAILURES, output, claims)
        self._rows = self._read()
        self._changes: dict[str, dict[str, Any] | None] = {}

    def get(self, key: str) -> dict[str, Any] | None:
        """What is known of a failure."""
        return self._rows.get(as_utf8(key))

    def add(self, failure: Failure, item: Item, settings: str) -> None:
        """Remember a failure."""
        facts = {name: as_utf8(value) for name, value in asdict(failure).items() if name != "earlier"}
        self._changes[facts["key"]] = {**facts, "fingerprint": item.fingerprint, "settings": settings}

    def forget(self, key: str) -> None:
        """A video has a result now."""
        if self.get(key) is not None:
            self._changes[as_utf8(key)] = None

    def flush(self, at_once: bool = False) -> bool:
        return super().flush(at_once) if self._changes else True

    def _update(self) -> bytes | None:
        rows = {**self._read(), **self._changes}
        self._rows = {key: row for key, row in rows.items() if row is not None}
        return "".join(json.dumps(self._rows[key]) + "\n" for key in sorted(self._rows)).encode() or None

    def _written(self) -> None:
        self._changes.clear()

    def _read(self) -> dict[str, dict[str, Any]]:
        rows = (parse(line) for line in (next(self._output.read([FAILURES])) or b"").splitlines())
        return {row["key"]: row for row in rows if {"key", "error"} <= row.keys()}
