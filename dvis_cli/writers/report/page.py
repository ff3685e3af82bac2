"""`report.html`: one page of a result that plays the film with its objects, from the disk, without a server."""

from __future__ import annotations

import base64
import json
import tempfile
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from dvis_cli.errors import OutputError
from dvis_cli.files import abandoned, as_utf8, atomic_open, atomic_path, output_errors, partial_path
from dvis_cli.structures import FinishedFrame, Segment, VideoInfo
from dvis_cli.writers.folder import REPORT_FILM, REPORT_PAGE, REPORT_THUMBNAIL
from dvis_cli.writers.html_page import fill_page
from dvis_cli.writers.instance_picture import SHOWN_FROM, shown_map
from dvis_cli.writers.overlay import draw_overlay
from dvis_cli.writers.overlay_video import OverlayVideo, tell
from dvis_cli.writers.palette import segment_color
from dvis_cli.writers.panoptic_png import relabel
from dvis_cli.writers.report.coding import LARGEST_LABEL, LEVELS, MapCoder
from dvis_cli.writers.video_encoder import DETERMINISTIC, Encoding

THUMBNAIL_SIDE = 320  # pixels, the longer one
_FILM_SIDE = 720  # pixels, the shorter one, at the most
_CHUNK_PIXELS = 32e6  # of the frames that a page reads to reach one in the middle
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"


class FilmVideo(OverlayVideo):
    """The frames as they are, each at its time, the first at 0: what the page plays.

    A copy, because only of our own file it is known which picture a browser shows at which time, whatever the source's
    format, turn, interlacing or stride. A full picture every 12 frames makes stepping back quick.
    """

    changes: Mapping[str, str] = {"crf": "25", "cq": "25", "g": "12"}

    def draw(self, frame: FinishedFrame) -> np.ndarray:
        height, width = frame.rgb.shape[:2]
        scale = _FILM_SIDE / min(height, width)
        if scale >= 1:
            return frame.rgb
        size = (round(width * scale), round(height * scale))
        return cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA)

    @property
    def plays_in_browsers(self) -> bool:
        """Whether this machine has an encoder for what browsers play."""
        return self._encoder is None or self._encoder.plays_in_browsers


class Film(NamedTuple):
    """What the page plays."""

    name: str | None  # beside the page
    kind: str  # "copy" of the frames, "overlay": the segments are drawn on it, or "none"


NO_FILM = Film(None, "none")


@dataclass
class _Seen:
    """Where a segment is seen, and how large: frame indices and pixels."""

    segment: Segment
    frames: array[int]
    areas: array[int]


