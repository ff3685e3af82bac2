"""Which videos are to be done: what the manifest says against what there is now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .inputs import has_changed, look_at
from .manifest import Manifest, Row
from .options import BatchOptions, in_shard, order_of
from .output import Output
from .report import Failure
from .sources import Item

NEW, SETTINGS, INPUT, GONE, RETRY = (
    "new",
    "settings changed",
    "input changed",
    "result is gone",
    "failed before",
)


@dataclass(slots=True)
class Job:
    """A video to be done, and how often it was tried in this run."""

    item: Item
    reason: str
    tries: int = 0


@dataclass
class Plan:
    """What this run will do about each video."""

    total: int = 0
    skipped: int = 0
    jobs: list[Job] = field(default_factory=list)
    failed_before: list[Failure] = field(default_factory=list)

    @property
    def redo(self) -> dict[str, int]:
        """Videos that had been done, by the reason why they are done again."""
        counts: dict[str, int] = {}
        for job in self.jobs:
            if job.reason not in (NEW, RETRY):
                counts[job.reason] = counts.get(job.reason, 0) + 1
        return counts


def make_plan(
    items: Sequence[Item],
    manifest: Manifest,
    output: Output,
    options: BatchOptions,
    settings: str,
    version: str,
) -> Plan:
    """Decide about every video, and record those that are to be done as pending."""
    plan = Plan()
    fresh: list[Row] = []
    for given in items:
        if not in_shard(given.key, options.shard):
            continue
        plan.total += 1
        item = look_at(given)
        row = manifest.get(item.key)
        reason = _reason(item, row, output, options, settings)
        if reason is None and row is not None:
            if row.state == "failed":
                plan.failed_before.append(Failure(item.key, item.source, row.error or "?", earlier=True))
            else:
                plan.skipped += 1
            continue
        reason = reason or NEW
        plan.jobs.append(Job(item, reason))
        if row is None or row.state != "pending" or row.settings != settings or row.source != item.source:
            fresh.append(
                Row(
                    item.key,
                    item.source,
                    tries=row.tries if row is not None and row.state == "pending" else 0,
                    fingerprint=item.fingerprint,
                    settings=settings,
                    ours=row.ours if row is not None else None,
                    dvis=version,
                )
            )
    manifest.put(*fresh)
    if options.shuffle:
        plan.jobs.sort(key=lambda job: order_of(job.item.key))
    return plan


def _reason(item: Item, row: Row | None, output: Output, options: BatchOptions, settings: str) -> str | None:
    """Why a video is to be done; None when it is not."""
    if row is None or row.state in ("pending", "running"):
        return NEW
    if row.settings != settings:
        return SETTINGS
    if has_changed(item, row.fingerprint, row.content):
        return INPUT
    if row.state == "failed":
        return RETRY if options.retry_failed else None
    return None if output.has(item.key) else GONE
