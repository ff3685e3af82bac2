"""A small result with a report page: a person and a car over a road, in 30 frames of uneven times."""

from __future__ import annotations

import base64
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
from report_reader import read_chunk

from dvis_cli.structures import Category, PanopticFrame, Segment, VideoInfo
from dvis_cli.writers.video_folder import Outputs, VideoFolderWriter

HEIGHT, WIDTH, FRAMES = 90, 160, 30
HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=2'>&amp;\u2028$name"
SEGMENTS = {
    3: Segment(3, Category(18, "road", False, (140, 140, 140)), 0.9),
    7: Segment(7, Category(60, HOSTILE, True, (9, 9, 9)), 0.8),
    300: Segment(300, Category(61, "person", True, (9, 9, 9)), 0.7),
}


def ids_of(index: int) -> np.ndarray:
    """Void above, road below; 7 walks to the right, 300 stands and is away in frames 10 to 19."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ids = np.where(y > 30 + 3 * np.sin(x / 9), 3, 0)
    ids[((x - 20 - 3 * index) / 12) ** 2 + ((y - 50) / 25) ** 2 < 1] = 7
    if not 10 <= index < 20:
        ids[((x - 120) / 10) ** 2 + ((y - 60) / 14) ** 2 < 1] = 300
    return ids.astype(np.int32)


def pts_of(index: int) -> float:
    """Times of a film whose rate changes."""
    return 5.0 + index * 0.1 + (index // 10) * 0.07


def frame_of(index: int) -> PanopticFrame:
    """Its grey tells its number."""
    ids = ids_of(index)
    rgb = np.full((HEIGHT, WIDTH, 3), 20 + 7 * index, np.uint8)
    present = {id: SEGMENTS[id] for id in SEGMENTS if (ids == id).any()}
    return PanopticFrame(index, pts_of(index), rgb, ids, present)


def make_result(folder: Path, name: str = "clip", **outputs: Any) -> Path:
    """Write the result, with its page."""
    info = VideoInfo(name, "gone.mp4", WIDTH, HEIGHT, 9.5, None, None, False, pts_of(0))
    run = {"task": "panoptic", "mode": "offline", "model": {"name": "tiny"}}
    chosen = Outputs(**{"overlay": None, "report": True, **outputs})
    with VideoFolderWriter(folder, info, chosen, run=run) as writer:
        for index in range(FRAMES):
            writer.add(frame_of(index))
        writer.finish(list(SEGMENTS.values()))
    return folder


def data_of(page: str) -> dict[str, Any]:
    """The JSON in a page."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def ids_in(page: str) -> list[np.ndarray]:
    """The maps in a page, as ids."""
    data = data_of(page)
    table = np.array([0, *(segment["id"] for segment in data["segments"])])
    maps: list[np.ndarray] = []
    for text in re.findall(r'<script type="text/plain" id="maps-\d+">([^<]*)</script>', page):
        frames = min(data["chunk_frames"], len(data["times"]) - len(maps))
        maps += read_chunk(base64.b64decode(text), frames, data["height"], data["width"])
    return [table[labels] for labels in maps]


def title_of(page: str) -> str:
    return unescape(re.findall("<title>(.*?)</title>", page, re.DOTALL)[0])
