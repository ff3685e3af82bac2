"""`dvis segment` of one film, whatever it and its options are called."""

from __future__ import annotations

import json
import os
from pathlib import Path

import media
import pytest


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return media.write_video(path, media.moving_squares(3, 64, 96), fps=10)


def test_addresses_of_files_are_files(dvis, tmp_path: Path, clip: Path) -> None:
    out = tmp_path / "out"
    options = ("--model", "tiny", "--short-side", 32, "--max-frames", 2)
    code, _, err = dvis("segment", f"file://{clip}", "-o", f"file://{out}", *options)
    assert code == 0 and (out / clip.stem / "segments.json").is_file(), err


@pytest.mark.parametrize(
    "name",
    [
        os.fsdecode(b"caf\xe9"),
        "2024-05-01T12:30:45",
        "Screen 1.02\u202fPM",
        "a\\b",
        "\u0645\u06cc\u200c\u062e",
    ],
)
def test_names_of_all_kinds(dvis, tmp_path: Path, clip: Path, name: str) -> None:
    film = tmp_path / f"{name}.mp4"
    film.symlink_to(clip)
    code, out, err = dvis(
        "segment", film, "-o", tmp_path / "out", "--model", "tiny", "--short-side", 32, "--max-frames", 2,
        "--report", "--format", "coco", "--json",
    )  # fmt: skip
    assert code == 0, err
    folder = next((tmp_path / "out").iterdir())
    assert json.loads(out.encode())["frames"] == 2 and not [
        line for line in err.splitlines() if "left out" in line
    ]
    assert (folder / "exports" / "coco").is_dir() and (folder / "report.html").is_file()
    assert json.loads((folder / "segments.json").read_bytes())["source"]["name"].encode()


def test_a_wrong_choice_is_one_plain_line(dvis) -> None:
    code, out, err = dvis("segment", "x.mp4", "--overlay", "fancy")
    assert code == 2 and not out
    assert (
        err.strip()
        .splitlines()[-1]
        .startswith("error: Invalid value for '--overlay': 'fancy' is not one of ")
    )
