"""What the manifest of many videos costs: `python tests/benchmarks/batch_manifest.py [100000]`.

Makes that many (nearly empty) files, and the manifest of a finished run over them.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from dvis_cli.batch.inputs import look_at
from dvis_cli.batch.manifest import Row
from dvis_cli.batch.options import BatchOptions
from dvis_cli.batch.output import FolderOutput
from dvis_cli.batch.plan import make_plan
from dvis_cli.batch.sources import list_videos, place_videos


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for i in range(count):
            folder = root / "in" / f"{i // 1000:04d}"
            if i % 1000 == 0:
                folder.mkdir(parents=True)
            (folder / f"clip{i:07d}.mp4").write_bytes(b"x" * (i % 100))
            os.makedirs(root / "out" / folder.name / f"clip{i:07d}")  # noqa: PTH103
        measure(root, count)


def measure(root: Path, count: int) -> None:
    out = FolderOutput(root / "out")
    started = time.perf_counter()
    found = list_videos([root / "in"], root / "out").found
    items = place_videos(found)
    say("finding the videos", time.perf_counter() - started)
    with out.manifest(None) as manifest:
        started = time.perf_counter()
        make_plan(items, manifest, out, BatchOptions(), "settings", "0")
        say("first plan, all new", time.perf_counter() - started)
        rows = [
            Row(
                i.key,
                i.source,
                "done",
                1,
                1.0,
                60,
                5,
                fingerprint=look_at(i).fingerprint,
                settings="settings",
            )
            for i in items
        ]
        manifest.put(*rows)
        started = time.perf_counter()
        manifest.compact()
        say("rewriting at the end", time.perf_counter() - started)
    started = time.perf_counter()
    with out.manifest(None) as manifest:
        say("opening", time.perf_counter() - started)
        started = time.perf_counter()
        plan = make_plan(items, manifest, out, BatchOptions(), "settings", "0")
        assert plan.skipped == count
        say("plan, all done before", time.perf_counter() - started)
        times = []
        for row in list(manifest.rows.values())[:1000]:
            started = time.perf_counter()
            manifest.put(row)
            times.append(time.perf_counter() - started)
        times.sort()
        say("one update, median", statistics.median(times))
        say("one update, 99th percentile", times[989])
        print(f"{'file':28} {manifest.path.stat().st_size / count:9.0f} bytes a video")
    print(f"{'memory at most':28} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:9.0f} MiB")


def say(what: str, seconds: float) -> None:
    print(f"{what:28} {seconds * 1000:9.2f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
