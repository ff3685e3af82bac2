"""What a worker is given to work with: a GPU of its own, its share of the cores; and what it sees of Ray's."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_workers import PaperWorker

from dvis_cli.batch import BatchOptions, Event, VideoSettings, local, run_batch
from dvis_cli.batch.engine import Ready
from dvis_cli.batch.local import LocalEngine


class TellingWorker(PaperWorker):
    """Says, as the name of its model, what it was given."""

    def __init__(self, number: int, settings: VideoSettings, threads: int | None, device: str | None) -> None:
        super().__init__(number, settings, threads, device)
        budget = settings.save.get("memory_budget")
        facts = f"{device}, {threads} threads" + (f", {budget} bytes" if budget is not None else "")
        self.ready = Ready(number, 0.0, facts, False)


def given(root: Path, device: str = "auto", **chosen: int) -> list[str]:
    """What each worker of a run says."""
    root.mkdir(exist_ok=True)
    for i in range(8):
        (root / f"{i}.mp4").write_text("slow 0.1")
    settings, options = VideoSettings(load={"device": device}), BatchOptions(**chosen)  # type: ignore[arg-type]
    events: list[Event] = []
    engine = LocalEngine(settings, options, TellingWorker)
    assert run_batch([root], root / "out", settings, options, events.append, engine=engine).done == 8
    return sorted(e.data["model"] for e in events if e.kind == "worker")


def test_one_process_a_gpu_and_what_there_is_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "count_gpus", lambda: 2)
    monkeypatch.setattr(local, "cores", lambda: 16)
    monkeypatch.setattr(local, "memory", lambda: 800)
    assert given(tmp_path) == ["cuda:0, 8 threads, 100 bytes", "cuda:1, 8 threads, 100 bytes"]


def test_more_workers_than_gpus_share_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "count_gpus", lambda: 2)
    monkeypatch.setattr(local, "cores", lambda: 2)
    monkeypatch.setattr(local, "memory", lambda: 0)
    assert given(tmp_path, jobs=3) == ["cuda:0, 1 threads", "cuda:0, 1 threads", "cuda:1, 1 threads"]


def test_on_a_cpu_threads_are_divided_or_as_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "count_gpus", lambda: 2)
    monkeypatch.setattr(local, "cores", lambda: 6)
    assert given(tmp_path / "divided", "cpu", jobs=2) == ["None, 3 threads"] * 2
    assert given(tmp_path / "said", "cpu", jobs=2, threads=5) == ["None, 5 threads"] * 2
