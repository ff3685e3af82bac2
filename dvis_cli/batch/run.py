"""Many videos, one call: find them, see what is left to do, do it, tell how it went."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from dvis_cli.errors import DvisError, UsageError
from dvis_cli.run.options import SegmentOptions

from .addresses import scratch_folder
from .claims import Claims
from .listing import Filters, Listing, Video, list_videos
from .local import LocalEngine
from .options import BatchOptions, settings_hash
from .output import Output
from .places import place_videos, settled_places
from .plan import INPUT, SETTINGS, Plan, Watch, make_plan
from .report import BatchReport, Event, OnEvent, Stop
from .scheduler import Engine, Scheduler
from .summary import Summary


def run_batch(
    sources: Sequence[str | Path],
    out: str | Path,
    segment: SegmentOptions | None = None,
    options: BatchOptions | None = None,
    on_event: OnEvent = lambda event: None,
    stop: Stop | None = None,
    engine: Engine | None = None,
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
    output = Output(out)
    claims = Claims(output, options.stale)
    report = BatchReport(problems=listing.problems)
    places: dict[str, str] = {}  # that videos have, by identity, while watching

    def place(found: Sequence[Video]) -> list[Video]:
        videos = place_videos(found, settled_places(found, output, places))
        if options.watch:
            places.update((video.identity, video.key) for video in videos)
        return videos

    def plan(videos: Sequence[Video]) -> Plan:
        planned = make_plan(videos, output, summary, options, settings)
        report.total += planned.total
        report.skipped += planned.skipped
        report.failed.extend(planned.failed_before)
        return planned

    with stop or Stop() as stopping:
        claims.sweep()
        summary = Summary(output, claims, index=segment.report)
        watch = Watch(lambda: place(list_videos(sources, out, filters).found), plan, options)
        videos = place(listing.found)
        first = plan(watch.settled(videos) if options.watch else videos)
        listing.found.clear()  # of a million, hundreds of megabytes
        del videos
        workers = engine.connect() if first.jobs or options.watch else 0
        for text in [*listing.notes, *listing.problems]:
            on_event(Event("note", {"text": text}))
        on_event(_started(options, workers, first))
        scheduler = Scheduler(engine, output, claims, summary, options, settings, report, stopping)
        try:
            if options.watch:
                scheduler.run(first.jobs, workers, on_event, watch.look)
            else:
                scheduler.run(first.jobs, min(workers, len(first.jobs)), on_event)
        finally:
            engine.close()
            _tidy(summary, output, on_event)
    report.seconds = round(time.monotonic() - began, 3)
    on_event(Event("finished", report.document()))
    return report


def _engine(segment: SegmentOptions, options: BatchOptions) -> Engine:
    if options.engine == "ray":
        from .ray_engine import RayEngine

        return RayEngine(segment, options)
    return LocalEngine(segment, options)


def _tidy(summary: Summary, output: Output, on_event: OnEvent) -> None:
    """What is not written yet. The results are complete without, also on a disk that is full."""
    try:
        end = time.monotonic() + 5.0  # another run may be writing
        while not summary.flush(at_once=True) and time.monotonic() < end:
            time.sleep(0.05)
    except DvisError as error:
        on_event(Event("note", {"text": str(error)}))
    output.close()
    with scratch_folder():  # what ended workers had fetched goes
        pass


def _started(options: BatchOptions, workers: int, plan: Plan) -> Event:
    reasons = [job.reason for job in plan.jobs]
    facts = {
        "engine": options.engine,
        "workers": workers,
        "total": plan.total,
        "todo": len(plan.jobs),
        "skipped": plan.skipped,
        "failed_before": len(plan.failed_before),
        "redo": {reason: reasons.count(reason) for reason in (SETTINGS, INPUT) if reason in reasons},
    }
    return Event("started", facts)


def _nothing_found(sources: Sequence[str | Path], listing: Listing) -> str:
    named = ", ".join(str(source) for source in sources[:3]) + (", ..." if len(sources) > 3 else "")
    why = listing.problems or ["name other folders, or tell with --include which names are videos"]
    return f"{named}: no videos found; {why[0]}"