class ReportPage:
    """Takes the frames of a video one by one, then writes the page; memory: 12 bytes for a segment in a frame.

    Args:
        folder: where `report.html` goes, and with it `report.mp4` and `report.jpg`; it exists.
        info: the source.
        run: how the result was made, the top level of segments.json.
        film: what the page plays; None: a copy that is made of the frames.
        audio_from: the file whose sound the copy keeps.
        warn: told of sound that is left out.
        shown_from: of instances: the least score of what is shown.
        encoding: on what the copy is encoded.

    Raises:
        OutputError: from all methods: a file cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        info: VideoInfo,
        run: Mapping[str, Any],
        *,
        film: Film | None = None,
        audio_from: Path | None = None,
        warn: Callable[[str], None] = tell,
        shown_from: float = SHOWN_FROM,
        encoding: Encoding = DETERMINISTIC,
    ) -> None:
        self._folder, self._info, self._run, self._shown_from = folder, info, run, shown_from
        self._film, self._warn = film, warn
        self._copy: FilmVideo | None = None
        if film is None:
            for stray in abandoned(folder / REPORT_FILM, "partial"):
                stray.unlink(missing_ok=True)
            path = partial_path(folder / REPORT_FILM)
            self._copy = FilmVideo(path, info, audio_from=audio_from, warn=warn, encoding=encoding)
        self._chunk_frames = max(8, min(32, int(_CHUNK_PIXELS / (info.width * info.height))))
        self._coder = MapCoder(info.height, info.width, self._chunk_frames)
        self._maps: IO[str] = tempfile.TemporaryFile("w+", encoding="ascii")  # noqa: SIM115 - closed by finish or abort
        self._chunks = 0
        self._pts = array("d")
        self._seen: dict[int, _Seen] = {}  # by id, in the order of labels 1, 2, ...
        self._thumbnail: np.ndarray | None = None
        self._most = -1  # objects in the thumbnail

    def add(self, frame: FinishedFrame) -> None:
        """Take one frame; frames come in order."""
        ids, segments = shown_map(frame, self._shown_from)
        labels = self._label(ids, segments)
        with output_errors(self._folder / REPORT_PAGE):
            self._keep(self._coder.add(labels))
        number = len(self._pts)
        self._pts.append(frame.pts)
        areas = np.bincount(labels.ravel(), minlength=len(self._seen) + 1)
        for seen, area in zip(self._seen.values(), areas[1:].tolist(), strict=True):
            if area:
                seen.frames.append(number)
                seen.areas.append(area)
        things = sum(1 for segment in segments.values() if segment.category.isthing)
        if things > self._most:
            self._most, self._thumbnail = things, _thumbnail(frame.rgb, ids, segments)
        if self._copy is not None:
            self._copy.add(frame)

    def finish(self, scores: Mapping[int, float] | None = None) -> None:
        """Write the page. `scores`: of all segments, where they have changed since their frames."""
        if self._copy is not None:
            if not self._copy.plays_in_browsers:
                self._warn(
                    f"{REPORT_FILM} is MPEG-4, which browsers do not play: this machine has no encoder for H.264"
                )
            self._copy.close()
            self._film = Film(REPORT_FILM, "copy") if self._pts else NO_FILM
            if self._pts:
                with output_errors(self._folder / REPORT_FILM):
                    self._copy.path.replace(self._folder / REPORT_FILM)
        with output_errors(self._folder / REPORT_PAGE):
            self._keep(self._coder.flush())
            if self._thumbnail is not None:
                with atomic_path(self._folder / REPORT_THUMBNAIL) as partial:
                    Image.fromarray(self._thumbnail).save(partial, "JPEG", quality=82)
        _write_page(self._folder / REPORT_PAGE, self._document(scores or {}), self._maps, self._chunks)
        self._maps.close()

    def abort(self) -> None:
        """Let go of everything. Never raises."""
        if self._copy is not None:
            self._copy.abort()
        self._maps.close()

    def _label(self, ids: np.ndarray, segments: Mapping[int, Segment]) -> np.ndarray:
        """Ids as small numbers, the same in all frames: (height, width) uint16."""
        for id, segment in segments.items():
            if id not in self._seen and id > 0:
                self._seen[id] = _Seen(segment, array("L"), array("L"))
        if len(self._seen) > LARGEST_LABEL:
            raise OutputError(
                f"{self._info.name} has more than {LARGEST_LABEL} segments: no page can show it"
            )
        rows = {id: row for row, id in enumerate(self._seen, start=1)}
        return relabel(ids, {id: rows[id] for id in segments if id > 0}, np.uint16)

    def _keep(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            self._maps.write(base64.b64encode(chunk).decode("ascii") + "\n")
            self._chunks += 1

    def _document(self, scores: Mapping[int, float]) -> dict[str, Any]:
        info, task, start = self._info, self._run.get("task", "panoptic"), self._pts[0] if self._pts else 0.0
        film = self._film or NO_FILM
        model = self._run.get("model") or {}
        facts = [
            f"{info.width} \u00d7 {info.height}", f"{info.fps:.4g} frames/s", f"{len(self._pts)} frames",
            *(str(one) for one in (model.get("name"), self._run.get("mode"), task) if one),
        ]  # fmt: skip
        note = f"Made by dvis {self._run.get('dvis_version', '')}. ".replace(" .", ".")
        if task == "instance":
            note += f"Masks overlap: a pixel shows the likeliest thing, of scores from {self._shown_from:g}."
        return {
            "name": as_utf8(info.name),
            "width": info.width,
            "height": info.height,
            "fps": info.fps,
            "start": round(start, 6),
            "times": [round(pts - start, 6) for pts in self._pts],
            "facts": " · ".join(facts),
            "note": note,
            "film": film.name,
            "film_kind": film.kind,
            "has_audio": info.has_audio and film.name is not None,
            "chunk_frames": self._chunk_frames,
            "levels": LEVELS.tolist(),
            "segments": [_row(one, task, scores) for one in self._seen.values()],
        }


def _row(seen: _Seen, task: str, scores: Mapping[int, float]) -> dict[str, Any]:
    """A segment as the page has it; of classes, `id` is the value in the PNG, and no number is shown."""
    segment, frames, largest = seen.segment, seen.frames, max(seen.areas, default=1)
    heights = ["0"] * (frames[-1] - frames[0] + 1 if frames else 0)
    for frame, area in zip(frames, seen.areas, strict=True):
        heights[frame - frames[0]] = _DIGITS[1 + round(62 * (area / largest) ** 0.5)]
    return {
        "id": segment.category.id if task == "semantic" else segment.id,
        "name": segment.category.name,
        "thing": segment.category.isthing,
        "numbered": task != "semantic",
        "color": segment_color(segment),
        "score": round(float(scores.get(segment.id, segment.score)), 4),
        "seen": len(frames),
        "first": frames[0] if frames else 0,
        "last": frames[-1] if frames else 0,
        "area": sum(seen.areas),
        "areas": "".join(heights),  # a digit a frame: 0 is not seen, 63 the largest; of their roots
    }


def _write_page(path: Path, document: Mapping[str, Any], maps: IO[str], chunks: int) -> None:
    # Nothing is fetched but the film.
    filled = fill_page(
        Path(__file__).with_name("page.html"),
        ("maps.js", "picture.js", "page.js", "table.js"),
        json.dumps(document, ensure_ascii=False, separators=(",", ":")),
        "media-src 'self' file: blob:; ",
        TITLE=escape(document["name"]),
        MAPS="\0",
    )
    before, after = filled.split("\0")
    with atomic_open(path) as file:
        file.write(before)
        maps.seek(0)
        for number in range(chunks):
            file.write(f'<script type="text/plain" id="maps-{number}">{maps.readline().strip()}</script>\n')
        file.write(after)


def _thumbnail(rgb: np.ndarray, ids: np.ndarray, segments: dict[int, Segment]) -> np.ndarray:
    """The overlay in small, without names."""
    scale = min(1.0, THUMBNAIL_SIDE / max(ids.shape))
    size = (max(1, round(ids.shape[1] * scale)), max(1, round(ids.shape[0] * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    rows = np.minimum((np.arange(size[1]) / scale).astype(int), ids.shape[0] - 1)
    columns = np.minimum((np.arange(size[0]) / scale).astype(int), ids.shape[1] - 1)
    return draw_overlay(small, ids[np.ix_(rows, columns)], segments, labelled=False)
