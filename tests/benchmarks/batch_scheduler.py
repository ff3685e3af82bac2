"""Where the scheduler's own cost begins: real Ray, or local processes, and workers that only wait.

    python tests/benchmarks/batch_scheduler.py [--engine ray|local] [--seconds 2 0.5 0.1]
        [--workers 1 2 4 8] [--videos-each 10]

Waits are drawn within a fifth of `--seconds`. The ideal is what the same waits take when each goes to the first worker
that is ready or free and handing over costs nothing: what is missing to it is the scheduler, the claims and Ray,
not the start of the workers and not the luck of the last video.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from dvis_cli.batch import BatchOptions, Event, run_batch
from dvis_cli.batch.work import Outcome, Progress, Ready, Say, Task
from dvis_cli.batch.workers import LocalEngine, RayEngine
from dvis_cli.run.options import SegmentOptions

FRAMES = 1500  # of a one-minute clip


class WaitingWorker:
    """No model, no video: waits as long as the source's text says, and reports as a real one does."""

    def __init__(self, number: int, *_unused: object) -> None:
        self.ready = Ready(0.0, "none", False)

    def run(self, task: Task, say: Say) -> None:
        seconds = float(Path(task.video.source).read_text())
        started = time.monotonic()
        while (passed := time.monotonic() - started) < seconds:
            say(Progress(int(FRAMES * passed / seconds), FRAMES))
            time.sleep(min(task.say_every, max(seconds - passed, 0.0)))
        say(Outcome("done", seconds, FRAMES, 5))


@dataclass
class Clock:
    """Listens to a run."""

    ready: list[float] = field(default_factory=list)
    cpu: float = 0.0  # of this process when the last worker was ready
    end_cpu: float = 0.0
    done_since: int = 0
    times: list[tuple[float, str, int]] = field(default_factory=list)
    owners: dict[str, int] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        if event.kind == "worker":
            self.ready.append(time.monotonic())
            self.cpu, self.done_since = time.process_time(), 0
        if event.kind == "video_started":
            self.owners[event.data["key"]] = event.data["worker"]
        if event.kind in ("video_started", "video_done"):
            self.times.append((time.monotonic(), event.kind, self.owners[event.data["key"]]))
        if event.kind == "video_done":
            self.end_cpu, self.done_since = time.process_time(), self.done_since + 1

    def gaps(self) -> list[float]:
        """Seconds between a worker's report that a video is done, and its next one's start."""
        gaps, last = [], {}
        for when, kind, worker in self.times:
            if kind == "video_done":
                last[worker] = when
            elif worker in last:
                gaps.append(when - last.pop(worker))
        return gaps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", choices=["ray", "local"], default="ray")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 0.5, 0.1])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--videos-each", type=int, default=10, help="of a worker; more where they are short")
    options = parser.parse_args()
    print("s/video  workers  videos  videos/s  of ideal  handing over  coordinator's CPU a video  all ready")
    for seconds in options.seconds:
        for workers in options.workers:
            count = workers * max(options.videos_each, round(5 / seconds))
            with tempfile.TemporaryDirectory() as name:
                measure(Path(name), workers, options.engine, draw(count, seconds))


def draw(count: int, seconds: float) -> list[float]:
    rng = random.Random(1)
    return [seconds * rng.uniform(0.8, 1.2) for _ in range(count)]


def measure(root: Path, workers: int, engine: str, waits: list[float]) -> None:
    (root / "in").mkdir()
    for i, wait in enumerate(waits):
        (root / "in" / f"{i:05d}.mp4").write_text(f"{wait:.4f}")
    segment, options = SegmentOptions(), BatchOptions(engine=engine, jobs=workers, ray_cpus=0.01)  # type: ignore[arg-type]
    make = RayEngine if engine == "ray" else LocalEngine
    clock = Clock()
    began = time.monotonic()
    report = run_batch(
        [root / "in"], root / "out", segment, options, clock, engine=make(segment, options, WaitingWorker)
    )
    assert report.done == len(waits), report
    wall = clock.times[-1][0] - clock.ready[0]
    cpu = (clock.end_cpu - clock.cpu) / clock.done_since
    print(
        f"{statistics.fmean(waits):7.2f} {workers:8} {len(waits):7} {len(waits) / wall:9.2f} "
        f"{ideal(waits, [one - clock.ready[0] for one in clock.ready]) / wall:9.1%} "
        f"{statistics.fmean(clock.gaps()) * 1000:10.1f} ms {cpu * 1000:22.1f} ms {clock.ready[-1] - began:8.1f} s",
        flush=True,
    )


def ideal(waits: list[float], free: list[float]) -> float:
    """Seconds until the last is done, each begun by whoever is free first; `free`: since when each worker is."""
    heapq.heapify(free)
    for wait in waits:
        heapq.heapreplace(free, free[0] + wait)
    return max(free)


if __name__ == "__main__":
    main()
