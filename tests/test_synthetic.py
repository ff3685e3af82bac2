"""Synthetic scenes: the same bytes from the same settings, a sound VIPSeg layout, and scenes that are hard."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import small_vipseg
from PIL import Image

from dvis_cli.datasets.description import describe_split
from dvis_cli.datasets.synthetic import classes
from dvis_cli.datasets.synthetic.camera import view
from dvis_cli.datasets.synthetic.plan import Scene, plan_scene
from dvis_cli.datasets.synthetic.rendering import PaintedFrame, paint_video
from dvis_cli.datasets.synthetic.settings import Settings
from dvis_cli.datasets.synthetic.writing import write_dataset
from dvis_cli.datasets.vipseg import VIPSeg
from dvis_cli.errors import OutputError, UsageError

SMALL = Settings(64, 112, frames=10, seed=3)
WHOLE = Settings(96, 168, frames=24, seed=11)


def digests(folder: Path) -> dict[str, str]:
    """Every visible file and what is in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def ids_of(frame: PaintedFrame) -> np.ndarray:
    red, green, blue = np.moveaxis(frame.ids.astype(np.int64), -1, 0)
    return red + 256 * green + 65536 * blue


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth")
    assert write_dataset(out, SMALL, 3) == 0
    return out


@pytest.fixture(scope="module")
def painted() -> list[tuple[Scene, list[PaintedFrame]]]:
    scenes = [plan_scene(WHOLE, index) for index in range(12)]
    return [(scene, list(paint_video(scene))) for scene in scenes]


def test_workers_do_not_change_a_byte(written: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, SMALL, 3, workers=2)
    assert digests(tmp_path) == digests(written)


def test_seed_split_and_number_make_other_videos() -> None:
    settings = [SMALL, Settings(64, 112, 10, seed=4), Settings(64, 112, 10, seed=3, split="val")]
    scenes = [plan_scene(SMALL, 1)] + [plan_scene(each, 0) for each in settings]
    first_frames = {next(iter(paint_video(scene))).image.tobytes() for scene in scenes}
    assert len(first_frames) == 4


def test_layout_is_vipsegs(written: Path) -> None:
    dataset = VIPSeg.open(written, "train")
    assert {c.id for c in dataset.categories} == set(classes.THINGS + classes.STUFF)
    assert {c.id for c in dataset.categories if c.isthing} == set(classes.THINGS)
    described = describe_split("train", dataset, check=True)
    assert described["problems"] == [] and (described["videos"], described["frames"]) == (3, 30)
    result = small_vipseg.run("dataset", "info", written, "--check")
    assert result.exit_code == 0, result.output


def test_json_and_png_tell_the_same(written: Path) -> None:
    dataset = VIPSeg.open(written, "train")
    for video in dataset.videos:
        category_of: dict[int, int] = {}
        for frame, path in zip(video.frames, dataset.image_paths(video), strict=True):
            with Image.open(path) as image:
                assert image.size == (112, 64)
            numbers, counts = np.unique(dataset.read_ids(video, frame), return_counts=True)
            there = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
            there.pop(0, None)
            assert {s["id"]: s["area"] for s in frame.segments} == there
            for segment in frame.segments:
                assert category_of.setdefault(segment["id"], segment["category_id"]) == segment["category_id"]


def test_every_video_has_four_kinds_of_stuff_and_no_slivers(
    painted: list[tuple[Scene, list[PaintedFrame]]],
) -> None:
    for _, frames in painted:
        segments = [segment for frame in frames for segment in frame.segments]
        assert len({s["category_id"] for s in segments} & set(classes.STUFF)) >= 4
        assert min(s["area"] for s in segments) >= 12 * (96 * 168) / (128 * 224)
        assert max(float((ids_of(frame) == 0).mean()) for frame in frames) < 0.01


def things_by_path(scene: Scene, frames: list[PaintedFrame]) -> dict[int, list[int]]:
    """Per thing the ids that are seen in the middle of where its path says it is, frame by frame.

    Only where no other thing of its class is near, so that the class there means this thing.
    """
    settings, found = scene.settings, dict[int, list[int]]()
    for time, frame in enumerate(frames):
        matrix = view(scene.camera, time, settings.width, settings.height, settings.unit)
        ids = ids_of(frame)
        category_of = {s["id"]: s["category_id"] for s in frame.segments}
        for number, thing in enumerate(scene.things):
            others = [t for t in scene.things if t is not thing and t.look.category == thing.look.category]
            if any(np.hypot(*(t.path[time] - thing.path[time])) < t.half + thing.half for t in others):
                continue
            x, y = np.round(matrix[:, :2] @ thing.path[time] + matrix[:, 2]).astype(int)
            if not (0 <= x < settings.width and 0 <= y < settings.height):
                continue
            seen = int(ids[y, x])
            if category_of.get(seen) == thing.look.category:
                found.setdefault(number, []).append(seen)
    return found


def test_a_thing_keeps_its_id_along_its_path(painted: list[tuple[Scene, list[PaintedFrame]]]) -> None:
    seen = 0
    for scene, frames in painted:
        found = things_by_path(scene, frames)
        for ids in found.values():
            assert len(set(ids)) == 1
            seen += len(ids)
        owners = [ids[0] for ids in found.values()]
        assert len(set(owners)) == len(owners)
    assert seen > 300


