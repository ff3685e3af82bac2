"""A VIPSeg submission as it is handed in: `pred.json` and `pan_pred/<video_id>/<stem>.png`, folder or zip.

Nothing is ever unpacked to disk, and nothing is read that is larger than it can honestly be.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from dvis_cli.datasets.id_map import HEADER_BYTES
from dvis_cli.datasets.names import safe_name
from dvis_cli.errors import DatasetError

JSON_NAME = "pred.json"
PNG_FOLDER = "pan_pred"
LARGEST_JSON = 256 * 2**20  # bytes; VIPSeg's own splits need 10 to 20 MB
MOST_MEMBERS = 1_000_000


def png_name(video_id: str, stem: str) -> str:
    """`pan_pred/<video_id>/<stem>.png`"""
    return f"{PNG_FOLDER}/{video_id}/{stem}.png"


class Submission(ABC):
    """Where the files of a submission are read from."""

    path: Path
    complaints: list[tuple[str, str]]  # (member, what is wrong with it), found while looking in

    @abstractmethod
    def pngs_of(self, video_id: str) -> set[str]:
        """The file names in a video's folder of predictions."""

    @abstractmethod
    def videos(self) -> set[str]:
        """The names of the folders in `pan_pred/`."""

    @abstractmethod
    def read(self, name: str, limit: int, head: int | None = None) -> bytes:
        """A member's bytes, or its first `head` ones.

        Raises:
            DatasetError: missing, damaged, or larger than `limit` bytes.
        """

    def png_header(self, video_id: str, stem: str) -> bytes:
        """What `PngHeader.parse` needs of a prediction."""
        return self.read(png_name(video_id, stem), 2**40, HEADER_BYTES)

    def png(self, video_id: str, stem: str, width: int, height: int) -> bytes:
        """A whole prediction that claims to be of `width` x `height` pixels."""
        return self.read(png_name(video_id, stem), 4 * width * height + 2**20)

    def annotations(self) -> list[Any]:
        """The list in `pred.json`, its entries not yet looked at.

        Raises:
            DatasetError: missing, not json, or without the list.
        """
        try:
            document = json.loads(self.read(JSON_NAME, LARGEST_JSON))
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{JSON_NAME} is not json: {error}") from error
        entries = document.get("annotations") if isinstance(document, dict) else None
        if not isinstance(entries, list):
            raise DatasetError(f'{JSON_NAME} must hold {{"annotations": [...]}}')
        return entries


class FolderSubmission(Submission):
    """A submission in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.complaints = []

    def pngs_of(self, video_id: str) -> set[str]:
        folder = self.path / PNG_FOLDER / safe_name(video_id, "video_id")
        return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()

    def videos(self) -> set[str]:
        folder = self.path / PNG_FOLDER
        return {entry.name for entry in folder.iterdir() if entry.is_dir()} if folder.is_dir() else set()

    def read(self, name: str, limit: int, head: int | None = None) -> bytes:
        try:
            with self.path.joinpath(*name.split("/")).open("rb") as file:
                data = file.read(limit + 1 if head is None else head)
        except FileNotFoundError:
            raise DatasetError(f"{name} is missing") from None
        except OSError as error:
            raise DatasetError(f"{name} cannot be read: {error.strerror}") from error
        if len(data) > limit:
            raise DatasetError(f"{name} is larger than the {limit} bytes it may have")
        return data


class ZipSubmission(Submission):
    """A submission in a zip."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DatasetError(f"{path} is not a readable zip: {error}") from error
        infos = self.archive.infolist()
        if len(infos) > MOST_MEMBERS:
            raise DatasetError(f"{path} holds {len(infos)} files; a submission has at most {MOST_MEMBERS}")
        self.members: dict[str, zipfile.ZipInfo] = {}
        self.by_video: dict[str, set[str]] = {}
        self.complaints = []
        for info in infos:
            if not info.is_dir():
                self._add(info)

    def _add(self, info: zipfile.ZipInfo) -> None:
        # `orig_filename`: the name as stored; zipfile cuts `filename` at a NUL and turns \ into / on Windows.
        try:
            parts = [safe_name(part, "member") for part in info.orig_filename.split("/")]
        except DatasetError:
            self.complaints.append((repr(info.orig_filename), "unsafe name: it leads out of the folder"))
            return
        if info.filename in self.members:
            self.complaints.append((info.filename, "is in the zip twice"))
        elif info.flag_bits & 1:
            self.complaints.append((info.filename, "is encrypted"))
        else:
            self.members[info.filename] = info
            if len(parts) == 3 and parts[0] == PNG_FOLDER:
                self.by_video.setdefault(parts[1], set()).add(parts[2])

    def pngs_of(self, video_id: str) -> set[str]:
        return self.by_video.get(video_id, set())

    def videos(self) -> set[str]:
        return set(self.by_video)

    def read(self, name: str, limit: int, head: int | None = None) -> bytes:
        if name not in self.members:
            elsewhere = [other for other in self.members if other.endswith(f"/{name}")]
            hint = f" at the top of the zip (it is at {elsewhere[0]})" if elsewhere else ""
            raise DatasetError(f"{name} is missing{hint}")
        info = self.members[name]
        if info.file_size > limit:
            raise DatasetError(f"{name} unpacks to {info.file_size} bytes and may have {limit} at most")
        try:
            with self.archive.open(info) as file:
                return file.read() if head is None else file.read(head)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, ValueError) as error:
            raise DatasetError(f"{name} is damaged: {error}") from error


@lru_cache(maxsize=2)
def _opened(path: Path, size: int, changed: int) -> Submission:
    return ZipSubmission(path)


def open_submission(path: Path) -> Submission:
    """A folder or zip to read a submission from. A zip stays open for the next call.

    Raises:
        DatasetError: there is nothing, or not a zip.
    """
    if path.is_dir():
        return FolderSubmission(path)
    if not path.is_file():
        raise DatasetError(
            f"{path} does not exist; expected a folder or zip with {JSON_NAME} and {PNG_FOLDER}/"
        )
    status = path.stat()
    return _opened(path.resolve(), status.st_size, status.st_mtime_ns)


def unexpected_members(submission: Submission, known: Iterable[str]) -> list[str]:
    """Files of a zip that no scorer looks for; `known` are those it does."""
    if not isinstance(submission, ZipSubmission):
        return []
    return sorted(submission.members.keys() - set(known) - {JSON_NAME})
