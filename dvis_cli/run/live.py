"""A live source, from camera or stream to files, a pipe, or lines: each frame is decided when it comes.

source -> network -> decision of this frame alone -> folder, pipe, lines
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from dvis_cli.errors import UsageError
from dvis_cli.files import output_errors
from dvis_cli.structures import FinishedFrame, VideoInfo
from dvis_cli.video.live import LiveSource
from dvis_cli.writers.folder import check_target, safe_name
from dvis_cli.writers.frame_files import frame_files
from dvis_cli.writers.frame_pipe import FramePipe
from dvis_cli.writers.segments_json import measure_frame
from dvis_cli.writers.video_folder import VideoFolderWriter

from .model import DvisModel
from .options import LiveOptions, SegmentOptions
from .video import OnProgress, segment_video

PLAYERS = (
    ("mpv", "--no-cache", "--untimed", "-"),
    ("ffplay", "-fflags", "nobuffer", "-loglevel", "error", "-"),
)
PLAYER_ENDS = 2.0  # seconds that a player has to end by itself
Sink = Callable[[FinishedFrame], object]


def save_live(
    source: LiveSource,
    out: str,
    model: DvisModel,
    options: SegmentOptions,
    live: LiveOptions,
    on_frame: Callable[[int, float], None] = lambda frames, delay: None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Segment a live source until it ends, Ctrl-C or SIGTERM; files are complete then.

    Args:
        out: the folder in which the result's own is made; `-` writes the overlay to standard output instead.
        on_frame: called with the number of frames so far and the delay of the last in seconds.
        on_progress: as for `segment_video`.

    Returns:
        what segments.json holds without its frames (empty for `-`), and `live`: frames received, used and dropped,
        reconnections, and the delay from decoded to written in seconds.
    """
    options = live_options(options, model)
    video = segment_video(source, model, options, on_progress=on_progress)
    delays, document = Delays(), {}
    with ExitStack() as stack:
        stack.callback(video.close)
        sinks: list[Sink] = []
        writer = None
        if out == "-":
            pipe = FramePipe(
                sys.stdout.buffer, video.info, live.pipe_format, encoding=video.settings.encoding
            )
            sinks.append(stack.enter_context(pipe).add)
        else:
            target = Path(out) / safe_name(video.info.name)
            check_target(target, options.overwrite)
            files = frame_files(options.task, model.categories)
            writer = stack.enter_context(
                VideoFolderWriter(
                    target,
                    video.info,
                    options.outputs,
                    run=video.facts,
                    overwrite=options.overwrite,
                    files=files,
                    encoding=video.settings.encoding,
                )
            )
            sinks.append(writer.add)
        if live.display:
            sinks.append(stack.enter_context(_player(video.info)).add)
        if live.jsonl is not None:
            sinks.append(stack.enter_context(_lines(live.jsonl)))
        stack.enter_context(_stopping(source))
        for frame in video:
            for sink in sinks:
                sink(frame)
            delays.add(source.delay(frame.index))
            on_frame(frame.index + 1, delays.last)
        if writer is not None:
            document = writer.finish(video.segments)
    counts = source.counts
    return {
        **document,
        "live": {
            "frames": delays.count,
            "received": counts.received,
            "dropped": counts.dropped,
            "reconnected": counts.reconnected,
            "delay_seconds": delays.summary(),
        },
    }


def check_live(options: SegmentOptions) -> None:
    """Raise UsageError for an option that needs a film with an end."""
    for name in ("start", "end", "video_track", "format", "window", "horizon"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} is for films: a live source has no end to look at")
    if options.mode == "offline":
        raise UsageError("--mode offline looks into the future: a live source takes online or minvis")


def live_options(options: SegmentOptions, model: DvisModel) -> SegmentOptions:
    """The options with what a live source decides: one frame at a time, nothing of the future."""
    check_live(options)
    mode = options.mode or ("minvis" if model.tracker is None else "online")
    return replace(options, mode=mode, window=1, horizon=1, batch=1)


class Delays:
    """Seconds from a frame decoded to its result written: count, mean, least and most, without keeping them all."""

    def __init__(self) -> None:
        self.count, self.last, self._sum, self._least, self._most = 0, 0.0, 0.0, float("inf"), 0.0

    def add(self, seconds: float) -> None:
        """One more frame's."""
        self.count, self.last, self._sum = self.count + 1, seconds, self._sum + seconds
        self._least, self._most = min(self._least, seconds), max(self._most, seconds)

    def summary(self) -> dict[str, float] | None:
        """Rounded to milliseconds; None without frames."""
        if not self.count:
            return None
        found = {"mean": self._sum / self.count, "least": self._least, "most": self._most}
        return {name: round(seconds, 3) for name, seconds in found.items()}


@contextmanager
def _stopping(source: LiveSource) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the source, and with it everything in order; the second is as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        source.stop()
        signal.signal(number, before[number])

    before: dict[int, Any] = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _player(info: VideoInfo) -> Iterator[FramePipe]:
    """A window: a player that is installed shows what comes through its standard input."""
    command = next(((found, *player[1:]) for player in PLAYERS if (found := shutil.which(player[0]))), None)
    if command is None:
        names = " or ".join(player[0] for player in PLAYERS)
        raise UsageError(f"--display needs a player, {names}; or write to any other: -o - | PLAYER")
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    try:
        with FramePipe(process.stdin, info, "y4m", may_close=True) as pipe:
            yield pipe
    finally:
        with suppress(OSError):  # its window was closed
            process.stdin.close()
        try:
            process.wait(PLAYER_ENDS)
        except subprocess.TimeoutExpired:
            process.terminate()


@contextmanager
def _lines(name: str) -> Iterator[Sink]:
    """One line of JSON for each frame, to a file or to standard output (`-`)."""
    path = Path(name)
    with output_errors(path):
        file: IO[str] = sys.stdout if name == "-" else path.open("w", encoding="utf-8")

    def write(frame: FinishedFrame) -> None:
        with output_errors(path):
            file.write(json.dumps(frame_line(frame), ensure_ascii=False) + "\n")
            file.flush()

    try:
        yield write
    finally:
        if file is not sys.stdout:
            with output_errors(path):
                file.close()


def frame_line(frame: FinishedFrame) -> dict[str, Any]:
    """What `--jsonl` has of a frame."""
    rows = []
    for id, area, box in measure_frame(frame):
        segment = frame.segments[id]
        rows.append(
            {
                "id": id,
                "category_id": segment.category.id,
                "category": segment.category.name,
                "isthing": segment.category.isthing,
                "score": round(float(segment.score), 4),
                "area": area,
                "box": list(box),
            }
        )
    return {"frame": frame.index, "pts": round(frame.pts, 6), "segments": rows}