def gaps(scene: Scene, frames: list[PaintedFrame]) -> list[tuple[bool, int]]:
    """Times between two sights of a thing: whether it was inside the frame all along, and how many frames."""
    settings, found = scene.settings, []
    limits = np.array([settings.width, settings.height]) / settings.unit
    owners = things_by_path(scene, frames)
    for number, ids in owners.items():
        sights = [t for t, f in enumerate(frames) if any(s["id"] == ids[0] for s in f.segments)]
        for before, after in pairwise(sights):
            if after > before + 1:
                way = scene.things[number].path[before + 1 : after]
                found.append((bool(((way > 0) & (way < limits)).all()), after - before - 1))
    return found


def test_things_are_hidden_leave_and_come_back(painted: list[tuple[Scene, list[PaintedFrame]]]) -> None:
    found = [gap for scene, frames in painted for gap in gaps(scene, frames)]
    hidden = [length for inside, length in found if inside]
    assert len(hidden) >= len(painted), "a full occlusion a video, on average"
    assert any(2 <= length <= 6 for length in hidden)
    assert any(not inside for inside, _ in found)


def test_look_alikes_cross() -> None:
    scenes, crossings = [plan_scene(Settings(32, 56), index) for index in range(60)], 0
    for scene in scenes:
        for number, thing in enumerate(scene.things):
            for other in scene.things[:number]:
                if other.look.category == thing.look.category:
                    apart = np.hypot(*(thing.path - other.path).T)
                    near = apart < 0.5 * (thing.half + other.half)
                    crossings += int(near[0]) + int(np.count_nonzero(near[1:] & ~near[:-1]))
    assert crossings >= 3 * len(scenes), "three crossings a video, on average"


def test_difficulty_makes_it_faster_and_spoils_more() -> None:
    def measure(difficulty: float) -> tuple[float, int]:
        scenes = [plan_scene(Settings(32, 56, 24, 0, difficulty=difficulty), n) for n in range(30)]
        steps = [np.diff(thing.path, axis=0) for scene in scenes for thing in scene.things]
        speed = float(np.median(np.hypot(*np.concatenate(steps).T)))
        return speed, sum(s.noise > 30 or s.fade > 0 for scene in scenes for s in scene.weather)

    (slow, few), (fast, many) = measure(0.0), measure(1.0)
    assert fast > 1.2 * slow and many > few


@pytest.mark.parametrize(("height", "width"), [(32, 128), (128, 32), (37, 53), (200, 200)])
def test_any_size_works(height: int, width: int) -> None:
    for frame in paint_video(plan_scene(Settings(height, width, 2), 0)):
        assert frame.image.shape == frame.ids.shape == (height, width, 3)
        assert frame.image.dtype == np.uint8 and frame.segments


def test_a_second_run_goes_on_and_a_larger_one_adds(written: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, SMALL, 2)
    kept, lost = (tmp_path / "images" / f"train_{n:05d}" / "00000004.jpg" for n in (0, 1))
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    assert write_dataset(tmp_path, SMALL, 3) == 1
    assert kept.stat().st_mtime_ns == stamp and digests(tmp_path) == digests(written)


def test_other_settings_are_refused(written: Path, tmp_path: Path) -> None:
    before = digests(written)
    with pytest.raises(OutputError, match="was made with seed 3"):
        write_dataset(written, Settings(64, 112, 10, seed=4), 3)
    with pytest.raises(OutputError, match="more than 2 videos"):
        write_dataset(written, SMALL, 2)
    assert digests(written) == before
    small_vipseg.make_dataset(tmp_path)
    with pytest.raises(OutputError, match="was not made by"):
        write_dataset(tmp_path, Settings(64, 112, 10, split="val"), 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_dataset(tmp_path / "file" / "out", SMALL, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--size", "128"), "HEIGHTxWIDTH"),
        (("--size", "16x64"), "32..4096"),
        (("--size", "32x200"), "4 times"),
        (("--videos", "0"), "1..99999"),
        (("--frames", "0"), "1..10000"),
        (("--seed", "-1"), "seed -1"),
        (("--split", "../x"), "split"),
        (("--difficulty", "1.5"), "difficulty 1.5"),
        (("--difficulty", "nan"), "difficulty nan"),
    ],
)
def test_bad_requests_are_named(options: tuple[str, str], said: str, tmp_path: Path) -> None:
    result = small_vipseg.run("dataset", "synth", "-o", tmp_path / "out", *options)
    assert isinstance(result.exception, UsageError) and result.exception.exit_code == 2
    assert said in str(result.exception) and "\n" not in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_command_reports(tmp_path: Path) -> None:
    arguments = ("dataset", "synth", "-o", tmp_path, "--videos", "2", "--size", "32x56", "--frames", "3")
    arguments += ("--split", "val", "--workers", "1", "--json")
    first, second = (json.loads(small_vipseg.run(*arguments).stdout) for _ in range(2))
    assert first == {"folder": str(tmp_path), "split": "val", "videos": 2, "frames": 6, "kept_videos": 0}
    assert second == {**first, "kept_videos": 2}
    assert [video.video_id for video in VIPSeg.open(tmp_path, "val").videos] == ["val_00000", "val_00001"]
