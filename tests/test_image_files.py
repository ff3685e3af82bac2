"""Folders of images and single images as video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media import (
    moving_squares,
    number_frames,
    truncate,
    write_image_folder,
    write_video,
)
from PIL import Image, ImageOps

from dvis_cli.errors import DvisWarning, UsageError, VideoError
from dvis_cli.video import Selection, open_video
from dvis_cli.video.image_files import natural_key


def test_image_folder(tmp_path: Path):
    frames = moving_squares(12, 20, 30)
    folder = write_image_folder(tmp_path / "my clip", frames)
    (folder / "notes.txt").write_text("not a frame")
    (folder / ".hidden.png").write_bytes(b"not even an image")
    (folder / "sub.png").mkdir()
    source = open_video(folder, folder_fps=10)
    info = source.info
    assert (info.name, info.width, info.height, info.fps, info.frames) == ("my clip", 30, 20, 10, 12)
    assert info.duration == pytest.approx(1.2)
    assert not info.has_audio
    with pytest.warns(DvisWarning, match=r"1 of 13 files cannot be read as images and are left out: 1 \.txt"):
        read = list(source)
    assert [frame.name for frame in read] == [f"frame{i}" for i in range(12)]
    assert [frame.pts for frame in read] == [i / 10 for i in range(12)]
    for frame, expected in zip(read, frames, strict=True):
        np.testing.assert_array_equal(frame.rgb, expected)


def test_image_folder_selection(tmp_path: Path):
    folder = write_image_folder(tmp_path / "f", number_frames(20))
    source = open_video(folder, Selection(start=0.3, end=1.5, stride=4, max_frames=2), folder_fps=10)
    assert [(frame.index, frame.name, frame.pts) for frame in source] == [
        (0, "frame3", 0.3),
        (1, "frame7", 0.7),
    ]
    assert (source.info.frames, source.info.fps, source.info.start) == (2, 2.5, 0.3)


@given(st.lists(st.integers(0, 10**12), unique=True))
def test_natural_sort(values: list[int]):
    paths = [Path(f"img{value}_2.png") for value in values]
    assert sorted(paths, key=natural_key) == [Path(f"img{value}_2.png") for value in sorted(values)]


def test_natural_sort_of_mixed_names():
    names = ["10.png", "2.png", "a10.png", "a2b.png", "a2.png", "B1.png", "x.png", "²1.png"]
    ordered = sorted(map(Path, names), key=natural_key)
    assert [p.name for p in ordered] == [
        "2.png", "10.png", "a2.png", "a2b.png", "a10.png", "B1.png", "x.png", "²1.png",
    ]  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str):
    image = Image.fromarray(moving_squares(1, 24, 40)[0])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    image.save(path, exif=exif)
    with Image.open(path) as saved:
        expected = np.array(ImageOps.exif_transpose(saved))
    source = open_video(path)
    frame = next(iter(source))
    assert (source.info.height, source.info.width) == expected.shape[:2]
    np.testing.assert_array_equal(frame.rgb, expected)


def test_every_pixel_type_becomes_rgb(tmp_path: Path):
    ramp = np.linspace(0, 255, 12 * 10).reshape(12, 10)
    grey = ramp.astype(np.uint8)
    rgb = np.stack([grey, grey[::-1], grey[:, ::-1]], axis=2)
    grey_as_rgb = np.repeat(grey[:, :, None], 3, axis=2)
    alpha = np.dstack([rgb, np.full_like(grey, 7)])
    palette = Image.fromarray(rgb).quantize(8)
    palette.info["transparency"] = bytes([0, 100, 255])
    wanted = {
        "grey.png": (Image.fromarray(grey), grey_as_rgb),
        "bits.png": (Image.fromarray(grey).convert("1"), None),
        "deep.png": (Image.fromarray(grey.astype(np.uint16) * 257), grey_as_rgb),
        "deep.tif": (Image.fromarray(grey.astype(np.int32) * 257), grey_as_rgb),
        "alpha.png": (Image.fromarray(alpha), rgb),
        "alpha.webp": (Image.fromarray(rgb), None),
        "palette.png": (palette, np.array(palette.convert("RGBA").convert("RGB"))),
        "cmyk.jpg": (Image.fromarray(rgb).convert("CMYK"), None),
        "plain.bmp": (Image.fromarray(rgb), rgb),
        "plain.tiff": (Image.fromarray(rgb), rgb),
        "plain.ppm": (Image.fromarray(rgb), rgb),
    }
    for name, (image, expected) in wanted.items():
        image.save(tmp_path / name)
        source = open_video(tmp_path / name)
        (frame,) = source
        assert frame.rgb.shape == (12, 10, 3), name
        assert frame.rgb.dtype == np.uint8, name
        assert (source.info.frames, frame.name) == (1, Path(name).stem)
        if expected is not None:
            np.testing.assert_array_equal(frame.rgb, expected, err_msg=name)
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(VideoError, match="floating point"):
        list(open_video(tmp_path / "float.tif"))


def test_folder_without_images(tmp_path: Path):
    with pytest.raises(VideoError, match=r"has no images \(0 other files\)"):
        open_video(tmp_path)
    write_video(tmp_path / "a.mp4", number_frames(1))
    with pytest.raises(VideoError, match=r"no images \(1 other files: 1 \.mp4\).*named one by one"):
        open_video(tmp_path)


def test_folder_with_mixed_sizes_names_both_files(tmp_path: Path):
    write_image_folder(tmp_path, number_frames(3, 16, 24))
    write_image_folder(tmp_path, number_frames(1, 24, 16), name="other{}")
    with pytest.raises(VideoError, match=r"frame0\.png is 24 x 16 pixels and other0\.png is 16 x 24"):
        open_video(tmp_path)
    assert len(list(open_video(tmp_path, Selection(max_frames=3)))) == 3  # what is not read does not matter


def test_folder_with_the_same_frame_twice(tmp_path: Path):
    write_image_folder(tmp_path, number_frames(2))
    write_image_folder(tmp_path, number_frames(1), suffix=".jpg")
    with pytest.raises(VideoError, match=r"frame0\.jpg, frame0\.png would be the same frame"):
        open_video(tmp_path)


def test_folder_with_an_unreadable_image(tmp_path: Path):
    write_image_folder(tmp_path, moving_squares(3, 40, 40))
    truncate(tmp_path / "frame1.png", 0.5)
    frames = iter(open_video(tmp_path))
    assert next(frames).name == "frame0"
    with pytest.raises(VideoError, match=r"frame1\.png is not an image that can be read"):
        next(frames)
    (tmp_path / "frame2.png").write_text("hello")
    with pytest.raises(VideoError, match=r"frame2\.png is not an image that can be read"):
        open_video(tmp_path)


def test_folder_rate_must_be_positive(tmp_path: Path):
    with pytest.raises(UsageError, match="more than 0, not 0"):
        open_video(tmp_path, folder_fps=0)
