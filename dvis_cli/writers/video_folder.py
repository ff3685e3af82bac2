"""All outputs of one video, written beside the work that makes them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvis_cli.errors import DvisWarning, UsageError
from dvis_cli.structures import FinishedFrame, PanopticFrame, Segment, VideoInfo
from dvis_cli.threads import BoundedThread
from dvis_cli.writers.folder import AtomicFolder
from dvis_cli.writers.frame_files import FrameFiles
from dvis_cli.writers.instance_picture import SHOWN_FROM
from dvis_cli.writers.overlay import OVERLAY_STYLES
from dvis_cli.writers.overlay_video import OverlayVideo
from dvis_cli.writers.report import ReportPage
from dvis_cli.writers.segments_json import SegmentStatistics, segments_document, without_frames, write_json
from dvis_cli.writers.soft_edges import SOFT_FOLDER, write_soft
from dvis_cli.writers.video_encoder import DETERMINISTIC, Encoding


@dataclass(frozen=True)
class Outputs:
    """What to write for a video."""

    panoptic: bool = True  # the maps: panoptic/000000.png ..., semantic/000000.png ... or masks.jsonl
    segments: bool = True  # segments.json
    overlay: str | None = "blend"  # overlay.mp4 in this style; None = off
    report: bool = False  # report.html, and the film it plays

    def __post_init__(self) -> None:
        if self.overlay is not None and self.overlay not in OVERLAY_STYLES:
            raise UsageError(f"overlay style {self.overlay!r} not known; styles: {', '.join(OVERLAY_STYLES)}")


class VideoFolderWriter:
    """Context manager for `OUT/<name>/`: hand it frames, then `finish`; it appears whole or not at all.

    Maps (with the statistics) are made by one thread, the overlay by two: one draws, one encodes. A frame waits in
    bounded queues until all have had it, so a slow disk slows the caller down and memory stays flat. Frames must not be
    changed after they were handed over. Leaving the block without `finish` removes everything.

    Args:
        target: the folder to make.
        info: the source.
        outputs: which files.
        run: how the result was made, for the top level of segments.json: `model`, `mode`, `task`, ...
        overwrite: replace an existing folder of results.
        audio_from: the file whose sound the overlay keeps.
        queue_frames: frames that may wait, 1 or more.
        files: what is written of a frame; None is panoptic PNGs.
        shown_from: of instances: the least score of what the overlay shows.
        finishing: called with the folder when all is in it, before it gets its name.
        encoding: on what videos are encoded.

    Raises:
        OutputError: on entry, the target cannot be written (see `check_target`).
    """

    def __init__(
        self,
        target: Path,
        info: VideoInfo,
        outputs: Outputs,
        *,
        run: Mapping[str, Any],
        overwrite: bool = False,
        audio_from: Path | None = None,
        queue_frames: int = 8,
        files: FrameFiles | None = None,
        shown_from: float = SHOWN_FROM,
        finishing: Callable[[Path], object] | None = None,
        encoding: Encoding = DETERMINISTIC,
    ) -> None:
        self._folder, self._finishing = AtomicFolder(target, overwrite), finishing
        self._info, self._outputs, self._run = info, outputs, run
        self._audio_from, self._queue_frames, self._shown_from = audio_from, queue_frames, shown_from
        self._files, self._statistics, self._encoding = files or FrameFiles(), SegmentStatistics(), encoding
        self._overlay: OverlayVideo | None = None
        self._report: ReportPage | None = None
        self._takers: list[BoundedThread[FinishedFrame]] = []
        self._workers: list[BoundedThread[Any]] = []  # those, and who works for them, after them
        self._warnings: list[str] = []
        self._done = False

    def __enter__(self) -> VideoFolderWriter:
        self._folder.__enter__()
        try:
            if self._outputs.panoptic:
                self._files.open(self._folder.path)
            self._takers.append(BoundedThread("maps", self._write_frame, self._queue_frames))
            self._workers += self._takers
            if self._outputs.overlay is not None:
                path = self._folder.path / "overlay.mp4"
                style: Any = self._outputs.overlay
                self._overlay = OverlayVideo(
                    path,
                    self._info,
                    style,
                    self._audio_from,
                    self._warnings.append,
                    numbered=self._run.get("task") != "semantic",  # there, an id is a class
                    shown_from=self._shown_from,
                    encoding=self._encoding,
                )
                self._start_overlay(self._overlay)
            if self._outputs.report:
                told = self._overlay is not None  # of the sound
                self._report = ReportPage(
                    self._folder.path,
                    self._info,
                    self._run,
                    audio_from=self._audio_from,
                    warn=(lambda text: None) if told else self._warnings.append,
                    shown_from=self._shown_from,
                    encoding=self._encoding,
                )
                self._takers.append(BoundedThread("report", self._report.add, self._queue_frames))
                self._workers.append(self._takers[-1])
        except BaseException:
            self._abort()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if not self._done:
            self._abort()

    def add(self, frame: FinishedFrame) -> None:
        """Hand one frame over; frames come in order.

        Raises:
            OutputError: a file could not be written; of this frame or, found out now, of an earlier one.
        """
        for taker in self._takers:
            taker.put(frame)
        self._pass_on_warnings()

    def finish(self, segments: list[Segment]) -> dict[str, Any]:
        """Complete all files, give the folder its name, and return what segments.json holds, without its frames.

        Args:
            segments: all segments of the video, with their final scores.

        Raises:
            OutputError: a file could not be written; nothing is left behind then.
        """
        for worker in self._workers:
            worker.finish()
        encoder = self._overlay and self._overlay.encoder
        run = {**self._run, "encoder": encoder} if encoder else self._run
        document = segments_document(self._info, segments, self._statistics, run, pngs=self._outputs.panoptic)
        self._files.close()
        if self._overlay is not None:
            self._overlay.close()
        if self._report is not None:
            self._report.finish({segment.id: segment.score for segment in segments})
        if self._outputs.segments:
            write_json(self._folder.path / "segments.json", document)
        if self._finishing is not None:
            self._finishing(self._folder.path)
        shutil.rmtree(self._folder.path / SOFT_FOLDER, ignore_errors=True)
        self._folder.commit()
        self._done = True
        self._pass_on_warnings()
        return without_frames(document)

    def _start_overlay(self, overlay: OverlayVideo) -> None:
        encoding = BoundedThread[Any]("encode", lambda drawn: overlay.encode(*drawn), 2)
        drawing = BoundedThread[FinishedFrame](
            "overlay", lambda frame: encoding.put((overlay.draw(frame), frame.pts)), self._queue_frames
        )
        self._takers.append(drawing)
        self._workers += (drawing, encoding)

    def _write_frame(self, frame: FinishedFrame) -> None:
        if self._outputs.panoptic:
            self._files.add(frame)
        if isinstance(frame, PanopticFrame) and frame.soft is not None:
            write_soft(self._folder.path / SOFT_FOLDER, frame.index, frame.soft)
        self._statistics.add(frame)

    def _pass_on_warnings(self) -> None:
        # Raised here and not in the worker: a warning filter of the caller's thread may make it an error.
        while self._warnings:
            warnings.warn(self._warnings.pop(0), DvisWarning, stacklevel=3)

    def _abort(self) -> None:
        for worker in self._workers:
            worker.cancel()
        for made in (self._files, self._overlay, self._report):
            if made is not None:
                made.abort()
        self._folder.discard()
        self._done = True
