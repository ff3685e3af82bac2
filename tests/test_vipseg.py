"""Reading VIPSeg's 720P layout: what is right is read when asked, what is wrong is named."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_vipseg
from PIL import Image

from dvis_cli.datasets.id_map import decode_ids, read_ids
from dvis_cli.datasets.names import safe_name
from dvis_cli.datasets.vipseg import VIPSeg, splits_of
from dvis_cli.errors import DatasetError

JSON = "panoptic_gt_VIPSeg_val.json"


def change(root: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    path = root / JSON
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    return path


def test_reads_lazily(tmp_path: Path) -> None:
    dataset = small_vipseg.make_dataset(tmp_path)
    assert [video.video_id for video in dataset.videos] == list(small_vipseg.NAMES)
    assert len(dataset.categories) == 124 and dataset.categories[0].id == 2
    video = dataset.videos[0]
    (tmp_path / "panomasksRGB" / video.video_id / "00000002.png").unlink()
    ids, segments = dataset.read_ids(video, video.frames[0]), video.frames[0].segments
    assert ids.dtype == np.uint32 and np.array_equal(ids, small_vipseg.id_map(0))
    assert {segment["id"] for segment in segments} == set(small_vipseg.CLASSES)
    with pytest.raises(DatasetError, match=r"00000002\.png is missing"):
        dataset.read_ids(video, video.frames[2])
    assert [path.name for path in dataset.image_paths(video)] == [f"{n:08d}.jpg" for n in range(3)]
    (tmp_path / "images" / video.video_id / "00000001.jpg").unlink()
    with pytest.raises(DatasetError, match=r"12_first.*00000001\.jpg is missing"):
        dataset.image_paths(video)


def test_size_mismatch_is_named(tmp_path: Path) -> None:
    dataset = small_vipseg.make_dataset(tmp_path)
    path = tmp_path / "panomasksRGB" / "7_second" / "00000000.png"
    small_vipseg.save_ids(path, np.zeros((10, 11), int))
    with pytest.raises(DatasetError, match=r"00000000\.png: is 11x10 pixels, must be 32x24"):
        dataset.read_ids(dataset.videos[1], dataset.videos[1].frames[0])


def first_frame(document: dict[str, Any]) -> dict[str, Any]:
    return document["annotations"][0]["annotations"][0]


def first_segment(document: dict[str, Any]) -> dict[str, Any]:
    return first_frame(document)["segments_info"][0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda d: first_segment(d).update(category_id=124),
            "'12_first': frame 00000000.png.*category_id 124",
        ),
        (lambda d: first_segment(d).update(category_id=[1]), "unknown category_id"),
        (lambda d: first_segment(d).update(id=0), "segment id must be a whole number 1..16777215, not 0"),
        (lambda d: first_segment(d).update(id=2**24), "segment id must be"),
        (lambda d: first_segment(d).update(id=700), "segment 700 is listed twice"),
        (lambda d: first_segment(d).update(area=-1), "area of segment 255"),
        (lambda d: first_segment(d).pop("area"), "has no area"),
        (lambda d: d["annotations"].pop(), "video '7_second': no entry in annotations"),
        (lambda d: d["annotations"][0]["annotations"].pop(), "3 images but 2 annotations"),
        (lambda d: d["videos"].append(d["videos"][0]), "video '12_first' is listed twice"),
        (lambda d: d["videos"][0]["images"].reverse(), "stands beside"),
        (lambda d: d["videos"][0]["images"][0].update(width=0), "width must be"),
        (lambda d: d["videos"][0]["images"][0].update(height=10**9), "height must be"),
        (lambda d: first_frame(d).update(file_name="00000001.png"), "two frames have the same file name"),
        (lambda d: first_frame(d).update(file_name="../../etc/passwd"), "not a plain name"),
        (lambda d: d["videos"][0].update(video_id=".."), "video_id '..' is not a plain name"),
        (lambda d: d["videos"][0].update(video_id="/tmp"), "not a plain name"),
        (lambda d: d["videos"][0].update(video_id=7), "video_id must be a name, not 7"),
        (lambda d: d["categories"][0].pop("name"), "categories, entry 0: expected id, name"),
        (lambda d: d["categories"].append(d["categories"][0]), "categories: an id stands twice"),
        (lambda d: d.pop("videos"), "must hold videos"),
        (lambda d: d.update(annotations=3), "annotations must be a list"),
    ],
)
def test_what_is_wrong_in_the_json_is_named(
    tmp_path: Path, edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    small_vipseg.make_dataset(tmp_path)
    path = change(tmp_path, edit)
    with pytest.raises(DatasetError, match=message) as caught:
        VIPSeg(path)
    assert str(path) in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        VIPSeg.open(tmp_path / "nowhere", "val")
    small_vipseg.make_dataset(tmp_path)
    with pytest.raises(DatasetError, match=r"splits in .*: val$"):
        VIPSeg.open(tmp_path, "train")
    with pytest.raises(DatasetError, match="not a plain name"):
        VIPSeg.open(tmp_path, "../val")
    (tmp_path / JSON).write_text("{" * 5000)
    with pytest.raises(DatasetError, match="is not json"):
        VIPSeg.open(tmp_path, "val")
    assert splits_of(tmp_path) == ["val"]


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "a\\b", "/a", "c:x", "a\0b", "a\nb", "x" * 300, None, 3]
)
def test_names_that_are_not_names(name: object) -> None:
    with pytest.raises(DatasetError):
        safe_name(name, "name")


def png(width: int, height: int, data: bytes, depth: int = 8, kind: int = 2) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def test_png_ids_are_three_bytes() -> None:
    data = png(2, 1, b"\0" + bytes([1, 2, 3, 255, 255, 255]))
    assert decode_ids(data, 2, 1).tolist() == [[1 + 2 * 256 + 3 * 65536, 2**24 - 1]]
    alpha = png(1, 1, b"\0" + bytes([1, 2, 3, 9]), kind=6)
    assert decode_ids(alpha, 1, 1).tolist() == [[1 + 2 * 256 + 3 * 65536]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"GIF89a" + bytes(40), "not a PNG"),
        (png(4, 1, bytes(100)), "4x1 pixels, must be 2x1"),
        (png(2, 1, bytes(100), depth=16), "8-bit RGB"),
        (png(2, 1, bytes(100), kind=0), "8-bit RGB"),
        (png(2, 1, bytes(range(7)))[:-24], "damaged"),
        (png(2, 1, b"\0")[:60] + b"junk" * 9, "damaged"),
    ],
)
def test_damaged_pngs_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        decode_ids(data, 2, 1)
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(DatasetError, match=rf"x\.png.*{message}"):
        read_ids(tmp_path / "x.png", 2, 1)


def test_info_counts(tmp_path: Path) -> None:
    small_vipseg.make_dataset(tmp_path)
    result = small_vipseg.run("dataset", "info", tmp_path, "--json", "--check")
    split = json.loads(result.stdout)["splits"][0]
    assert (split["videos"], split["frames"], split["segments"], split["classes_seen"]) == (2, 6, 10, 4)
    assert split["problems"] == [] and split["sizes"] == {"32x24": 6}
    assert "val" in small_vipseg.run("dataset", "info", tmp_path).stdout


def test_info_finds_what_is_missing_or_differs(tmp_path: Path) -> None:
    small_vipseg.make_dataset(tmp_path)
    small_vipseg.save_ids(tmp_path / "panomasksRGB" / "12_first" / "00000000.png", small_vipseg.id_map(0) + 1)
    (tmp_path / "panomasksRGB" / "12_first" / "00000001.png").unlink()
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "12_first" / "00000002.jpg")
    result = small_vipseg.run("dataset", "info", tmp_path, "--json", "--check", "-q")
    problems = "\n".join(json.loads(result.stdout)["splits"][0]["problems"])
    assert result.exit_code == 1
    assert "not in both" in problems and "00000001.png is missing" in problems and "9x9" in problems
    empty = small_vipseg.run("dataset", "info", tmp_path / "images")
    assert isinstance(empty.exception, DatasetError)
