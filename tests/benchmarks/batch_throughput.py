"""What a second worker brings: the same videos by one and by two workers, local and Ray.

    dvis weights random offline-r50 -o r50.safetensors
    python tests/benchmarks/batch_throughput.py --model r50.safetensors [--engines local ray] [--crews 1x1 2x1 1x2]

A crew of 2x1 is two workers of one thread each. Counted from the first worker that has its model to the end of the last
video; starting is a column of its own. The machine must have nothing else to do: two threads that wait for one another
at every layer suffer most from a third. At the end it says whether all runs with as many threads made the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from media import moving_squares, write_video

from dvis_cli.batch import ENGINES, BatchOptions, Event, run_batch
from dvis_cli.run.options import SegmentOptions


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--engines", choices=ENGINES, nargs="+", default=list(ENGINES))
    parser.add_argument("--crews", nargs="+", default=["1x1", "2x1"], metavar="WORKERSxTHREADS")
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--frames", type=int, default=12, help="of each video")
    parser.add_argument("--short-side", type=int, default=192)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "in").mkdir()
        for i in range(options.videos):
            frames = moving_squares(options.frames + i, 360, 640)[i:]
            write_video(root / "in" / f"{i:03d}.mp4", frames)
        print("engine  workers  threads  start   network   frames/s  times the first")
        trees: dict[int, set[str]] = {}
        for engine in options.engines:
            first = 0.0
            for crew in options.crews:
                workers, threads = (int(part) for part in crew.split("x"))
                out = root / f"{engine}-{crew}"
                batch = BatchOptions(engine=engine, jobs=workers)
                start, seconds, frames = measure(root / "in", out, batch, threads, options)
                first = first or frames / seconds
                print(
                    f"{engine:6} {workers:8} {threads:8} {start:6.1f} s {seconds:7.1f} s "
                    f"{frames / seconds:9.3f} {frames / seconds / first:15.2f}",
                    flush=True,
                )
                trees.setdefault(threads, set()).add(digest(out))
    different = [threads for threads, digests in trees.items() if len(digests) > 1]
    print(f"results with {different} threads differ" if different else "same threads, same bytes: yes")
    sys.exit(bool(different))


def measure(
    source: Path, out: Path, batch: BatchOptions, threads: int, options: argparse.Namespace
) -> tuple[float, float, int]:
    """(seconds until the first worker is ready, seconds from there to the last video, frames)."""
    began = time.monotonic()
    ready: list[float] = []
    ended: list[float] = []

    def hear(event: Event) -> None:
        if event.kind == "worker":
            ready.append(time.monotonic())
        if event.kind == "video_done":
            ended.append(time.monotonic())

    segment = SegmentOptions(model=options.model, short_side=options.short_side, threads=threads)
    report = run_batch([source], out, segment, batch, hear)
    assert report.done == options.videos and len(ready) == batch.jobs, report
    return ready[0] - began, ended[-1] - ready[0], report.frames


def digest(out: Path) -> str:
    """Hash of all results, by name and bytes."""
    total = hashlib.blake2b()
    for path in sorted(path for path in out.rglob("*") if path.is_file() and path.parent != out):
        total.update(str(path.relative_to(out)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


if __name__ == "__main__":
    main()
