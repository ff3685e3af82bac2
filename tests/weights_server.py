"""A server of this machine that behaves like the hub and like a plain file server, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from dvis_cli.checkpoints.installed import installed

DATA = bytes(range(256)) * 4000  # 1 MB
SHA = hashlib.sha256(DATA).hexdigest()
REPO = "someone/models"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Served:
    """One path."""

    data: bytes
    cuts: list[int] = field(default_factory=list)  # of each GET in turn: hang up after so many bytes
    statuses: list[int] = field(default_factory=list)  # of each request in turn, before it works
    redirect: str | None = None
    claims: int | None = None  # Content-Length that is said
    etag: bool = True
    ranges: bool = True
    pause: float = 0.0  # seconds between pieces
    piece: int = 2**16
    gate: threading.Event | None = None  # the second piece waits for it
    sha256: str | None = None  # what the hub's index says; None: the true one


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # Hanging up is what it is for.
    handle_error = staticmethod(lambda *_: None)  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Served] = {}
        self.repositories: dict[str, dict[str, str]] = {}  # repo -> path in it -> path in `files`
        self.index_statuses: list[int] = []
        self.requests: list[Request] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, path: str, data: bytes, **faults: Any) -> str:
        self.files[path] = Served(data, **faults)
        return self.address + path

    def repository(self, repo: str, files: dict[str, bytes], **faults: Any) -> None:
        for name, data in files.items():
            self.put(f"/{repo}/resolve/{COMMIT}/{name}", data, **faults)
        self.repositories[repo] = {name: f"/{repo}/resolve/{COMMIT}/{name}" for name in files}

    def gets(self, path: str) -> list[Request]:
        return [one for one in self.requests if one.method == "GET" and one.path == path]


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_CONNECT(self) -> None:  # as a proxy
        self.server.requests.append(Request("CONNECT", self.path, dict(self.headers)))
        self._short(502)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0].replace("%2B", "+")
        self.server.requests.append(Request(self.command, path, dict(self.headers)))
        index = re.fullmatch(r"/api/models/([^/]+/[^/]+)", path)
        if index:
            return self._index(index[1])
        served = self.server.files.get(path)
        if served is None:
            return self._short(404)
        if served.statuses:
            status = served.statuses.pop(0)
            if status != 200:
                return self._short(status)
        if served.redirect:
            self.send_response(302)
            self.send_header("Location", served.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        return self._file(served)

    def _short(self, status: int) -> None:
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _index(self, repo: str) -> None:
        if self.server.index_statuses:
            return self._short(self.server.index_statuses.pop(0))
        if repo not in self.server.repositories:
            return self._short(404)
        siblings = []
        for name, path in self.server.repositories[repo].items():
            served = self.server.files[path]
            sha256 = served.sha256 or hashlib.sha256(served.data).hexdigest()
            lfs = {"lfs": {"sha256": sha256, "size": len(served.data), "pointerSize": 130}}
            siblings.append(
                {"rfilename": name, "size": len(served.data), **({} if name.endswith(".json") else lfs)}
            )
        body = json.dumps({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    def _file(self, served: Served) -> None:
        etag = f'"{hashlib.md5(served.data).hexdigest()}"'
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(match[1]) if match and served.ranges else 0
        if self.headers.get("If-Range", etag) != etag:
            begin = 0
        if begin and begin >= len(served.data):
            return self._short(416)
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(served.data) - 1}/{len(served.data)}")
        if served.etag:
            self.send_header("ETag", etag)
        length = served.claims if served.claims is not None else len(served.data)
        self.send_header("Content-Length", str(length - begin))
        self.end_headers()
        if self.command == "HEAD":
            return None
        end = min(begin + served.cuts.pop(0), len(served.data)) if served.cuts else len(served.data)
        for at in range(begin, end, served.piece):
            self.wfile.write(served.data[at : min(at + served.piece, end)])
            self.wfile.flush()
            time.sleep(served.pause)
            if served.gate is not None:
                served.gate.wait(60)
        self.close_connection = True
        return None


@contextmanager
def running() -> Iterator[Server]:
    """A server in a thread of this process."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def register(tmp_path: Path, **entry: object) -> None:
    document = {"models": [{"name": "m", "licence": "CC0", **entry}]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))


def whole(tmp_path: Path) -> bool:
    """The file is there as it should be, with its record, and nothing else that anybody could take for a model."""
    folder = tmp_path / "home" / "weights"
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) == ["m", "pins.json"]
    assert sorted(p.name for p in (folder / "m").iterdir()) == ["dvis.json", "m.pth"]
    assert not list(folder.glob(".pulling-*"))
    return (folder / "m" / "m.pth").read_bytes() == DATA


def nothing(tmp_path: Path) -> bool:
    folder = tmp_path / "home" / "weights"
    return installed("m") is None and not (folder / "m").exists()


def pull(dvis, *more: str) -> tuple[int, str, str]:
    code, out, err = dvis("weights", "pull", "m", "--yes", *more)
    assert (code == 0) == ("error:" not in err), err
    if code:
        assert err.count("error:") == 1 and "unexpected" not in err and out == "", err
    return code, out, err
