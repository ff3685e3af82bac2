"""What a worker is given to work with: a GPU of its own, its share of the cores; and what it sees of Ray's."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch_workers import PaperWorker

from dvis_cli.batch import BatchOptions, Event, run_batch, workers
from dvis_cli.batch.work import Message, Outcome, Ready, Task, WorkerDiedError
from dvis_cli.batch.workers import LocalEngine
from dvis_cli.run.options import SegmentOptions


class TellingWorker(PaperWorker):
    """Says, as the name of its model, what it was given."""

    def __init__(self, number: int, options: SegmentOptions) -> None:
        super().__init__(number, options)
        budget = options.memory_budget
        facts = f"{options.device}, {options.threads} threads" + (
            f", {budget} bytes" if budget is not None else ""
        )
        self.ready = Ready(0.0, facts, False)


class ScriptedWorker:
    """A worker in name only: how each try ends is told by a function of (worker, key)."""

    def __init__(self, number: int, verdict: Callable[[int, str], str]) -> None:
        self._number, self._verdict = number, verdict
        self._said: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._said.put(Ready(0.0))

    def send(self, task: Task) -> None:
        verdict: Any = self._verdict(self._number, task.video.key)
        self._said.put(Outcome(verdict, error="no"))

    def receive(self) -> Message:
        message = self._said.get()
        if message is None:
            raise WorkerDiedError("ended")
        return message

    def kill(self) -> None:
        self._said.put(None)


class ScriptedEngine:
    """Two of them, which begin their first video at the same time."""

    workers = 2

    def __init__(self, verdict: Callable[[int, str], str]) -> None:
        self._verdict = verdict

    def connect(self) -> int:
        return self.workers

    def start(self, number: int) -> ScriptedWorker:
        return ScriptedWorker(number, self._verdict)

    def close(self) -> None:
        pass


def test_the_last_video_goes_to_the_worker_whose_device_works(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_text("ok")
    tried: list[tuple[int, str]] = []
    both = threading.Barrier(2)

    def verdict(worker: int, key: str) -> str:
        tried.append((worker, key))
        if len(tried) <= 2:
            both.wait(10)
        return "device" if (worker, key) in tried[:2] and key == "a" else "done"

    engine: Any = ScriptedEngine(verdict)
    report = run_batch([tmp_path], tmp_path / "out", options=BatchOptions(max_tries=1), engine=engine)
    assert (report.done, report.failed) == (2, [])
    assert sorted(key for _, key in tried) == ["a", "a", "b"]
    assert {worker for worker, key in tried if key == "a"} == {0, 1}


def given(root: Path, device: str = "auto", threads: int | None = None, **chosen: int) -> list[str]:
    """What each worker of a run says."""
    root.mkdir(exist_ok=True)
    for i in range(8):
        (root / f"{i}.mp4").write_text(f"wait {root / 'go'}")
    segment, options = SegmentOptions(device=device, threads=threads), BatchOptions(**chosen)  # type: ignore[arg-type]
    engine = LocalEngine(segment, options, TellingWorker)
    said: list[str] = []

    def hear(event: Event) -> None:
        if event.kind == "worker":
            said.append(event.data["model"])
            if len(said) == engine.workers:
                (root / "go").touch()

    assert run_batch([root], root / "out", segment, options, hear, engine=engine).done == 8
    return sorted(said)


def test_one_process_a_gpu_and_what_there_is_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "count_gpus", lambda: 2)
    monkeypatch.setattr(workers, "usable_cores", lambda: 16)
    monkeypatch.setattr(workers, "memory_limit", lambda: 800)
    assert given(tmp_path) == ["cuda:0, 8 threads, 100 bytes", "cuda:1, 8 threads, 100 bytes"]


def test_more_workers_than_gpus_share_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "count_gpus", lambda: 2)
    monkeypatch.setattr(workers, "usable_cores", lambda: 2)
    monkeypatch.setattr(workers, "memory_limit", lambda: 1200)
    assert given(tmp_path, jobs=3) == [
        "cuda:0, 1 threads, 100 bytes", "cuda:0, 1 threads, 100 bytes", "cuda:1, 1 threads, 100 bytes"
    ]  # fmt: skip


def test_on_a_cpu_threads_are_divided_or_as_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "count_gpus", lambda: 2)
    monkeypatch.setattr(workers, "usable_cores", lambda: 6)
    assert given(tmp_path / "divided", "cpu", jobs=2) == ["cpu, 3 threads"] * 2
    assert given(tmp_path / "said", "cpu", jobs=2, threads=5) == ["cpu, 5 threads"] * 2


def test_a_named_device_is_shared_with_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: 4)
    monkeypatch.setattr(workers, "memory_limit", lambda: 800)
    assert given(tmp_path, "cuda:1", jobs=2) == ["cuda:1, 2 threads, 100 bytes"] * 2


def test_the_probe_tells_a_device_that_works_from_one_that_does_not() -> None:
    import torch

    worker = PaperWorker(0, SegmentOptions())
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert worker.device_failure(error) is None, "a CPU has none"
    worker._model.device = torch.device("meta")  # on which nothing has a value
    assert "illegal memory access" in str(worker.device_failure(error))
