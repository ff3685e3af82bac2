"""The report page as a file: what is in it, what lies beside it, and what no name can do to it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from small_reports import (
    FRAMES,
    HEIGHT,
    HOSTILE,
    SEGMENTS,
    WIDTH,
    data_of,
    frame_of,
    ids_in,
    ids_of,
    make_result,
    pts_of,
    title_of,
)  # fmt: skip

from dvis_cli.coco_masks import encode
from dvis_cli.datasets.id_map import read_ids
from dvis_cli.errors import DvisWarning
from dvis_cli.export.report import write_report
from dvis_cli.structures import InstanceFrame, VideoInfo
from dvis_cli.writers.report import NO_FILM, ReportPage
from dvis_cli.writers.report import page as page_module


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_result(tmp_path_factory.mktemp("report") / "clip")


def test_the_page_has_the_pixels_of_the_pngs(result: Path) -> None:
    found = ids_in((result / "report.html").read_text())
    assert len(found) == FRAMES
    for index, ids in enumerate(found):
        assert np.array_equal(ids, read_ids(result / "panoptic" / f"{index:06d}.png", WIDTH, HEIGHT))


def test_the_film_shows_each_frame_at_its_time(result: Path) -> None:
    times = data_of((result / "report.html").read_text())["times"]
    with av.open(str(result / "report.mp4")) as film:
        frames = list(film.decode(video=0))
        shown = [(frame.time, frame.to_ndarray(format="rgb24").mean()) for frame in frames]
    assert [time for time, _ in shown] == pytest.approx(times, abs=2e-5)
    assert times == pytest.approx([pts_of(index) - pts_of(0) for index in range(FRAMES)])
    assert [grey for _, grey in shown] == pytest.approx([20 + 7 * index for index in range(FRAMES)], abs=3)
    assert max(index for index in range(0, FRAMES, 12) if frames[index].key_frame) == 24


def test_rows_tell_when_and_how_large(result: Path) -> None:
    rows = {row["id"]: row for row in data_of((result / "report.html").read_text())["segments"]}
    assert rows.keys() == SEGMENTS.keys()
    row = rows[300]
    assert (row["seen"], row["first"], row["last"], len(row["areas"])) == (20, 0, 29, 30)
    assert row["areas"][10:20] == "0" * 10 and "0" not in row["areas"][:10]
    assert row["area"] == sum(int((ids_of(index) == 300).sum()) for index in range(FRAMES))
    assert rows[3]["thing"] is False and rows[7]["score"] == 0.8


def test_names_cannot_leave_their_place(tmp_path: Path) -> None:
    page = (make_result(tmp_path / "clip", name=HOSTILE) / "report.html").read_text()
    assert data_of(page)["name"] == title_of(page) == HOSTILE
    assert next(row["name"] for row in data_of(page)["segments"] if row["id"] == 7) == HOSTILE
    assert "window.hacked" not in re.sub(
        r"<title>.*?</title>|\"[^\"]*window.hacked[^\"]*\"", "", page, flags=re.DOTALL
    )
    assert page.count("<script>") == 1 and "<img" not in page
    policy = re.findall('Content-Security-Policy" content="([^"]*)"', page)[0]
    assert "unsafe" not in policy and "connect-src" not in policy and policy.startswith("default-src 'none'")


def test_nothing_is_fetched(result: Path) -> None:
    page = re.sub(r'<script type="[^>]*>[^<]*</script>', "", (result / "report.html").read_text())
    assert "<script>" in page and not re.search(r"https?://|url\(|@import|<link|src=|fetch\(|import\(", page)


def test_the_page_comes_without_maps_and_overlay_too(tmp_path: Path) -> None:
    folder = make_result(tmp_path / "clip", panoptic=False, segments=False)
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.mp4", "report.jpg"}
    assert np.array_equal(ids_in((folder / "report.html").read_text())[-1], ids_of(FRAMES - 1))


def test_a_finished_result_gets_the_same_page(result: Path, tmp_path: Path) -> None:
    folder = make_result(tmp_path / "clip", report=False)
    source = _film(tmp_path / "film.mp4")
    assert write_report(folder, source) == folder / "report.html"
    ours, first = (data_of((one / "report.html").read_text()) for one in (folder, result))
    for one in (*ours["segments"], *first["segments"]):
        del one["color"]  # of stuff: segments.json has no colours
    assert ours == first
    assert all(map(np.array_equal, ids_in((folder / "report.html").read_text()), map(ids_of, range(FRAMES))))


def _film(path: Path) -> Path:
    """The source: the frames, and two before them, on the source's clock."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(
            "libx264", rate=10, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p", options={"bf": "0"}
        )
        stream.time_base = stream.codec_context.time_base = Fraction(1, 90000)
        for index in range(-2, FRAMES):
            picture = av.VideoFrame.from_ndarray(frame_of(max(index, 0)).rgb, format="rgb24")
            picture.pts, picture.time_base = round(pts_of(index) * 90000), stream.time_base
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return path


