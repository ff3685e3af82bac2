"""Cameras, streams and pipes: what comes is used or counted, breaks are survived, and the delay does not grow."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from io import BytesIO, TextIOWrapper
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from live_media import SIZE, PipedStdin, RtspServer, encode, free_port, udp_with_a_break
from media import moving_squares, number_frames, read_number

from dvis_cli.cli.console import print_json
from dvis_cli.errors import DvisWarning, OutputError, UsageError, VideoError
from dvis_cli.run.live import Delays, check_live
from dvis_cli.run.options import SegmentOptions
from dvis_cli.structures import PanopticFrame, VideoInfo
from dvis_cli.video import live
from dvis_cli.video.live import LiveSource, shown_address
from dvis_cli.video.names import is_live
from dvis_cli.writers.frame_pipe import FramePipe

PIPES = ("mpegts", "yuv4mpegpipe", "matroska")


def test_live_sources_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("0", "12", "-", "rtsp://cam/1", "udp://:5000", "RTSP://cam"):
        assert is_live(name)
    for name in ("film.mp4", "https://a/b.mp4", "s3://b/c", "2026", "rtsp"):
        assert not is_live(name)
    (tmp_path / "0").mkdir()
    assert not is_live("0")  # a folder of that name goes first
    assert shown_address("rtsp://me:secret@cam/1") == "rtsp://me:...@cam/1"


@pytest.mark.parametrize("kind", PIPES)
def test_a_pipe_keeps_every_frame(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", PipedStdin(encode(kind, number_frames(25, *SIZE))))
    source = LiveSource("-")
    assert (source.info.height, source.info.width, source.info.name) == (*SIZE, "stdin")
    frames = []
    for frame in source:
        time.sleep(0.005)  # more slowly than they come
        frames.append(frame)
        assert source.delay(frame.index) >= 0.005
    assert [read_number(frame.rgb) for frame in frames] == list(range(25))
    assert [frame.pts for frame in frames] == pytest.approx(
        [n / 10 for n in range(25)], abs=0.02 + frames[0].pts
    )
    assert (source.counts.received, source.counts.dropped) == (25, 0) and not source.arrived


def test_what_came_through_a_pipe_is_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "wb", buffering=0) as writer:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=reader))
        frames = number_frames(4, *SIZE)
        writer.write(encode("yuv4mpegpipe", frames))
        patience = threading.Timer(5.0, writer.close)  # while it is open there could be more
        patience.start()
        try:
            source = LiveSource("-", max_frames=len(frames))
            assert len(list(source)) == len(frames) and not writer.closed
        finally:
            patience.cancel()


def test_who_is_slow_gets_the_newest_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", PipedStdin(encode("mpegts", number_frames(40, *SIZE))))
    source, seen = LiveSource("-", realtime=True), []
    with pytest.warns(DvisWarning, match="frames were dropped to keep up"):
        for frame in source:
            seen.append(read_number(frame.rgb))
            while source.counts.received < 40:
                time.sleep(0.01)
    assert seen == sorted(seen) and seen[-1] == 39 and len(seen) <= 3
    assert source.counts.received == 40 and source.counts.dropped == 40 - len(seen)


def test_every_and_max_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", PipedStdin(encode("mpegts", number_frames(30, *SIZE))))
    source = LiveSource("-", every=3, max_frames=4)
    assert [read_number(frame.rgb) for frame in source] == [0, 3, 6, 9]


def test_a_stream_that_stays_away_ends(tmp_path: Path) -> None:
    server = RtspServer(0.8)
    try:
        source = LiveSource(server.address, patience=0.0)
        with pytest.warns(DvisWarning, match="it ended: no frame came for 0 s"):
            assert len(list(source)) >= 1
    finally:
        server.close()


def test_udp_with_a_break_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SILENCE", 0.5)
    with udp_with_a_break(2.0, 1.5) as address:
        source = LiveSource(address, realtime=False, patience=3.0)
        frames = []
        with pytest.warns(DvisWarning, match=r"opened again \d+ times"):
            frames.extend((frame.pts, read_number(frame.rgb)) for frame in source)
    times = [pts for pts, _ in frames]
    assert times == sorted(times) and len(set(times)) == len(times)
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) > 1.0  # the break is a break in the times, too
    assert len(frames) >= 6 and source.counts.reconnected >= 1
    assert source.info.name.startswith("udp-127.0.0.1-")


def test_rtsp_breaks_off_and_is_opened_again() -> None:
    server = RtspServer(1.5)
    try:
        source = LiveSource(server.address, realtime=False, max_frames=20, patience=10.0)
        with pytest.warns(DvisWarning, match="opened again"):
            numbers = [read_number(frame.rgb) for frame in source]
    finally:
        server.close()
    assert len(numbers) == 20 and server.played >= 1 and source.counts.reconnected >= 1


def test_a_stream_that_is_not_there_is_one_line() -> None:
    with pytest.raises(VideoError, match=r"tcp://127.0.0.1:\d+ cannot be opened"):
        LiveSource(f"tcp://127.0.0.1:{free_port()}", patience=0)
    with pytest.raises(VideoError, match="camera 93 cannot be opened"):
        LiveSource("93", patience=0)


def test_a_list_of_files_in_a_pipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.ts"
    secret.write_bytes(encode("mpegts", number_frames(5, *SIZE)))
    listed = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"
    monkeypatch.setattr(sys, "stdin", PipedStdin(listed.encode()))
    with pytest.raises(VideoError):
        LiveSource("-")
    monkeypatch.setattr(sys, "stdin", PipedStdin(b"noise" * 99))
    with pytest.raises(VideoError, match="it must be MPEG-TS"):
        LiveSource("-")


@pytest.mark.parametrize("name", ["start", "end", "window", "horizon", "format"])
def test_options_that_need_an_end_are_refused(name: str) -> None:
    value = {"format": ("csv",), "start": 1.0, "end": 5.0}.get(name, 400)
    with pytest.raises(UsageError, match=f"--{name} is for films"):
        check_live(SegmentOptions(**{name: value}))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="future"):
        check_live(SegmentOptions(mode="offline"))


def test_delays_are_summed_up() -> None:
    delays = Delays()
    assert delays.summary() is None
    for seconds in (0.2, 0.1, 0.3):
        delays.add(seconds)
    assert delays.summary() == {"mean": 0.2, "least": 0.1, "most": 0.3} and delays.last == 0.3


def test_a_pipe_becomes_a_result_and_lines(dvis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", PipedStdin(encode("mpegts", moving_squares(6, *SIZE))))
    code, out, err = dvis("segment", "-", "-o", tmp_path / "out", "--jsonl", "-", "--score-threshold", "0",
                          "--overlap-threshold", "0")  # fmt: skip
    assert code == 0, err
    assert "each frame is decided when it comes" in err and "all frames are kept" in err
    lines = [json.loads(line) for line in out.splitlines()]
    document = json.loads((tmp_path / "out" / "stdin" / "segments.json").read_text())
    assert [line["frame"] for line in lines] == list(range(6)) == [one["index"] for one in document["frames"]]
    assert document["horizon"] == 1 and document["mode"] == "online"
    want = {(f["frame"], s["id"], f["area"]) for s in document["segments"] for f in s["frames"]}
    assert {(line["frame"], s["id"], s["area"]) for line in lines for s in line["segments"]} == want and want
    assert len(list((tmp_path / "out" / "stdin" / "panoptic").iterdir())) == 6


def test_results_that_cannot_be_written_are_one_line(
    dvis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {tmp_path / "no" / "x": "No such file"}
    if Path("/dev/full").exists():
        lines[Path("/dev/full")] = "no space left"
    for path, why in lines.items():
        monkeypatch.setattr(sys, "stdin", PipedStdin(encode("mpegts", moving_squares(3, *SIZE))))
        code, _, err = dvis("segment", "-", "-o", tmp_path / "out", "--jsonl", path, "-q")
        assert code == 1 and err.startswith(f"error: cannot write {path}: {why}") and err.count("\n") == 1

    class Full(BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left")

    info = VideoInfo("x", "-", SIZE[1], SIZE[0], 10.0, None, None, False)
    frame = PanopticFrame(0, 0.0, np.zeros((*SIZE, 3), np.uint8), np.zeros(SIZE, np.int32), {})
    with (
        pytest.raises(OutputError, match=r"cannot be written: .*No space left"),
        FramePipe(Full(), info, "y4m") as pipe,
    ):
        pipe.add(frame)
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(Full()))
    with pytest.raises(OutputError, match="cannot write standard output: no space left"):
        print_json({})


@pytest.mark.parametrize("kind", ["mpegts", "y4m"])
def test_frames_leave_through_a_pipe(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dvis_cli", "segment", "-", "-o", "-", "-q", "--pipe-format", kind]
    done = subprocess.run(
        command,
        input=encode("matroska", moving_squares(4, *SIZE)),
        capture_output=True,
        check=False,
        env={**os.environ, "DVIS_MODEL": "tiny"},
    )
    assert done.returncode == 0, done.stderr.decode()
    (tmp_path / "pipe").write_bytes(done.stdout)
    with av.open(str(tmp_path / "pipe")) as container:
        assert container.format.name == {"y4m": "yuv4mpegpipe"}.get(kind, kind)
        pictures = list(container.decode(video=0))
    assert [(one.width, one.height) for one in pictures] == [(SIZE[1], SIZE[0])] * 4
    assert [one.time - pictures[0].time for one in pictures] == pytest.approx([0, 0.1, 0.2, 0.3], abs=0.01)


def test_a_player_shows_the_frames(dvis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", PipedStdin(encode("mpegts", moving_squares(3, *SIZE))))
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = dvis("segment", "-", "-o", tmp_path / "a", "--display", "-q")
    assert code == 2 and "--display needs a player, mpv or ffplay" in err and not (tmp_path / "a").exists()
    player = tmp_path / "mpv"
    player.write_text(f"#!/bin/sh\nexec /bin/cat > {tmp_path}/shown\n")
    player.chmod(0o755)
    monkeypatch.setattr(sys, "stdin", PipedStdin(encode("mpegts", moving_squares(3, *SIZE))))
    code, _, err = dvis("segment", "-", "-o", tmp_path / "a", "--display", "-q")
    assert code == 0, err
    with av.open(str(tmp_path / "shown")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_files(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-m", "dvis_cli", "segment", "-", "-o", "out", "--jsonl", "-", "--json"]
    assert (
        subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 2
    )  # both to stdout
    process = subprocess.Popen(
        command[:-1],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "DVIS_MODEL": "tiny"},
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(encode("mpegts", moving_squares(60, *SIZE)))
    process.stdin.flush()  # and it stays open: there could be more
    for _ in range(3):
        assert process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()
    document = json.loads((tmp_path / "out" / "stdin" / "segments.json").read_text())
    assert 3 <= len(document["frames"]) == 3 + len(out.splitlines())
    with av.open(str(tmp_path / "out" / "stdin" / "overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == len(document["frames"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["film.mp4", "--jsonl", "x"], "no camera, stream or pipe"),
        (["-", "film.mp4"], "it comes alone"),
        (["udp://127.0.0.1:9", "--start", "3"], "--start is for films"),
    ],
)
def test_what_does_not_go_together_is_one_line(dvis, arguments: list[str], message: str) -> None:
    code, _, err = dvis("segment", *arguments)
    assert code == 2 and message in err and err.count("\n") == 1
