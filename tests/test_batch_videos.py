"""A folder of more than forty videos, many of them broken, through real workers with the tiny model."""

from __future__ import annotations

import ctypes
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import media
import pytest
from goldens import FOLDER

from dvis_cli.batch.work import Worker
from dvis_cli.errors import UsageError
from dvis_cli.run.options import SegmentOptions
from dvis_cli.writers.folder import safe_name

SCRIPT = Path(__file__).with_name("batch_workers.py")


def good_videos(folder: Path) -> set[str]:
    """Different containers, names and sizes; returns the places of their results."""
    places = set()
    for i in range(12):  # the same names in different folders
        path = folder / f"day {i % 4}" / f"clip{i // 4}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        media.write_video(path, media.moving_squares(2 + i % 2, 32, 40 + 2 * (i % 3)), fps=10)
        places.add(f"{path.parent.name}/{path.stem}")
    names = [
        "-rf.mp4", "--help.mp4", "with space .mkv", "ünï ©ødé 漢字.webm", "emoji 🎬.mov", "quote's \"x\".avi",
        "percent%d [1] *.mp4", "dots...in.name.mp4", "upper.MP4", "  .mp4", "e.gif",
        "l" * 200 + ".mp4", "a&b: c\\d.mp4",
        "comma, semi; $(x).ts", "line\nfeed.mp4", os.fsdecode(b"latin-1 \xe9.mp4"),
    ]  # fmt: skip
    for i, name in enumerate(names):
        made = media.write_video(
            folder / f"tmp{i}{Path(name).suffix.lower()}", media.moving_squares(2, 32, 40), fps=10
        )
        made.rename(folder / name)
        places.add(safe_name(Path(name).stem))
    media.write_video(folder / "one frame.mp4", media.moving_squares(1, 32, 40))
    media.write_image_folder(folder / "images", media.moving_squares(2, 32, 40))
    media.write_video(folder / "twin.mp4", media.moving_squares(2, 32, 40), fps=10)
    media.write_video(folder / "twin.mkv", media.moving_squares(3, 32, 40), fps=10)
    media.write_video(folder / "odd.mkv", media.moving_squares(2, 33, 47), fps=10)
    cut = media.write_video(folder / "cut but readable.mkv", media.moving_squares(40, 32, 40), fps=10)
    media.truncate(cut, 0.6)
    (folder / "linked.mp4").symlink_to("one frame.mp4")
    (folder / "day 0" / "up").symlink_to(folder)
    (folder / "day 1" / "self").symlink_to("self")
    return places | {
        "one frame", "images", "twin.mp4", "twin.mkv", "odd", "cut but readable", "linked"
    }  # fmt: skip


def bad_videos(folder: Path) -> dict[str, str]:
    """Broken in every way; returns a word of the reason for each place."""
    bad = folder / "broken"
    bad.mkdir()
    whole = media.write_video(bad / "truncated.mp4", media.moving_squares(9, 32, 40), fps=10)
    media.truncate(whole, 0.5)
    (bad / "zero.mp4").write_bytes(b"")
    (bad / "text.mp4").write_text("I am a letter\n" * 30)
    (bad / "list.mp4").write_text("ffconcat version 1.0\nfile '../one frame.mp4'\n")
    (bad / "noise.avi").write_bytes(bytes(range(256)) * 40)
    (bad / "zeros.mkv").write_bytes(bytes(5000))
    media.write_audio(bad / "sound.m4a").rename(bad / "sound.mp4")
    huge_header(bad / "huge.mp4")
    (bad / "dangling.mp4").symlink_to("nowhere.mp4")
    (bad / "circle.mp4").symlink_to("circle.mp4")
    os.mkfifo(bad / "pipe.mp4")
    forbidden = media.write_video(bad / "forbidden.mp4", media.moving_squares(2, 32, 40), fps=10)
    forbidden.chmod(0)
    images = media.write_image_folder(bad / "mixed", media.moving_squares(2, 32, 40))
    media.write_image_folder(images, media.moving_squares(1, 48, 40), name="x{}")
    return {
        "broken/truncated": "incomplete mp4",
        "broken/zero": "empty",
        "broken/text": "not a video",
        "broken/list": "cannot be opened|not a video",
        "broken/noise": "video",
        "broken/zeros": "video",
        "broken/sound": "sound|no video|picture",
        "broken/huge": "67 megapixels",
        "broken/dangling": "no such file",
        "broken/circle": "Too many levels",
        "broken/pipe": "pipe",
        "broken/forbidden": "permission|Permission",
        "broken/mixed": "mixes sizes",
    }


def huge_header(path: Path) -> None:
    """A GIF that claims to be 60000 x 60000 and holds one pixel."""
    pixel = b"\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\x00\x02\x02\x44\x01\x00\x3b"
    head = b"GIF89a" + struct.pack("<HH", 60000, 60000) + b"\x80\0\0\0\0\0\xff\xff\xff"
    path.write_bytes(head + pixel)


def obey_permissions() -> None:
    """In a child before it starts: give up root's right to read what is forbidden, for it and its children."""
    for right in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, right, 0, 0, 0)  # PR_CAPBSET_DROP


def run(out: Path, source: Path, **options: Any) -> tuple[int, list[dict[str, Any]], str]:
    chosen = {
        "paper": False,
        "jobs": 1,
        "segment": {"model": "tiny", "threads": 1, "short_side": 32},
        **options,
    }
    command = [sys.executable, str(SCRIPT), str(out), json.dumps(chosen), str(source)]
    environment = {
        **os.environ, "PYTHONPATH": str(SCRIPT.parent.parent), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"
    }  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False,
        preexec_fn=obey_permissions if os.geteuid() == 0 else None,
    )  # fmt: skip
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_a_folder_with_a_bad_day(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    good, bad = good_videos(source), bad_videos(source)
    assert len(good) + len(bad) >= 40
    code, events, _ = run(tmp_path / "out", source)
    report = events[-1]
    failed = {one["key"]: one["error"] for one in report["failed"]}
    assert {e["key"] for e in events if e["event"] == "video_done"} == good, failed
    assert set(failed) == set(bad)
    for key, word in bad.items():
        assert re.search(word, failed[key]), failed[key]
        assert "\n" not in failed[key] and "unexpected" not in failed[key]
    assert code == 1 and (report["done"], report["left"], report["stopped"]) == (len(good), 0, None)
    assert any(e["event"] == "warning" and e["key"] == "cut but readable" for e in events)
    assert report["warnings"] == sum(e["event"] == "warning" for e in events)
    for key in good:
        assert (tmp_path / "out" / key / "segments.json").is_file()
    assert not list((tmp_path / "out").rglob(".*")) and not (tmp_path / "out" / "broken").exists()
    code, events, _ = run(tmp_path / "out", source)
    assert code == 1 and events[-1]["skipped"] == len(good) and len(events[-1]["failed"]) == len(bad)


def test_a_worker_loads_the_model_as_for_one_video() -> None:
    weights = str(FOLDER / "r50" / "weights_offline.safetensors")
    with pytest.raises(UsageError, match="--classes-of ovis: that list has 25 classes"):
        Worker(0, SegmentOptions(model=weights, classes_of="ovis"))


def test_what_a_model_warns_of_comes_with_the_worker() -> None:
    (warned,) = Worker(0, SegmentOptions(model="tiny", device="cpu", compile="auto")).ready.warnings
    assert warned.startswith("--compile auto: the network is not compiled")
