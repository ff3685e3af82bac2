"""Senders of live video for the tests: UDP over loopback, a small RTSP server, and pipes."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
from media import number_frames

SIZE = (48, 64)  # height, width


def free_port() -> int:
    """A UDP and TCP port of this machine that nobody uses, even as RTP wants them."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port % 2 == 0:
            return port


def encode(kind: str, frames: list[np.ndarray], fps: float = 10.0) -> bytes:
    """A whole stream as it would come through a pipe: mpegts, yuv4mpegpipe or matroska."""
    buffer = BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        raw = kind == "yuv4mpegpipe"
        stream = container.add_stream(
            "rawvideo" if raw else "libx264", rate=Fraction(fps).limit_denominator(1000)
        )
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        if not raw:
            stream.options = {"preset": "ultrafast", "tune": "zerolatency"}
        for frame in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p"))
            )
        container.mux(stream.encode(None))
    return buffer.getvalue()


def push(
    address: str, kind: str, seconds: float, fps: float = 10.0, stop: threading.Event | None = None
) -> int:
    """Send numbered frames at their times; the number of frames sent. Every second frame is a key frame."""
    count = 0
    with av.open(address, "w", format=kind) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "2", "repeat-headers": "1"}
        pictures, began = number_frames(40, *SIZE), time.monotonic()
        while count < seconds * fps and not (stop is not None and stop.is_set()):
            picture = av.VideoFrame.from_ndarray(pictures[count % 40], format="rgb24").reformat(
                format="yuv420p"
            )
            container.mux(stream.encode(picture))
            count += 1
            time.sleep(max(0.0, began + count / fps - time.monotonic()))
    return count


class RtspServer:
    """One film after the other to one client at a time: OPTIONS, DESCRIBE, SETUP over UDP, PLAY, TEARDOWN."""

    def __init__(self, seconds: float, fps: float = 10.0) -> None:
        self.seconds, self.fps, self.played = seconds, fps, 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"rtsp://127.0.0.1:{self._socket.getsockname()[1]}/film"
        self._stop = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._stop.set()
        self._socket.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            with suppress(OSError):
                client, _ = self._socket.accept()
                with client:
                    self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        port, reader = 0, client.makefile("rb")
        while request := reader.readline().decode().strip():
            headers = {}
            while line := reader.readline().decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            method, answer, body = request.split()[0], ["RTSP/1.0 200 OK"], ""
            if method == "DESCRIBE":
                body = (
                    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=film\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
                    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n"
                    "a=control:track1\r\n"
                )
                answer.append("Content-Type: application/sdp")
            if method == "SETUP":
                ports = re.search(r"client_port=(\d+)-(\d+)", headers.get("transport", ""))
                if ports is None:
                    answer = ["RTSP/1.0 461 Unsupported Transport"]
                else:
                    port = int(ports[1])
                    answer.append(
                        f"Transport: RTP/AVP;unicast;client_port={ports[1]}-{ports[2]};server_port=6970-6971"
                    )
            answer += [f"CSeq: {headers.get('cseq', 0)}", "Session: 12345678", f"Content-Length: {len(body)}"]
            client.sendall(("\r\n".join(answer) + "\r\n\r\n" + body).encode())
            if method == "PLAY":
                push(f"rtp://127.0.0.1:{port}", "rtp", self.seconds, self.fps, self._stop)
                self.played += 1
                return  # the connection breaks off
            if method == "TEARDOWN":
                return


@contextmanager
def udp_with_a_break(seconds: float, pause: float, fps: float = 10.0) -> Iterator[str]:
    """An address to which a film is sent twice, with a pause between."""
    port, stop = free_port(), threading.Event()

    def send() -> None:
        for _ in range(2):
            push(f"udp://127.0.0.1:{port}?pkt_size=1316", "mpegts", seconds, fps, stop)
            stop.wait(pause)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield f"udp://127.0.0.1:{port}"
    finally:
        stop.set()
        thread.join()


class PipedStdin:
    """What `sys.stdin` is where `data` comes through a pipe: it can be read, and nothing else."""

    def __init__(self, data: bytes) -> None:
        self.buffer, self._data = self, BytesIO(data)
        self.read = self._data.read
