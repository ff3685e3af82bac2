"""Where the scheduler's own cost begins: real Ray, or local processes, and workers that only wait.

    python tests/benchmarks/batch_scheduler.py [--engine ray|local] [--seconds 2.0] [--videos-each 10]

For 1, 2, 4 and 8 workers it runs `videos-each` videos a worker whose time is drawn around `seconds` (a fifth more
or less, always the same draw) and compares the whole time with what the waits alone would take.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from dvis_cli.batch import BatchOptions, Event, VideoSettings, run_batch
from dvis_cli.batch.engine import Finished, Outcome, Progress, Ready, Task
from dvis_cli.batch.local import LocalEngine
from dvis_cli.batch.ray_engine import RayEngine
from dvis_cli.batch.work import Say

FRAMES = 1500  # of a one-minute clip


class WaitingWorker:
    """No model, no video: waits as long as the source's text says, and reports as a real one does."""

    def __init__(self, number: int, *_unused: object) -> None:
        self.number, self.ready = number, Ready(number, 0.0, "none", False)

    def run(self, task: Task, say: Say) -> None:
        seconds = float(Path(task.source).read_text())
        started = time.monotonic()
        while (passed := time.monotonic() - started) < seconds:
            say(Progress(self.number, task.key, int(FRAMES * passed / seconds), FRAMES))
            time.sleep(min(task.say_every, max(seconds - passed, 0.0)))
        say(Finished(self.number, Outcome(task.key, "done", seconds, FRAMES, 5)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", choices=["ray", "local"], default="ray")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--videos-each", type=int, default=10)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parser.parse_args()
    print("workers  videos  videos/s  of ideal  between two videos of a worker  coordinator's CPU a video")
    for workers in options.workers:
        with tempfile.TemporaryDirectory() as name:
            measure(Path(name), workers, options.engine, options.seconds, options.videos_each * workers)


def measure(root: Path, workers: int, engine: str, seconds: float, videos: int) -> None:
    rng = random.Random(1)
    (root / "in").mkdir()
    for i in range(videos):
        (root / "in" / f"{i:05d}.mp4").write_text(f"{seconds * rng.uniform(0.8, 1.2):.4f}")
    settings, options = VideoSettings(), BatchOptions(engine=engine, jobs=workers, ray_cpus=0.01)  # type: ignore[arg-type]
    make = RayEngine if engine == "ray" else LocalEngine
    times: list[tuple[float, str, int]] = []
    owners: dict[str, int] = {}
    ready: list[tuple[float, float]] = []

    def hear(event: Event) -> None:
        if event.kind == "worker":
            ready.append((time.monotonic(), time.process_time()))
        if event.kind == "video_started":
            owners[event.data["key"]] = event.data["worker"]
        if event.kind in ("video_started", "video_done"):
            times.append((time.monotonic(), event.kind, owners[event.data["key"]]))

    report = run_batch(
        [root / "in"], root / "out", settings, options, hear, engine=make(settings, options, WaitingWorker)
    )
    assert report.done == videos, report
    began = ready[-1]  # all workers are there
    end, cpu = times[-1][0], time.process_time() - began[1]
    waits = sum(float(p.read_text()) for p in (root / "in").iterdir())
    gaps, last = [], {}
    for when, kind, worker in times:
        if kind == "video_done":
            last[worker] = when
        elif worker in last:
            gaps.append(when - last.pop(worker))
    wall = end - times[0][0]
    print(
        f"{workers:7} {videos:7} {videos / wall:9.2f} {waits / workers / wall:9.1%} "
        f"{sum(gaps) / max(len(gaps), 1) * 1000:24.1f} ms {cpu / videos * 1000:20.1f} ms"
    )


if __name__ == "__main__":
    main()
