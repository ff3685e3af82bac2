"""Picture files as cameras, phones and microscopes write them: tiles, stacks, animations, mixed folders, depth."""

from __future__ import annotations

import shutil
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from media import moving_squares, number_frames, read_number
from PIL import Image, UnidentifiedImageError

from dvis_cli.errors import DvisWarning, UsageError, VideoError
from dvis_cli.video import Selection, open_video

CASES = Path(__file__).parent / "data" / "cases"  # tiles: an image grid of 4 x 3 tiles of 64 pixels
GREYS = [np.full((48, 64, 3), 60 * i + 40, np.uint8) for i in range(3)]


def save_all(path: Path, kind: str, frames: Sequence[np.ndarray] = GREYS, **options: object) -> Path:
    first, *rest = map(Image.fromarray, frames)
    first.save(path, format=kind, save_all=True, append_images=rest, **options)
    return path


def means(path: Path) -> list[int]:
    return [round(float(frame.rgb.mean())) for frame in open_video(path)]


# --- tiles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_a_picture_in_tiles_is_read_whole(tmp_path: Path, suffix: str):
    if suffix == ".heic":
        pytest.importorskip("pillow_heif")
    rgb = moving_squares(1, 160, 200)[0]
    for name in (f"photo{suffix}", "photo.bin"):  # whatever the suffix
        (frame,) = open_video(shutil.copy(CASES / f"tiles{suffix}", tmp_path / name))
        assert frame.rgb.shape == rgb.shape
        assert np.abs(frame.rgb.astype(int) - rgb).mean() < 3


def test_tiles_without_a_reader_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch):
    def unknown(*_args: object, **_more: object) -> None:
        raise UnidentifiedImageError("cannot identify image file")

    monkeypatch.setattr(Image, "open", unknown)
    with pytest.raises(VideoError, match=r"picture in tiles.*pip install 'dvis\[heif\]'") as caught:
        open_video(CASES / "tiles.heic")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 7, 2**50, 2**62, 2**64 - 1])
def test_boxes_of_absurd_sizes(tmp_path: Path, size: int):
    data = (CASES / "tiles.avif").read_bytes()
    head, rest = data[: data.index(b"meta") - 4], data[data.index(b"meta") - 4 :]
    (tmp_path / "a.avif").write_bytes(head + struct.pack(">I4sQ", 1, b"free", size) + rest)
    with pytest.raises(VideoError):
        open_video(tmp_path / "a.avif")


# --- several pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "GIF", "AVIF", "TIFF"])
@pytest.mark.parametrize("own_suffix", [True, False])
def test_all_pictures_of_a_file_are_frames(tmp_path: Path, kind: str, own_suffix: bool):
    suffix = f".{kind.lower()}" if own_suffix else ".png" if kind == "WEBP" else ".webp"
    timed = {} if kind == "TIFF" else {"duration": 100}
    path = save_all(tmp_path / f"several{suffix}", kind, **timed)
    source = open_video(path)
    assert source.info.frames in (3, None)
    assert source.info.fps == pytest.approx(10 if timed else 25)
    frames = list(source)
    assert [frame.pts for frame in frames] == pytest.approx([i / source.info.fps for i in range(3)])
    assert [float(frame.rgb.mean()) for frame in frames] == pytest.approx([40, 100, 160], abs=2)
    assert [read.pts for read in open_video(path, Selection(start=1 / source.info.fps, stride=2))] == [
        frames[1].pts
    ]


def test_pictures_are_shown_at_their_own_times(tmp_path: Path):
    source = open_video(save_all(tmp_path / "a.webp", "WEBP", duration=[40, 500, 60]))
    assert [frame.pts for frame in source] == pytest.approx([0, 0.04, 0.54])
    assert source.info.fps == pytest.approx(5)


def test_pages_of_another_size_are_left_out_with_a_line(tmp_path: Path):
    path = save_all(tmp_path / "a.tif", "TIFF", [*GREYS, GREYS[0][::4, ::4]])
    with pytest.warns(DvisWarning, match="1 of 4 pictures have another size") as caught:
        assert means(path) == [40, 100, 160]
    assert len(caught) == 1