def test_without_the_source_the_page_plays_the_overlay_and_says_so(tmp_path: Path) -> None:
    folder = make_result(tmp_path / "clip", report=False, overlay="blend")
    with pytest.warns(DvisWarning, match="plays overlay.mp4 instead"):
        write_report(folder)
    data = data_of((folder / "report.html").read_text())
    assert (data["film"], data["film_kind"]) == ("overlay.mp4", "overlay") and not (
        folder / "report.mp4"
    ).exists()
    for style in ("side-by-side", None):
        folder = make_result(tmp_path / f"clip {style}", report=False, overlay=style)
        with pytest.warns(DvisWarning, match="without a film"):
            write_report(folder, tmp_path / "none.mp4")
        assert data_of((folder / "report.html").read_text())["film"] is None


def test_another_video_is_not_taken_for_the_source(tmp_path: Path) -> None:
    folder = make_result(tmp_path / "clip", report=False)
    other = make_result(tmp_path / "other") / "report.mp4"  # the same pictures, on another clock
    with pytest.warns(DvisWarning, match="other/report.mp4.* the report shows the segments without a film"):
        write_report(folder, other)
    assert not (folder / "report.mp4").exists()


def test_instances_show_the_likeliest_on_top(tmp_path: Path) -> None:
    masks = np.zeros((2, HEIGHT, WIDTH), bool)
    masks[0, 10:50, 10:60] = masks[1, 30:80, 30:90] = True
    codes = dict(zip((7, 300), encode(masks), strict=True))
    info = VideoInfo("clip", "clip.mp4", WIDTH, HEIGHT, 10.0, 1, None, False)
    page = ReportPage(tmp_path, info, {"task": "instance"}, film=NO_FILM)
    page.add(InstanceFrame(0, 0.0, frame_of(0).rgb, codes, {id: SEGMENTS[id] for id in codes}))
    page.finish()
    text = (tmp_path / "report.html").read_text()
    (ids,) = ids_in(text)
    assert np.array_equal(ids == 7, masks[0]) and np.array_equal(ids == 300, masks[1] & ~masks[0])
    assert "Masks overlap" in data_of(text)["note"]


def test_large_ids_take_no_large_table(tmp_path: Path) -> None:
    large = 2**24 - 1
    segments = {large: replace(SEGMENTS[300], id=large)}
    info = VideoInfo("clip", "clip.mp4", WIDTH, HEIGHT, 10.0, 1, None, False)
    page = ReportPage(tmp_path, info, {}, film=NO_FILM)
    frame = frame_of(0)
    page.add(replace(frame, ids=np.where(frame.ids == 7, large, 0), segments=segments))
    page.finish()
    (ids,) = ids_in((tmp_path / "report.html").read_text())
    assert np.array_equal(ids == large, frame.ids == 7)


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_arguments: object) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(page_module, "_write_page", fails)
    with pytest.raises(OSError):
        make_result(tmp_path / "clip")
    assert list(tmp_path.iterdir()) == []


def test_the_json_in_the_page_is_plain_json(result: Path) -> None:
    assert json.dumps(data_of((result / "report.html").read_text()))
