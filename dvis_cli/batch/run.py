"""Many videos, one call: find them, see what is left to do, do it, say how it went."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dvis_cli import __version__
from dvis_cli.errors import OutputError, UsageError

from .engine import Engine
from .folders import Filters, identity_of
from .local import LocalEngine
from .manifest import Manifest
from .options import BatchOptions, VideoSettings, in_shard
from .output import Output, output_of
from .plan import Plan, make_plan
from .report import BatchReport, Event, OnEvent
from .scheduler import MoreJobs, Scheduler
from .sources import Listing, list_videos, place_videos
from .stop import Stop
from .watch import Watch


def run_batch(
    sources: Sequence[str | Path],
    out: str | Path,
    settings: VideoSettings | None = None,
    options: BatchOptions | None = None,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
    engine: Engine | None = None,
) -> BatchReport:
    """Segment many videos into one output; run again, it goes on where it ended.

    Args:
        sources: files, folders, patterns, lists (.txt) and addresses; see `sources.py`.
        out: folder or address; holds the manifest, and a folder for each video.
        settings: how each video is segmented.
        options: who does the work, and when to stop.
        on_event: told what happens, in this thread.
        engine: other workers than `options` asks for; it must not have been started.
        stop: to end the run from elsewhere; in the main thread it listens to Ctrl-C and SIGTERM.

    Returns:
        what was done, skipped and failed. A video that fails is not an exception.

    Raises:
        UsageError, VideoError: the sources or options make no sense; nothing was begun.
        LockedError: another run works on this output.
        OutputError: the output cannot be written.
        CheckpointError, ConfigError: no worker can load the model.
    """
    settings, options = settings or VideoSettings(), options or BatchOptions()
    tell = on_event or _nobody
    started = time.monotonic()
    fingerprint = settings.fingerprint()
    engine = engine or _engine(settings, options)
    filters = Filters(options.include, options.exclude)
    listing = list_videos(sources, out, filters)
    if not listing.found and not options.watch:
        raise UsageError(_nothing_found(sources, listing))
    output = output_of(out)
    report = BatchReport(problems=listing.problems)
    with (
        stop or Stop() as stopping,
        output.lock(options.shard) as lock,
        output.manifest(options.shard) as manifest,
    ):
        if lock.took_over:
            tell(
                Event(
                    "note", {"text": f"an earlier run ({lock.took_over}) was killed; going on where it was"}
                )
            )
        others = output.other_rows(options.shard)
        manifest.adopt(row for row in others if in_shard(row.key, options.shard))
        known = {identity_of(row.source): row.key for row in [*others, *manifest.rows.values()]}
        _clean_up(manifest, output)
        items = place_videos(listing.found, known)
        watch = Watch(sources, out, filters, options, known) if options.watch else None
        if watch is not None:
            items = watch.settled(items)
        plan = make_plan(items, manifest, output, options, fingerprint, __version__)
        _announce(tell, plan, listing, manifest, options, engine, report)
        scheduler = Scheduler(engine, manifest, output, options, report, tell, stopping)
        more: MoreJobs | None = None
        if watch is not None:
            more = partial(watch.look, manifest, output, fingerprint, report, lambda: scheduler.busy)
        if plan.jobs or watch is not None:
            engine.start(None if watch is not None else len(plan.jobs))
            scheduler.run(plan.jobs, more)
        for row in manifest.rows.values():
            if row.state == "failed":
                output.prune(row.key)
        _tidy(manifest, output, options, tell)
    report.seconds = round(time.monotonic() - started, 3)
    tell(Event("finished", report.document()))
    return report


def _engine(settings: VideoSettings, options: BatchOptions) -> Engine:
    if options.engine == "ray":
        from .ray_engine import RayEngine

        return RayEngine(settings, options)
    return LocalEngine(settings, options)


def _clean_up(manifest: Manifest, output: Output) -> None:
    """Videos that a killed run was at: what it left of them goes, whether or not they are done again."""
    broken = [row for row in manifest.rows.values() if row.state == "running"]
    for row in broken:
        output.clean(row.key)
        output.prune(row.key)
    manifest.put(*(dataclasses.replace(row, state="pending") for row in broken))


def _tidy(manifest: Manifest, output: Output, options: BatchOptions, tell: OnEvent) -> None:
    """One row a video, in one file. The run is complete without, also on a disk that is full."""
    try:
        manifest.compact()
        output.absorb(options.shard)
    except OutputError as error:
        tell(Event("note", {"text": str(error)}))


def _announce(
    tell: OnEvent,
    plan: Plan,
    listing: Listing,
    manifest: Manifest,
    options: BatchOptions,
    engine: Engine,
    report: BatchReport,
) -> None:
    report.total, report.skipped = plan.total, plan.skipped
    report.failed.extend(plan.failed_before)
    for text in [*listing.notes, *listing.problems]:
        tell(Event("note", {"text": text}))
    if manifest.ignored:
        tell(Event("note", {"text": f"{manifest.ignored} damaged lines of {manifest.path} are ignored"}))
    facts = {
        "engine": options.engine,
        "workers": engine.workers,
        "total": plan.total,
        "todo": len(plan.jobs),
        "skipped": plan.skipped,
        "failed_before": len(plan.failed_before),
        "redo": plan.redo,
    }
    tell(Event("started", facts))


def _nothing_found(sources: Sequence[str | Path], listing: Listing) -> str:
    named = ", ".join(str(source) for source in sources[:3]) + (", ..." if len(sources) > 3 else "")
    if listing.problems:
        return f"{named}: no videos found; {listing.problems[0]}"
    return f"{named}: no videos found; name other folders, or say with --include which names are videos"


def _nobody(event: Event) -> None:
    """Nobody wants to know."""