def test_a_stack_in_a_folder_is_one_frame_with_a_line(tmp_path: Path):
    save_all(tmp_path / "0.tif", "TIFF")
    save_all(tmp_path / "1.tif", "TIFF", GREYS[1:2])
    with pytest.warns(DvisWarning, match="1 files hold several pictures"):
        assert means(tmp_path) == [40, 100]


# --- mixed folders ---------------------------------------------------------------------------------------


def test_a_folder_takes_every_kind_and_names_the_rest(tmp_path: Path):
    kinds = [".JPG", ".jfif", ".jpe", ".avif", ".jp2", ".webp", ".tif", ".pbm", ".HEIC"]
    for number, suffix in enumerate(kinds):  # the phone's HEIC is a JPEG here: what is in it counts
        kind = {".JPG": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".HEIC": "JPEG", ".pbm": "PPM"}.get(suffix)
        Image.fromarray(number_frames(9)[number]).save(tmp_path / f"{number}{suffix}", format=kind)
    for name in ("9.jxl", "10.jxl", "11.exr"):
        (tmp_path / name).write_bytes(b"no reader for it")
    source = open_video(tmp_path)
    with pytest.warns(DvisWarning, match=r"3 of 12 files .* left out: 1 \.exr, 2 \.jxl") as caught:
        assert [read_number(frame.rgb) for frame in source] == list(range(9))
    assert len(caught) == 1
    shutil.copy(tmp_path / "9.jxl", tmp_path / "only.jxl")
    with pytest.raises(VideoError, match=r"unsupported: there is no reader here for \.jxl; convert it"):
        open_video(tmp_path / "only.jxl")
    with pytest.raises(UsageError, match="no video tracks"):
        open_video(tmp_path, Selection(video_track=0))


def test_raw_camera_files_are_called_unsupported(tmp_path: Path):
    """They are TIFF with a thumbnail in front."""
    with pytest.raises(VideoError, match="unsupported: a camera's raw data"):
        open_video(save_all(tmp_path / "photo.NEF", "TIFF", GREYS[:1]))


# --- depth and colours -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "colour.png", "colour.tif"])
def test_deep_pictures_use_the_bits_they_use(tmp_path: Path, bits: int, name: str):
    ramp = np.arange(0, 256, dtype=np.uint16).reshape(8, 32)
    eight = np.dstack([ramp, ramp[::-1], ramp[:, ::-1]]) if "colour" in name else ramp
    deep = eight << (bits - 8)
    deep[0, -1] = 2**bits - 1
    folder = tmp_path / "deep"
    folder.mkdir()
    dark = deep // 4  # one depth for the whole video: a dark frame stays dark
    for i, pixels in enumerate((deep, dark)):
        assert cv2.imwrite(
            str(folder / f"{i}{Path(name).suffix}"), pixels[..., ::-1] if pixels.ndim == 3 else pixels
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bright, darker = open_video(folder)
    wanted = deep >> (bits - 8) if deep.ndim == 3 else np.repeat(deep[..., None] >> (bits - 8), 3, 2)
    np.testing.assert_array_equal(bright.rgb, wanted)
    np.testing.assert_allclose(darker.rgb.astype(int), wanted // 4, atol=1)
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == (bits != 16) and all(f"use {bits} bits" in text for text in texts)


def test_values_above_the_depth_that_was_taken_are_counted(tmp_path: Path):
    for i in range(9):  # every second one is looked at
        value = 60000 if i == 5 else 3000
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((8, 8), value, np.uint16))
    with pytest.warns(DvisWarning, match=r"use 12 bits.*1 of 9 pictures have values above 12 bits"):
        assert means(tmp_path) == [187] * 5 + [255] + [187] * 3


def test_hdr_pictures_are_mapped(tmp_path: Path):
    """Reference white, 203 nit, is 0.58 of the PQ code and no grey."""
    path = tmp_path / "a.avif"
    Image.fromarray(np.full((48, 64, 3), 148, np.uint8)).save(path, quality=100)
    data = path.read_bytes()
    at = data.index(b"colrnclx") + 8
    path.write_bytes(data[:at] + struct.pack(">HH", 9, 16) + data[at + 4 :])
    with pytest.warns(DvisWarning, match=r"HDR PQ BT\.2020"):
        (mean,) = means(path)
    assert 225 < mean <= 255
