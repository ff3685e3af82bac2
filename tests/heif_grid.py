"""A picture in tiles, as phones write HEIC: an image grid of ISO/IEC 23008-12, 6.6.2.3, box by box."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np

KINDS = {".heic": ("libx265", b"hvc1", b"hvcC", b"heic"), ".avif": ("libsvtav1", b"av01", b"av1C", b"avif")}


def write_grid(path: Path, rgb: np.ndarray, tile: int = 64) -> Path:
    """`rgb` (height, width, 3) in square tiles; the suffix says whether they are HEVC or AV1."""
    codec, item, configuration, brand = KINDS[path.suffix]
    height, width = rgb.shape[:2]
    rows, columns = -(-height // tile), -(-width // tile)
    padded = np.pad(rgb, ((0, rows * tile - height), (0, columns * tile - width), (0, 0)), mode="edge")
    corners = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
    tiles = [_encode(padded[y : y + tile, x : x + tile], codec) for y, x in corners]
    grid = struct.pack(">4B2H", 0, 0, rows - 1, columns - 1, width, height)
    coded = [grid, *(_cut(data, b"mdat")[8:] for data in tiles)]
    count = len(coded)
    ids = range(1, count + 1)  # item 1 is the grid, the others are its hidden tiles
    infos = [_full(b"infe", struct.pack(">2H4sx", i, 0, b"grid" if i == 1 else item), 2, i > 1) for i in ids]
    properties = _cut(tiles[0], configuration) + _size(width, height) + _size(tile, tile)
    used = [struct.pack(">HB", i, 1 if i == 1 else 2) + (b"\x02" if i == 1 else b"\x81\x03") for i in ids]

    def meta(base: int) -> bytes:
        starts = base + np.cumsum([0, *map(len, coded)])
        places = [struct.pack(">3H2I", i, 0, 1, starts[i - 1], len(coded[i - 1])) for i in ids]
        return _full(
            b"meta",
            _full(b"hdlr", struct.pack(">I4s13x", 0, b"pict"))
            + _full(b"pitm", struct.pack(">H", 1))
            + _full(b"iloc", struct.pack(">2BH", 0x44, 0, count) + b"".join(places))
            + _full(b"iinf", struct.pack(">H", count) + b"".join(infos))
            + _full(b"iref", _box(b"dimg", struct.pack(f">2H{count - 1}H", 1, count - 1, *ids[1:])))
            + _box(
                b"iprp", _box(b"ipco", properties) + _full(b"ipma", struct.pack(">I", count) + b"".join(used))
            ),
        )

    head = _box(b"ftyp", brand + bytes(4) + b"mif1" + brand)
    path.write_bytes(head + meta(len(head) + len(meta(0)) + 8) + _box(b"mdat", b"".join(coded)))
    return path


def _encode(rgb: np.ndarray, codec: str) -> bytes:
    """An mp4 of one frame: its boxes are cut out of it."""
    file = io.BytesIO()
    options = {"x265-params": "log-level=none", "crf": "10"}
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream(codec, rate=1, options=options)
        stream.height, stream.width, stream.pix_fmt = *rgb.shape[:2], "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        out.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()


def _cut(data: bytes, name: bytes) -> bytes:
    at = data.index(name) - 4
    return data[at : at + struct.unpack_from(">I", data, at)[0]]


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def _full(name: bytes, content: bytes, version: int = 0, flags: int = 0) -> bytes:
    return _box(name, struct.pack(">I", version << 24 | flags) + content)


def _size(width: int, height: int) -> bytes:
    return _full(b"ispe", struct.pack(">2I", width, height))
