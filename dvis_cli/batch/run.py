"""Many videos, one call: find them, see what is left to do, do it, tell how it went."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from dvis_cli.errors import DvisError, UsageError
from dvis_cli.run.options import SegmentOptions

from .claims import Claims
from .options import BatchOptions, settings_hash
from .output import Output
from .places import place_videos, settled_places
from .plan import INPUT, SETTINGS, Job, Run, Watch, make_plan
from .report import BatchReport, Event, OnEvent, Stop
from .scheduler import Scheduler
from .sources import Listing, list_videos
from .summary import Summary
from .work import scratch_folder
from .workers import Engine, LocalEngine, RayEngine


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
        sources: files, folders, patterns, lists (.txt) and addresses; see `sources.py`.
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
    if segment.overwrite:  # what stood in the way may now go
        options = replace(options, retry_failed=True)
    began = time.monotonic()
    settings = settings_hash(segment)
    engine = engine or (RayEngine if options.engine == "ray" else LocalEngine)(segment, options)
    listing = list_videos(sources, out, options)
    if not listing.found and not options.watch:
        raise UsageError(_nothing_found(sources, listing))
    output = Output(out)
    claims = Claims(output, options.stale)
    report = BatchReport(problems=listing.problems)
    with stop or Stop() as stopping:
        claims.sweep()
        summary = Summary(output, claims, index=segment.report)
        run = Run(output, claims, summary, options, settings, report, stopping)
        watch = Watch(lambda: list_videos(sources, out, options).found, run) if options.watch else None
        if watch:
            jobs = make_plan(watch.settled(listing.found), run)
        else:
            jobs = make_plan(place_videos(listing.found, settled_places(listing.found, output, {})), run)
        listing.found.clear()  # of a million, hundreds of megabytes
        _work_on(jobs, watch, run, engine, [*listing.notes, *listing.problems], on_event)
    report.seconds = round(time.monotonic() - began, 3)
    on_event(Event("finished", report.document()))
    return report


def _work_on(
    jobs: list[Job], watch: Watch | None, run: Run, engine: Engine, notes: list[str], on_event: OnEvent
) -> None:
    """Do the jobs, and what comes while watching."""
    if jobs or watch:
        run.output.check_writable()
    workers = engine.connect() if jobs or watch else 0
    for text in notes:
        on_event(Event("note", {"text": text}))
    on_event(_started(run, workers, jobs))
    try:
        crew = workers if watch else min(workers, len(jobs))
        with closing(Scheduler(engine, run).events(jobs, crew, watch.look if watch else None)) as events:
            for event in events:
                on_event(event)
    finally:
        engine.close()
        _tidy(run, on_event)


def _tidy(run: Run, on_event: OnEvent) -> None:
    """What is not written yet. The results are complete without, also on a disk that is full."""
    try:
        end = time.monotonic() + 5.0  # another run may be writing
        while not run.summary.flush(at_once=True) and time.monotonic() < end:
            time.sleep(0.05)
    except DvisError as error:
        on_event(Event("note", {"text": str(error)}))
    run.output.close()
    with scratch_folder():  # what ended workers had fetched goes
        pass


def _started(run: Run, workers: int, jobs: Sequence[Job]) -> Event:
    reasons = [job.reason for job in jobs]
    facts = {
        "engine": run.options.engine,
        "workers": workers,
        "total": run.report.total,
        "todo": len(jobs),
        "skipped": run.report.skipped,
        "failed_before": len(run.report.failed),
        "redo": {reason: reasons.count(reason) for reason in (SETTINGS, INPUT) if reason in reasons},
    }
    return Event("started", facts)


def _nothing_found(sources: Sequence[str | Path], listing: Listing) -> str:
    named = ", ".join(map(str, sources[:3])) + (", ..." if len(sources) > 3 else "")
    why = listing.problems or ["name other folders, or tell with --include which names are videos"]
    return f"{named}: no videos found; {why[0]}"
