"""One file over https: resumed, retried, checked, and whole or not at all.

Only https is spoken, to a loopback address http as well, and a redirect may not leave https. Proxies and certificates
are those of the environment (`HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`). A download goes to `NAME.part`; beside it
`NAME.part.json` keeps what it is a part of, so that a later run goes on where this one stopped.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from dvis_cli import __version__
from dvis_cli.errors import CheckpointError, OutputError, UsageError

ATTEMPTS = 5  # in a row that bring no byte
WAIT_S = 0.5  # before the second attempt; doubles
LONGEST_WAIT_S = 60.0
STALL_S = 30.0  # a server that sends nothing for so long is hung up on
CHUNK = 2**20
LARGEST = 2**36  # bytes; weights are a few GB at the most
_SPARE = 32 * 2**20  # bytes to be left on the disk
_REDIRECTS = 5

OnBytes = Callable[[int, "int | None"], None]  # bytes so far, bytes in all


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be fetched."""

    name: str  # in its folder on this machine
    address: str
    size: int | None = None  # bytes, as its server's index says
    sha256: str | None = None  # hexadecimal
    md5: str | None = None  # what it begins with
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # a token goes to this host only


@dataclass(frozen=True)
class Digest:
    """What a file on this machine is."""

    size: int
    sha256: str
    md5: str


class RetryError(Exception):
    """An attempt failed in a way that the next may not."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait  # seconds that the server wants


def refuse_offline(what: str) -> None:
    """Raise `UsageError` where `DVIS_OFFLINE` forbids the network."""
    if os.environ.get("DVIS_OFFLINE", "") not in ("", "0"):
        raise UsageError(
            f"DVIS_OFFLINE is set, so {what} is not possible: unset it, or use what is installed"
        )


def check_address(address: str) -> urllib.parse.SplitResult:
    """Raise `UsageError` unless this is an https address, or an http address of this machine."""
    try:
        parts = urllib.parse.urlsplit(address)
        parts.port  # noqa: B018  (raises when it is no number)
    except ValueError:
        raise UsageError(f"address {address[:200]!r} cannot be read") from None
    if parts.username or parts.password or not parts.hostname or any(c <= " " for c in address):
        raise UsageError(f"address {address[:200]!r}: expected https://HOST/PATH, without a name or password")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise UsageError(f"address {address[:200]!r}: only https is fetched from")
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a few, never from https to http, and take no token along to another host."""

    max_redirections = _REDIRECTS

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        before, after = urllib.parse.urlsplit(req.full_url), check_address(newurl)
        if before.scheme == "https" and after.scheme != "https":
            raise UsageError(f"{req.full_url} redirects to {newurl[:200]!r}, which is not https: refused")
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and (before.scheme, before.netloc) != (after.scheme, after.netloc):
            for name in ("Authorization", "Cookie"):
                following.remove_header(name)
        return following


