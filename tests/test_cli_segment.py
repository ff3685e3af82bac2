"""`dvis segment` as a user runs it: frames in, PNG, JSON and overlay out; parity; bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import cv2
import media
import numpy as np
import pytest
import torch
from goldens import FOLDER, NETWORKS, Golden
from writers_media import read_panoptic_png

from dvis_cli.batch.options import settings_hash
from dvis_cli.run.model import DvisModel
from dvis_cli.run.options import SegmentOptions
from dvis_cli.structures import SegmenterOutput

ALLOWED_PIXELS = 5


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short real mp4."""
    path = tmp_path_factory.mktemp("clip") / "a clip ünd more.mp4"
    media.write_video(path, media.moving_squares(7, 64, 96), fps=10)
    return path


def one_error_line(err: str) -> str:
    lines = [line for line in err.splitlines() if not line.startswith("warning: model 'tiny'")]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    return lines[0]


# --- parity through the public path -----------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_recorded_results(dvis, tmp_path: Path, network: str, mode: str) -> None:
    golden = Golden.load(network)
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, rgb in enumerate(golden.frames):
        cv2.imwrite(str(folder / f"{i}.png"), rgb[..., ::-1])
    weights, config = golden.folder / "weights_offline.safetensors", golden.folder / f"config_{mode}.yaml"
    code, _, err = dvis(
        "segment", folder, "-o", tmp_path, "--model", weights, "--config", config, "--short-side", 90,
        "--overwrite",
    )  # fmt: skip
    assert code == 1, "the frames themselves must never be overwritten"
    code, _, err = dvis(
        "segment", folder, "-o", tmp_path / "out", "--model", weights, "--config", config, "--short-side", 90
    )
    assert code == 0, err
    result = tmp_path / "out" / "frames"
    document = json.loads((result / "segments.json").read_text())
    contiguous = {category.id: i for i, category in enumerate(golden.model.categories)}
    ours = [
        {"id": s["id"], "isthing": s["isthing"], "category_id": contiguous[s["category_id"]]}
        for s in document["segments"]
    ]
    assert ours == golden.facts[f"{mode}.vps"]["segments_infos"]
    assert document["mode"] == mode
    maps = np.stack([read_panoptic_png(path) for path in sorted((result / "panoptic").iterdir())])
    assert (maps != golden.final[f"{mode}.vps.pan"]).sum() <= ALLOWED_PIXELS
    for segment in document["segments"]:
        assert segment["area"] == (maps == segment["id"]).sum()


