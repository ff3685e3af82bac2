"""The index page of a batch: every result is on it, whatever stops or runs beside it, and no name can do anything."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from batch_workers import FRAMES, PaperWorker

from dvis_cli.batch import BatchOptions, BatchReport, Event, parse_shard, run_batch
from dvis_cli.batch.workers import LocalEngine
from dvis_cli.run.options import SegmentOptions

NAMES = (
    "a.mp4",
    "sub/b #1.mp4",
    "<script>alert(1)<!-- &amp;.mp4",
    "$TITLE ü.mp4",
    os.fsdecode(b"caf\xe9.mp4"),
)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("ok\n")
    return tmp_path / "in"


def batch(videos: Path, report: bool = True, events: list[Event] | None = None, **chosen: Any) -> BatchReport:
    how, options = SegmentOptions(report=report), BatchOptions(**{"jobs": 1, **chosen})
    hear = [].append if events is None else events.append
    engine = LocalEngine(how, options, PaperWorker)
    return run_batch([videos], videos.parent / "out", how, options, hear, engine=engine)


def listed(videos: Path) -> list[str]:
    page = (videos.parent / "out" / "index.html").read_text()
    return [
        unquote(link, errors="surrogateescape")
        for link in re.findall(r'<a href="([^"]*)/report.html">', page)
    ]


KEYS = sorted(name.removesuffix(".mp4") for name in NAMES)


def test_every_result_is_listed_and_names_are_text(videos: Path) -> None:
    assert batch(videos).done == len(NAMES)
    page = (videos.parent / "out" / "index.html").read_text()
    assert listed(videos) == KEYS and page.count(f"{FRAMES} frames, 0 segments") == len(NAMES)
    assert page.count("<script>") == 1 and "alert(1)<!" not in page
    assert f"{len(NAMES)} videos, {FRAMES * len(NAMES)} frames" in page


def test_there_is_none_without_reports(videos: Path) -> None:
    batch(videos, report=False)
    assert not (videos.parent / "out" / "index.html").exists()


def test_a_later_run_and_other_shards_add_to_it(videos: Path) -> None:
    batch(videos, shard=parse_shard("1/2"))
    half = listed(videos)
    assert 0 < len(half) < len(NAMES)
    batch(videos, shard=parse_shard("2/2"))
    assert listed(videos) == KEYS
    (videos.parent / "out" / "index.html").unlink()
    assert (
        batch(videos).skipped == len(NAMES) and listed(videos) == KEYS
    )  # of a run that was killed before it wrote


def test_failures_are_on_it_until_they_succeed(videos: Path) -> None:
    (videos / "a.mp4").write_text("fail\n")
    batch(videos)
    page = (videos.parent / "out" / "index.html").read_text()
    assert "<li><b>a</b>" in page and "1 failed" in page and "a" not in listed(videos)
    (videos / "a.mp4").write_text("ok\n")
    batch(videos)
    page = (videos.parent / "out" / "index.html").read_text()
    assert listed(videos) == KEYS and "<li><b>" not in page and "1 failed" not in page


def test_a_page_of_somebody_else_stays(videos: Path) -> None:
    (videos.parent / "out").mkdir()
    (videos.parent / "out" / "index.html").write_text("mine")
    events: list[Event] = []
    assert batch(videos, events=events).exit_code == 0
    assert (videos.parent / "out" / "index.html").read_text() == "mine"
    assert any("none of ours" in event.data.get("text", "") for event in events)


def test_a_damaged_index_is_made_anew(videos: Path) -> None:
    batch(videos)
    path = videos.parent / "out" / "index.html"
    path.write_text(
        re.sub(r'id="data">.*?<', 'id="data">{"x": 1, "y": {"frames": "z"}, "a": [] }<', path.read_text())
    )
    batch(videos)
    assert listed(videos) == KEYS
