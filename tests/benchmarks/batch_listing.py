"""What it costs to know of many videos: `python tests/benchmarks/batch_listing.py [100000]`.

Makes that many (nearly empty) files, and then results of a finished run over them.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dvis_cli.batch import BatchOptions
from dvis_cli.batch.claims import Claims
from dvis_cli.batch.output import Output
from dvis_cli.batch.places import place_videos, settled_places
from dvis_cli.batch.plan import Run, look_at, make_plan
from dvis_cli.batch.report import BatchReport, Stop
from dvis_cli.batch.sources import list_videos
from dvis_cli.batch.summary import Summary

T = TypeVar("T")
CLAIMS = 1000


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for i in range(count):
            folder = root / "in" / f"{i // 1000:04d}"
            if i % 1000 == 0:
                folder.mkdir(parents=True)
            (folder / f"clip{i:07d}.mp4").write_bytes(b"x" * (i % 100))
        measure(root, count)


def measure(root: Path, count: int) -> None:
    output = Output(root / "out")
    claims = Claims(output, 300.0)
    summary, report = Summary(output, claims, index=False), BatchReport()
    run = Run(output, claims, summary, BatchOptions(), "settings", report, Stop())
    found = timed("finding the videos", lambda: list_videos([root / "in"], root / "out").found)
    items = timed("giving them places", lambda: place_videos(found, settled_places(found, output, {})))
    assert len(timed("plan, all new", lambda: make_plan(items, run))) == count
    timed(f"{CLAIMS} claims taken", lambda: [claims.take(item.key) for item in items[:CLAIMS]])
    timed(f"{CLAIMS} claims released", lambda: [claims.release(item.key) for item in items[:CLAIMS]])
    for item in items:
        folder = root / "out" / item.key
        folder.mkdir(parents=True)
        record = {"source": item.source, "fingerprint": look_at(item).fingerprint, "settings": "settings"}
        (folder / "batch.json").write_text(json.dumps(record))
    timed("plan, all done before", lambda: make_plan(items, run))
    assert report.skipped == count
    print(f"{'memory at most':28} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:9.0f} MiB")


def timed(what: str, do: Callable[[], T]) -> T:
    started, cpu = time.perf_counter(), time.process_time()
    result = do()
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(f"{what:28} {wall:9.2f} s, of the CPU {cpu:9.2f} s", flush=True)
    return result


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
