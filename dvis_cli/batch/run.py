"""Many videos, one call: find them, see what is left to do, do it, tell how it went."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dvis_cli.errors import DvisError, UsageError
from dvis_cli.run.options import SegmentOptions

from .addresses import scratch_folder
from .claims import Claims
from .index import IndexPage
from .listing import Filters, Listing, list_videos
from .local import LocalEngine
from .options import BatchOptions, settings_hash
from .output import Output, output_of
from .places import Item, place_videos, settled_places
from .plan import Failures, Plan, make_plan
from .report import BatchReport, Event, OnEvent, Stop
from .scheduler import Scheduler
from .watch import Watch

if TYPE_CHECKING:
    from .ray_engine import RayEngine


def run_batch(
    sources: Sequence[str | Path],
    out: str | Path,
    segment: SegmentOptions | None = None,
    options: BatchOptions | None = None,
    on_event: OnEvent = lambda event: None,
    stop: Stop | None = None,
    engine: LocalEngine | RayEngine | None = None,
) -> BatchReport:
    """Segment many videos into one output; run again, it goes on where it ended.

    Args:
        sources: files, folders, patterns, lists (.txt) and addresses; see `listing.py`.
        out: folder or address in which each video gets a folder.
        segment: how each video is segmented.
        options: who does the work, and when to stop.
        on_event: told what happens, in this thread.
        stop: to end the run from elsewhere; in the main thread it listens to Ctrl-C and SIGTERM.
        engine: other workers than `options` names; it must not have been started.

    Returns:
        what was done, skipped and failed. A video that fails is not an exception.

    Raises:
        UsageError, VideoError: the sources or options make no sense; nothing was begun.
        OutputError: the output cannot be written.
        CheckpointError, ConfigError: no worker can load the model.
    """
    segment, options = segment or SegmentOptions(), options or BatchOptions()
    began = time.monotonic()
    settings = settings_hash(segment)
    engine = engine or _engine(segment, options)
    filters = Filters(options.include, options.exclude)
    listing = list_videos(sources, out, filters)
    if not listing.found and not options.watch:
        raise UsageError(_nothing_found(sources, listing))
    output = output_of(out)
    report = BatchReport(problems=listing.problems)
    claims = Claims(output, options.stale)
    places: dict[str, str] = {}  # that videos have, by identity

    def place(listing: Listing) -> list[Item]:
        items = place_videos(listing.found, settled_places(listing.found, output, places))
        if options.watch:
            places.update((one.identity, item.key) for one, item in zip(listing.found, items, strict=True))
        return items

    def plan(items: Sequence[Item]) -> Plan:
        planned = make_plan(items, output, failures, options, settings)
        report.total += planned.total
        report.skipped += planned.skipped
        report.failed.extend(planned.failed_before)
        return planned

    with stop or Stop() as stopping:
        claims.sweep()
        failures = Failures(output, claims)
        watch = (
            Watch(lambda: place(list_videos(sources, out, filters)), plan, options) if options.watch else None
        )
        items = place(listing)
        first = plan(watch.settled(items) if watch else items)
        index = IndexPage(output, claims, [one.key for one in items], settings) if segment.report else None
        if index is not None:
            on_event = index.listen(on_event)
        listing.found.clear()  # of a million, hundreds of megabytes
        del items
        workers = engine.connect() if first.jobs or watch else 0
        for text in [*listing.notes, *listing.problems]:
            on_event(Event("note", {"text": text}))
        on_event(_started(options, workers, first))
        scheduler = Scheduler(engine, output, claims, failures, options, settings, report, on_event, stopping)
        try:
            scheduler.run(first.jobs, workers if watch else min(workers, len(first.jobs)), watch)
        finally:
            _tidy(failures, index, output, on_event)
    report.seconds = round(time.monotonic() - began, 3)
    on_event(Event("finished", report.document()))
    return report


def _engine(segment: SegmentOptions, options: BatchOptions) -> LocalEngine | RayEngine:
    if options.engine == "ray":
        from .ray_engine import RayEngine

        return RayEngine(segment, options)
    return LocalEngine(segment, options)


def _tidy(failures: Failures, index: IndexPage | None, output: Output, on_event: OnEvent) -> None:
    """What is not written yet. The results are complete without, also on a disk that is full."""
    try:
        end = time.monotonic() + 5.0  # another run may be writing
        while not failures.flush(at_once=True) and time.monotonic() < end:
            time.sleep(0.05)
        while index is not None and not index.flush(at_once=True) and time.monotonic() < end:
            time.sleep(0.05)
        output.close()
        with scratch_folder():  # what ended workers had fetched goes
            pass
    except DvisError as error:
        on_event(Event("note", {"text": str(error)}))


def _started(options: BatchOptions, workers: int, plan: Plan) -> Event:
    facts = {
        "engine": options.engine,
        "workers": workers,
        "total": plan.total,
        "todo": len(plan.jobs),
        "skipped": plan.skipped,
        "failed_before": len(plan.failed_before),
        "redo": plan.redo,
    }
    return Event("started", facts)


def _nothing_found(sources: Sequence[str | Path], listing: Listing) -> str:
    named = ", ".join(str(source) for source in sources[:3]) + (", ..." if len(sources) > 3 else "")
    why = listing.problems or ["name other folders, or tell with --include which names are videos"]
    return f"{named}: no videos found; {why[0]}"
