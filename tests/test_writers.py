"""PNG, JSON and the output folder as a whole."""

from __future__ import annotations

import errno
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from writers_media import (
    PERSON,
    ROAD,
    audio_codec,
    click_track,
    frame,
    ids_to_rgb,
    info,
    read_panoptic_png,
    read_times,
    write_sound,
)

from dvis_cli.errors import DvisWarning, OutputError, UsageError
from dvis_cli.structures import PanopticFrame, Segment
from dvis_cli.writers.panoptic_png import LARGEST_ID, write_panoptic_png
from dvis_cli.writers.segments_json import (
    SegmentStatistics,
    measure_segments,
    segments_document,
    without_frames,
    write_json,
)
from dvis_cli.writers.video_folder import Outputs, VideoFolderWriter

SEGMENTS = [Segment(1, ROAD, 0.9), Segment(2, PERSON, 0.8)]

shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)
id_maps = hnp.arrays(np.int32, shapes, elements=st.integers(0, LARGEST_ID))
label_maps = hnp.arrays(
    np.int32, shapes, elements=st.sampled_from([0, 0, 1, 2, 3, 7, 300, 70000, LARGEST_ID])
)


# --- PNG


@given(ids=id_maps)
@settings(max_examples=30)
def test_a_png_is_what_any_reader_sees(ids: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("png") / "000000.png"
    write_panoptic_png(path, ids)
    assert np.array_equal(read_panoptic_png(path), ids)
    with Image.open(path) as image:
        assert image.mode == "RGB" and image.format == "PNG"
        assert np.array_equal(np.asarray(image), ids_to_rgb(ids))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_ids_of_other_integer_types_and_layouts(tmp_path: Path, dtype: type) -> None:
    ids = np.arange(12).reshape(3, 4).astype(dtype)[:, ::-1]
    write_panoptic_png(tmp_path / "a.png", ids)
    assert np.array_equal(read_panoptic_png(tmp_path / "a.png"), ids)


@pytest.mark.parametrize("id", [-1, LARGEST_ID + 1])
def test_ids_that_do_not_fit_are_refused(tmp_path: Path, id: int) -> None:
    with pytest.raises(ValueError, match=str(id)):
        write_panoptic_png(tmp_path / "a.png", np.full((2, 2), id, np.int64))
    assert list(tmp_path.iterdir()) == []


# --- statistics and JSON


@given(label_maps)
def test_areas_and_boxes_equal_counting(ids: np.ndarray) -> None:
    found = list(measure_segments(ids))
    assert [id for id, _, _ in found] == sorted(set(ids.ravel().tolist()) - {0})
    for id, area, (x, y, width, height) in found:
        ys, xs = np.nonzero(ids == id)
        assert area == len(xs)
        assert (x, y, x + width, y + height) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_document_says_where_each_segment_is() -> None:
    statistics = SegmentStatistics()
    frames = [frame(0, 1.5), frame(1, 1.6), frame(2, 1.7, ids=np.ones((48, 64), np.int32))]
    for one in frames:
        statistics.add(one)
    run = {"model": {"name": "tiny", "file": Path("a/b.pth")}, "mode": "online", "score": np.float32(0.5)}
    document = segments_document(info(), [*SEGMENTS, Segment(9, PERSON, 0.7)], statistics, run)
    assert document["format"] == "dvis-segments" and document["version"] == 1
    assert document["source"]["frames"] == 3 and document["mode"] == "online"
    assert [f["pts"] for f in document["frames"]] == [1.5, 1.6, 1.7]
    assert [f["file_name"] for f in document["frames"]] == ["000000.png", "000001.png", "000002.png"]
    assert [s["id"] for s in document["segments"]] == [1, 2], "a segment without pixels is left out"
    road, person = document["segments"]
    assert (road["category"], road["category_id"], road["isthing"]) == ("road", 18, False)
    assert (person["first_frame"], person["last_frame"], person["score"]) == (0, 1, 0.8)
    assert person["area"] == sum(int((one.ids == 2).sum()) for one in frames)
    assert [entry["frame"] for entry in person["frames"]] == [0, 1]
    assert "source_name" not in document["frames"][0]


def test_document_is_written_whole_and_reads_back_equal(tmp_path: Path) -> None:
    statistics = SegmentStatistics()
    for index, name in enumerate(["IMG_7", "Größe"]):
        statistics.add(frame(index, index / 10, name=name))
    document = segments_document(info(name="ü"), SEGMENTS, statistics, {"mode": "online"}, pngs=False)
    write_json(tmp_path / "segments.json", document)
    read = json.loads((tmp_path / "segments.json").read_text(encoding="utf-8"))
    assert read == {**document, "frames": list(document["frames"]), "segments": list(document["segments"])}
    assert [f["source_name"] for f in document["frames"]] == ["IMG_7", "Größe"]
    assert document["frames"][0]["file_name"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["segments.json"]
    with pytest.raises(TypeError):
        write_json(tmp_path / "other.json", {"model": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["segments.json"]


def test_document_refuses_what_would_contradict_itself() -> None:
    statistics = SegmentStatistics()
    statistics.add(frame(0, 0.0))
    with pytest.raises(ValueError, match=r"\[2\]"):
        segments_document(info(), SEGMENTS[:1], statistics, {})
    with pytest.raises(ValueError, match="frames"):
        segments_document(info(), SEGMENTS, statistics, {"frames": 3})


def test_statistics_stay_small() -> None:
    statistics = SegmentStatistics()
    for index in range(50):
        statistics.add(frame(index, index / 10))
    stored = sum(len(records) * records.itemsize for records in statistics._records.values())
    assert stored == 50 * 2 * 24


# --- the folder


def write(target: Path, outputs: Outputs, frames: list[PanopticFrame], **options: object) -> dict:
    with VideoFolderWriter(target, info(), outputs, run={"mode": "online"}, **options) as writer:
        for one in frames:
            writer.add(one)
        return writer.finish(SEGMENTS)


def test_all_outputs_together(tmp_path: Path) -> None:
    source = write_sound(tmp_path / "clip.mp4", click_track(1.0, [0.5]), "aac")
    frames = [frame(index, index / 10) for index in range(8)]
    target = tmp_path / "out" / "clip"
    document = write(target, Outputs(), frames, audio_from=source)
    assert sorted(path.name for path in target.iterdir()) == ["overlay.mp4", "panoptic", "segments.json"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip"]
    for one in frames:
        assert np.array_equal(read_panoptic_png(target / "panoptic" / f"{one.index:06d}.png"), one.ids)
    assert len(list((target / "panoptic").iterdir())) == 8
    assert without_frames(json.loads((target / "segments.json").read_text())) == document
    assert read_times(target / "overlay.mp4") == pytest.approx([one.pts for one in frames])
    assert audio_codec(target / "overlay.mp4") == "aac"


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (Outputs(segments=False, overlay=None), ["panoptic"]),
        (Outputs(panoptic=False, overlay=None), ["segments.json"]),
        (Outputs(panoptic=False, segments=False, overlay="masks"), ["overlay.mp4"]),
        (Outputs(panoptic=False, segments=False, overlay=None), []),
    ],
)
def test_each_output_can_be_left_out(tmp_path: Path, outputs: Outputs, names: list[str]) -> None:
    document = write(tmp_path / "clip", outputs, [frame(0, 0.0)])
    assert [path.name for path in (tmp_path / "clip").iterdir()] == names
    assert len(document["segments"]) == 2


def test_unknown_overlay_style_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="side-by-side"):
        Outputs(overlay="fancy")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    before = set(threading.enumerate())  # another test's stream may still wait for its last packet
    with (
        pytest.raises(error),
        VideoFolderWriter(tmp_path / "new" / "clip", info(), Outputs(), run={}) as writer,
    ):
        writer.add(frame(0, 0.0))
        raise error
    assert list(tmp_path.iterdir()) == []
    started = set(threading.enumerate()) - before
    assert not [thread for thread in started if thread.name.startswith("dvis-")]


def test_a_block_left_without_finish_leaves_nothing(tmp_path: Path) -> None:
    with VideoFolderWriter(tmp_path / "clip", info(), Outputs(), run={}) as writer:
        writer.add(frame(0, 0.0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("during", ["png", "json", "overlay"])
def test_a_disk_that_refuses_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, during: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, "no")

    if during == "png":
        monkeypatch.setattr(Path, "write_bytes", refuse)
    elif during == "json":
        monkeypatch.setattr(Path, "replace", refuse)
    else:
        monkeypatch.setattr("dvis_cli.writers.video_encoder.VideoEncoder.encode", refuse)
    words = {errno.ENOSPC: "no space left", errno.EDQUOT: "quota", errno.EACCES: "permission"}[code]
    with pytest.raises(OutputError, match=words) as caught:
        write(tmp_path / "clip", Outputs(), [frame(index, index / 10) for index in range(40)])
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_reported_while_frames_still_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OutputError("full")

    monkeypatch.setattr("dvis_cli.writers.frame_files.write_panoptic_png", refuse)
    with (
        pytest.raises(OutputError, match="full"),
        VideoFolderWriter(tmp_path / "clip", info(), Outputs(overlay=None), run={}, queue_frames=2) as writer,
    ):
        for index in range(1000):
            writer.add(frame(index, index / 10))
        pytest.fail("the error came only at the end")
    assert list(tmp_path.iterdir()) == []


def test_frames_wait_in_a_bounded_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr("dvis_cli.writers.frame_files.write_panoptic_png", lambda *_: gate.wait(60))
    handed = []

    def feed() -> None:
        for index in range(10):
            writer.add(frame(index, index / 10))
            handed.append(index)

    writer = VideoFolderWriter(tmp_path / "clip", info(), Outputs(overlay=None), run={}, queue_frames=3)
    with writer:
        feeder = threading.Thread(target=feed)
        feeder.start()
        (worker,) = writer._workers
        deadline = time.monotonic() + 60
        while not (len(handed) == 4 and worker._queue.full()) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(handed) == 4  # one in the worker's hands and three that wait
        gate.set()
        feeder.join()
        assert writer.finish(SEGMENTS)["source"]["frames"] == 10


def test_sound_that_cannot_be_kept_is_a_warning_for_the_caller(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"this is no video")
    with pytest.warns(DvisWarning, match="sound of clip") as caught:
        write(tmp_path / "clip", Outputs(), [frame(0, 0.0)], audio_from=tmp_path / "bad.mp4")
    assert len(caught) == 1
    assert read_times(tmp_path / "clip" / "overlay.mp4") == [0.0]


def test_no_frames_make_an_empty_result(tmp_path: Path) -> None:
    document = write(tmp_path / "clip", Outputs(), [])
    assert document["source"]["frames"] == 0 and document["segments"] == []
    assert not (tmp_path / "clip" / "overlay.mp4").exists()