@pytest.mark.parametrize("network", NETWORKS)
def test_recorded_networks_read_video_files(dvis, tmp_path: Path, clip: Path, network: str) -> None:
    folder = FOLDER / network
    code, out, err = dvis(
        "segment", clip, "-o", tmp_path, "--model", folder / "weights_offline.safetensors", "--config",
        folder / "config_minvis.yaml", "--short-side", 96, "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["frames"] == 7


# --- what is written --------------------------------------------------------------------------------------


def test_outputs_of_a_clip(dvis, tmp_path: Path, clip: Path) -> None:
    code, out, err = dvis("segment", clip, "-o", tmp_path, "--short-side", 96)
    assert code == 0 and out == "", "stdout is for results that were asked for"
    assert "untrained" in err and "7 frames" in err
    folder = tmp_path / clip.stem
    assert sorted(p.name for p in folder.iterdir()) == ["overlay.mp4", "panoptic", "segments.json"]
    assert [p.name for p in sorted((folder / "panoptic").iterdir())] == [f"{i:06d}.png" for i in range(7)]
    document = json.loads((folder / "segments.json").read_text())
    assert document["source"]["width"] == 96 and document["source"]["frames"] == 7
    assert document["model"] == {"name": "tiny", "weights": None, "trained": False, "precision": "fp32"}
    ids = {s["id"] for s in document["segments"]}
    in_maps = set()
    for path in (folder / "panoptic").iterdir():
        in_maps |= set(np.unique(read_panoptic_png(path)).tolist())
    assert in_maps - {0} == ids
    with av.open(str(folder / "overlay.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [round(float(f.pts * f.time_base), 3) for f in frames] == [i / 10 for i in range(7)]


def test_each_output_can_be_turned_off(dvis, tmp_path: Path, clip: Path) -> None:
    wanted = {
        "overlay.mp4": ["--no-panoptic", "--no-segments"],
        "panoptic": ["--no-segments", "--overlay", "none"],
        "segments.json": ["--no-panoptic", "--overlay", "none"],
    }
    for name, options in wanted.items():
        out = tmp_path / name
        assert dvis("segment", clip, "-o", out, "--short-side", 64, "-q", *options)[0] == 0
        assert [p.name for p in (out / clip.stem).iterdir()] == [name]
    code, _, err = dvis(
        "segment", clip, "-o", tmp_path, "--no-panoptic", "--no-segments", "--overlay", "none"
    )
    assert code == 2 and "nothing to write" in one_error_line(err)


def test_selection_and_styles(dvis, tmp_path: Path, clip: Path) -> None:
    code, out, err = dvis(
        "segment", clip, "-o", tmp_path, "--short-side", 64, "--start", "0.1", "--end", "0:00.6", "--stride", 2,
        "--max-frames", 2, "--overlay", "side-by-side", "--json", "--quiet",
    )  # fmt: skip
    assert code == 0 and err == ""
    assert json.loads(out)["frames"] == 2
    with av.open(str(tmp_path / clip.stem / "overlay.mp4")) as container:
        assert container.streams.video[0].width == 2 * 96


def test_several_sources_are_a_batch(dvis, tmp_path: Path, clip: Path) -> None:
    """One that fails does not stop the others; the same command skips what is done."""
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    command = ["segment", bad, clip, "-o", tmp_path / "out", "--short-side", 64, "--jobs", 1, "--json"]
    code, out, _ = dvis(*command)
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and events[-1]["event"] == "finished"
    assert events[-1]["done"] == 1 and "bad.mp4" in events[-1]["failed"][0]["source"]
    assert (tmp_path / "out" / clip.stem / "segments.json").exists()
    bad.unlink()
    code, out, _ = dvis("segment", clip, tmp_path / "out" / "..", *command[3:])
    assert code == 0 and json.loads(out.splitlines()[-1])["skipped"] == 1


def test_a_folder_of_videos_is_a_batch(dvis, tmp_path: Path, clip: Path) -> None:
    for name in ("in/a/x.mp4", "in/b/x.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(clip.read_bytes())
    options = ["--short-side", 64, "--overlay", "none", "-q"]
    assert dvis("segment", tmp_path / "in", "-o", tmp_path / "out", *options)[0] == 0
    single = tmp_path / "single"
    assert dvis("segment", tmp_path / "in/b/x.mp4", "-o", single, *options)[0] == 0
    one, other = tmp_path / "out/b/x/panoptic", single / "x/panoptic"
    assert [p.read_bytes() for p in sorted(one.iterdir())] == [
        p.read_bytes() for p in sorted(other.iterdir())
    ]
    code, _, err = dvis("segment", clip, "-o", tmp_path / "out", "--jobs", 2)
    assert code == 2 and "is one video" in one_error_line(err)


def test_several_scales(dvis, tmp_path: Path, clip: Path) -> None:
    """Any order of the list, with and without mirroring; one video, and as a batch."""
    base = ["segment", clip, "--max-frames", 3, "--overlay", "none", "-q"]
    maps = {}
    for name, options in {
        "one": ["--short-side", 64],
        "two": ["--scales", "64,96"],
        "turned": ["--scales", "96,64"],
        "flip": ["--short-side", 64, "--flip"],
    }.items():
        assert dvis(*base, "-o", tmp_path / name, *options)[0] == 0
        folder = tmp_path / name / clip.stem
        maps[name] = [p.read_bytes() for p in sorted((folder / "panoptic").iterdir())]
        document = json.loads((folder / "segments.json").read_text())
        assert document["scales"] == ([64, 96] if name in ("two", "turned") else [64])
        assert document["flip"] == (name == "flip")
    assert maps["two"] == maps["turned"] != maps["one"]
    batch = ["segment", clip.parent, *base[2:-1], "--json", "-o", tmp_path / "batch"]
    code, out, _ = dvis(*batch, "--scales", "64,96")
    assert code == 0 and json.loads(out.splitlines()[-1])["done"] == 1
    folder = tmp_path / "batch" / clip.stem / "panoptic"
    assert [p.read_bytes() for p in sorted(folder.iterdir())] == maps["two"]
    settings = [settings_hash(SegmentOptions(scales=scales)) for scales in ((64, 96), (64, 80))]
    assert settings[0] != settings[1], "or a batch would mix them"


def test_scales_that_the_limit_makes_equal_run_once(dvis, tmp_path: Path, clip: Path) -> None:
    options = ["-o", tmp_path, "--max-frames", 1, "--overlay", "none", "--overwrite"]
    code, _, err = dvis("segment", clip, "--scales", "900,1000", *options)
    assert code == 0 and "equal ones run once" in err


def test_results_do_not_depend_on_window_budget_or_threads(dvis, tmp_path: Path, clip: Path) -> None:
    """Streaming details never show: the same maps, byte for byte."""
    seen = set()
    for i, options in enumerate([[], ["--memory-budget", "0"], ["--memory-budget", "1GB", "--window", 8]]):
        out = tmp_path / str(i)
        assert (
            dvis("segment", clip, "-o", out, "--short-side", 64, "-q", "--overlay", "none", *options)[0] == 0
        )
        files = sorted((out / clip.stem / "panoptic").iterdir())
        seen.add(b"".join(p.read_bytes() for p in files))
    assert len(seen) == 1


# --- existing output --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["tiny", "tiny-videomt"])
def test_out_of_memory_halves_the_batch(
    dvis, tmp_path: Path, clip: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network whose memory reaches for two frames at once. VidEoMT remembers what it saw."""
    monkeypatch.setenv("DVIS_MODEL", model)
    assert dvis("segment", clip, "-o", tmp_path / "one", "--batch", 2)[0] == 0
    tried, segment = [], DvisModel.segment

    def small(
        network: DvisModel, frames: torch.Tensor, memory: torch.Tensor | None = None
    ) -> SegmenterOutput:
        tried.append(len(frames))
        if len(frames) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return segment(network, frames, memory)

    monkeypatch.setattr(DvisModel, "segment", small)
    limit = 2
    code, out, err = dvis("segment", clip, "-o", tmp_path / "two", "--batch", 4, "--json")
    assert code == 0 and tried == [4, 2, 2, 2, 1], err
    (warned,) = [line for line in json.loads(out)["warnings"] if "memory" in line]
    assert warned in err and "--batch" in warned
    one, two = (sorted((tmp_path / name).rglob("*.*")) for name in ("one", "two"))
    assert len(one) == 7 + 2
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    limit = 0
    code, _, err = dvis("segment", clip, "-o", tmp_path / "three", "--batch", 4)
    assert code == 1 and "error: out of memory: lower --batch" in err and not (tmp_path / "three").exists()


def test_existing_output(dvis, tmp_path: Path, clip: Path) -> None:
    base = ["segment", clip, "-o", tmp_path, "--short-side", 64, "-q", "--overlay", "none"]
    assert dvis(*base)[0] == 0
    first = (tmp_path / clip.stem / "segments.json").read_bytes()
    code, _, err = dvis(*base, "--max-frames", 2)
    assert code == 1 and "--overwrite" in one_error_line(err)
    assert (tmp_path / clip.stem / "segments.json").read_bytes() == first
    assert dvis(*base, "--max-frames", 2, "--overwrite")[0] == 0
    assert len(list((tmp_path / clip.stem / "panoptic").iterdir())) == 2
    assert [p.name for p in tmp_path.iterdir()] == [clip.stem]


# --- bad input --------------------------------------------------------------------------------------------


def bad_sources(folder: Path) -> dict[str, tuple[Path, str]]:
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("I am no video")
    (folder / "void").mkdir()
    mixed = folder / "mixed"
    mixed.mkdir()
    cv2.imwrite(str(mixed / "1.png"), np.zeros((8, 8, 3), np.uint8))
    cv2.imwrite(str(mixed / "2.png"), np.zeros((8, 9, 3), np.uint8))
    media.write_audio(folder / "sound.m4a")
    return {
        "missing": (folder / "missing.mp4", "missing.mp4"),
        "empty": (folder / "empty.mp4", "empty"),
        "text": (folder / "text.mp4", "text.mp4"),
        "void": (folder / "void", "image"),
        "mixed": (mixed, "size|x"),
        "sound": (folder / "sound.m4a", "video"),
    }


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "void", "mixed", "sound"])
def test_bad_sources(dvis, tmp_path: Path, kind: str) -> None:
    source, word = bad_sources(tmp_path)[kind]
    code, out, err = dvis("segment", source, "-o", tmp_path / "out")
    assert code in (1, 2) and out == ""
    assert re.search(word, one_error_line(err))
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "options, word",
    [
        (["--model", "nonsense"], "known models"),
        (["--model", "offline-r50"], "no weights on this machine"),
        (["--config", "none.yaml"], "does not exist"),
        (["--device", "gpu"], "choose auto, cpu"),
        (["--memory-budget", "lots"], "500MB"),
        (["--start", "soon"], "expected seconds"),
        (["--start", "5", "--end", "2"], "end"),
        (["--window", "0"], "window"),
        (["--window", "400", "--horizon", "10"], "horizon"),
        (["--mode", "magic"], "magic"),
        (["--no-such-option"], "no-such-option"),
        (["--score-threshold", "3"], "3"),
        (["--scales", "720,800px"], "separated by commas"),
        (["--scales", "720,0"], "1 pixel"),
        (["--scales", "64,64"], "twice"),
        (["--scales", "64,96", "--short-side", "64"], "choose one"),
        (["--scales", "64,96", "--tta"], "choose one"),
        (["-o", "-"], "-o - is for live sources"),
        (["-o", ""], "is empty"),
        ([""], "is empty"),
    ],
)
def test_bad_options_are_usage_errors(
    dvis, tmp_path: Path, clip: Path, options: list[str], word: str
) -> None:
    code, _, err = dvis("segment", clip, "-o", tmp_path, *options)
    assert code == 2, err
    assert word in one_error_line(err)
    assert not any(tmp_path.iterdir())


def test_unwritable_output(dvis, tmp_path: Path, clip: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = dvis("segment", clip, "-o", tmp_path / "file")
    assert code == 1 and "file" in one_error_line(err)


def test_truncated_video_keeps_what_decodes(dvis, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.mkv", tmp_path / "cut.mkv"
    media.write_video(whole, media.moving_squares(40, 64, 96), fps=10)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    code, _, err = dvis("segment", cut, "-o", tmp_path / "out", "--short-side", 64)
    assert code == 0, err
    frames = len(list((tmp_path / "out" / "cut" / "panoptic").iterdir()))
    assert 0 < frames < 40
    assert f"{frames} frames" in err


@pytest.mark.parametrize("height, width", [(1, 1), (1, 200), (33, 47), (200, 3)])
def test_odd_sizes(dvis, tmp_path: Path, height: int, width: int) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for i in range(2):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((height, width, 3), 40 * i, np.uint8))
    code, _, err = dvis("segment", folder, "-o", tmp_path / "out", "--short-side", 32)
    assert code == 0, err
    png = read_panoptic_png(tmp_path / "out" / "odd" / "panoptic" / "000001.png")
    assert png.shape == (height, width)


def test_malicious_checkpoint(dvis, tmp_path: Path, clip: Path) -> None:
    (tmp_path / "bad.pkl").write_bytes(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")
    code, _, err = dvis("segment", clip, "-o", tmp_path / "out", "--model", tmp_path / "bad.pkl")
    assert code == 1 and "would execute code" in one_error_line(err)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dvis_cli"]
    environment = {k: v for k, v in os.environ.items() if k != "DVIS_DEBUG"}
    for extra, there in (([], False), (["--debug"], True)):
        done = subprocess.run(
            [*command, *extra, "dataset", "info", str(tmp_path / "none")],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) == there


# --- the other commands -----------------------------------------------------------------------------------


def test_models(dvis) -> None:
    code, out, _ = dvis("models", "--json")
    listed = {m["name"]: m for m in json.loads(out)}
    assert code == 0 and {"dvis-lite", "offline-r50", "videomt-vitl-vipseg", "tiny"} <= set(listed)
    assert listed["tiny"]["ready"] and not listed["offline-swinl"]["ready"]
    table = dvis("models")[1]
    assert all(name in table for name in listed) and "bundled" in table


def test_weights_random_and_info(dvis, tmp_path: Path, clip: Path) -> None:
    file = tmp_path / "noise.safetensors"
    assert dvis("weights", "random", "tiny", "-o", file)[0] == 0
    code, _, err = dvis("weights", "random", "tiny", "-o", file)
    assert code == 1 and "--overwrite" in one_error_line(err)
    code, out, _ = dvis("weights", "info", file, "--json")
    assert code == 0 and json.loads(out)["mode"] == "offline" and json.loads(out)["config_inside"]
    code, _, err = dvis("segment", clip, "-o", tmp_path / "out", "--model", file, "--overlay", "none")
    assert code == 0 and "untrained" not in err


def test_version(dvis) -> None:
    code, out, _ = dvis("--version")
    assert code == 0 and out.startswith("dvis 0.")