def request(address: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Any:
    """Open an address; the response is a context manager. Raises `urllib.error.URLError`, `OSError`, `UsageError`."""
    refuse_offline(f"fetching {address}")
    check_address(address)
    handlers: list[Any] = [_Redirects()]
    if _is_loopback(urllib.parse.urlsplit(address).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)
    sent = {"User-Agent": f"dvis/{__version__}", "Accept-Encoding": "identity", **(headers or {})}
    return opener.open(urllib.request.Request(address, headers=sent, method=method), timeout=STALL_S)


def remote_size(file: RemoteFile) -> int | None:
    """What the server says of the size of a file, in bytes, without fetching it. Raises `CheckpointError`."""

    def ask() -> int | None:
        with request(file.address, file.headers, "HEAD") as response:
            length = response.headers.get("Content-Length", "")
            return int(length) if length.isdigit() else None

    return patiently(ask, file.address)


def patiently(
    ask: Callable[[], Any], address: str, come: Callable[[], int] = lambda: 0, after: str = "try again later"
) -> Any:
    """Try several times what fails for a reason that may pass.

    Args:
        come: how far it has come; an attempt that comes further than all before sets the count back.
        after: what to do then, for the message; `{come}` is how far it has come.

    Raises:
        CheckpointError: in one line.
    """
    fruitless, furthest = 0, come()
    while True:
        try:
            return _explained(ask, address)
        except RetryError as failure:
            fruitless = fruitless + 1 if come() <= furthest else 1
            furthest = max(furthest, come())
            if fruitless >= ATTEMPTS:
                after = after.format(come=come())
                raise CheckpointError(f"{address}: {failure}; {ATTEMPTS} attempts, {after}") from None
            time.sleep(max(failure.wait, WAIT_S * 2 ** (fruitless - 1)))


def _explained(ask: Callable[[], Any], address: str) -> Any:
    """Do it; turn what a connection can raise into `RetryError` or `CheckpointError`."""
    try:
        return ask()
    except urllib.error.HTTPError as error:
        error.close()
        raise_for_status(error.code, address, error.headers.get("Retry-After", ""))
    except urllib.error.URLError as error:
        raise RetryError(f"no connection ({error.reason})") from None
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise RetryError(f"the connection broke ({error or type(error).__name__})") from None


def raise_for_status(code: int, address: str, retry_after: str = "") -> NoReturn:
    """What an HTTP status other than success means: `CheckpointError`, or another attempt."""
    if code in (408, 425, 429) or code >= 500:
        wait = min(float(retry_after), LONGEST_WAIT_S) if retry_after.isdigit() else 0.0
        raise RetryError(f"the server answers {code}", wait)
    if code in (401, 403):
        raise CheckpointError(
            f"{address} answers {code}: it wants a login. Accept its licence on its page, then set HF_TOKEN or run "
            "'hf auth login'"
        )
    if code in (404, 410):
        raise CheckpointError(
            f"{address} answers {code}: it is not there (any more); 'dvis weights list --remote' shows what is"
        )
    if 300 <= code < 400:
        raise CheckpointError(f"{address} redirects to where it may not, or too often (answer {code})")
    raise CheckpointError(f"{address} answers {code}")


def fetch(file: RemoteFile, target: Path, on_bytes: OnBytes) -> Digest:
    """Download a file to `target`, which appears whole and checked, or not at all.

    Args:
        on_bytes: called now and then with the bytes so far and in all (None: nobody knows).

    Returns:
        what was fetched.

    Raises:
        CheckpointError: not there, no permission, no connection, or not the file that was expected.
        OutputError: the disk is full or cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    kept = "{come} bytes are kept, the same command goes on from there"
    for _ in range(2 if part.exists() else 1):  # the part of an earlier run may have been another file's
        patiently(lambda: _receive(file, part, on_bytes), file.address, lambda: _size(part), kept)
        digest = digest_of(part)
        problem = mismatch(file, digest)
        if problem is None:
            part.replace(target)
            _forget(part)
            return digest
        _forget(part)
    raise CheckpointError(f"{file.address}: {problem}; nothing was kept")


def mismatch(file: RemoteFile, digest: Digest) -> str | None:
    """What differs between a file as announced and as it is; None when nothing does."""
    if file.size is not None and digest.size != file.size:
        return f"{digest.size} bytes, expected {file.size}"
    for kind, expected, found in (("SHA-256", file.sha256, digest.sha256), ("MD5", file.md5, digest.md5)):
        if expected and not found.startswith(expected):
            return f"its {kind} is {found[: len(expected)]}, expected {expected}"
    return None


def digest_of(path: Path) -> Digest:
    """Size and checksums of a file."""
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while block := file.read(4 * CHUNK):
            sha256.update(block)
            md5.update(block)
            size += len(block)
    return Digest(size, sha256.hexdigest(), md5.hexdigest())


def _receive(file: RemoteFile, part: Path, on_bytes: OnBytes) -> None:
    """One attempt: go on where the part ends, if the server still has the same file."""
    have, validator = _part_of(file, part)
    if file.size is not None and have == file.size:
        return
    headers = dict(file.headers)
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    with _opened(file, part, headers) as response:
        if response.status != 206 or not _continues(response.headers.get("Content-Range", ""), have):
            have = 0
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else file.size
        _check_room(file, part, have, total)
        _write_note(file, part, response.headers.get("ETag"))
        _copy(response, file, part, have, total, on_bytes)


def _opened(file: RemoteFile, part: Path, headers: Mapping[str, str]) -> Any:
    try:
        return request(file.address, headers)
    except urllib.error.HTTPError as error:
        if error.code == 416 and "Range" in headers:  # the part is longer than the file is now
            _forget(part)
            raise RetryError("the file has changed") from None
        raise


def _continues(content_range: str, have: int) -> bool:
    return content_range.replace(" ", "").lower().startswith(f"bytes{have}-")


def _copy(
    response: Any, file: RemoteFile, part: Path, have: int, total: int | None, on_bytes: OnBytes
) -> None:
    most = file.size if file.size is not None else (total if total is not None else LARGEST)
    try:
        with part.open("r+b" if have else "wb") as out:
            out.seek(have)
            out.truncate()
            while block := response.read(CHUNK):
                have += len(block)
                if have > most:
                    raise CheckpointError(f"{file.address} sends more than the {most} bytes it should have")
                _write(out, block, part)
                on_bytes(have, total)
    except CheckpointError:
        _forget(part)
        raise
    if total is not None and have < total:
        raise RetryError(f"the connection broke after {have} of {total} bytes")


def _write(out: Any, block: bytes, part: Path) -> None:
    try:
        out.write(block)
        out.flush()
    except OSError as error:
        raise OutputError(
            f"cannot write {part}: {error.strerror or error}; make room, or set DVIS_HOME to another folder"
        ) from None


def _check_room(file: RemoteFile, part: Path, have: int, total: int | None) -> None:
    if total is None:
        return
    if total > LARGEST:
        raise CheckpointError(f"{file.address} is {total} bytes, more than the {LARGEST} that are fetched")
    free = shutil.disk_usage(part.parent).free
    if total - have + _SPARE > free:
        raise OutputError(
            f"{file.name} needs {(total - have) / 1e6:.0f} MB more, {part.parent} has {free / 1e6:.0f} MB left: make "
            "room, or set DVIS_HOME to another folder"
        )


def _part_of(file: RemoteFile, part: Path) -> tuple[int, str | None]:
    """Bytes that are there of this very file, and what the server called its version."""
    try:
        note = json.loads(_note(part).read_text(encoding="utf-8"))
        same = note["address"] == file.address and note["sha256"] == file.sha256
        validator = note["etag"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0, None
    # Without a version or a checksum nobody could tell that the two halves are of one file.
    if not same or not (validator or file.sha256):
        return 0, None
    usable = isinstance(validator, str) and not validator.startswith("W/")
    return _size(part), validator if usable else None


def _write_note(file: RemoteFile, part: Path, etag: str | None) -> None:
    note = {"address": file.address, "sha256": file.sha256, "etag": etag}
    try:
        _note(part).write_text(json.dumps(note), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {part}: {error.strerror or error}") from None


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _forget(part: Path) -> None:
    for path in (part, _note(part)):
        path.unlink(missing_ok=True)
