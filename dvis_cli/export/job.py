"""What a writer of any format is told, and what it must do."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

from dvis_cli.errors import OutputError
from dvis_cli.files import output_errors
from dvis_cli.structures import Category, FinishedFrame, Segment, VideoInfo

JPEG_QUALITY = 95


@dataclass(frozen=True)
class Job:
    """One output: what of which video."""

    info: VideoInfo
    chosen: Callable[[Segment], bool]
    segments: tuple[Segment, ...] = ()  # those chosen, ids ascending; unknown while a video runs
    pts: Sequence[float] = ()  # seconds, of each frame
    names: Sequence[str] = ()  # of each frame, without suffix: 000000, 000001, ..., or its image's name
    number: Callable[[Segment], int] = lambda segment: segment.id  # its id in the result's own files
    images: bool = False  # the frames as JPEG, too
    variant: str = ""  # of the format, see `formats`
    warn: Callable[[str], None] = lambda message: None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.info.height, self.info.width

    def categories(self) -> list[Category]:
        """The classes of the chosen segments, dataset ids ascending."""
        found = {segment.category.id: segment.category for segment in self.segments}
        return [found[id] for id in sorted(found)]


class Writer(ABC):
    """Makes one output. `add` every frame in order, then `close`; or `abort` at any time, which never raises.

    Args:
        path: the file or folder to make; nothing is there yet, and whoever calls gives it its final name.

    Raises:
        OutputError: what was chosen does not fit the format, or a file cannot be written.
    """

    needs_pictures: ClassVar[bool] = False

    def __init__(self, path: Path, job: Job) -> None:
        self.path, self.job = path, job

    @abstractmethod
    def add(self, frame: FinishedFrame) -> None:
        """Take one frame."""

    @abstractmethod
    def close(self) -> None:
        """Complete the files."""

    def abort(self) -> None:  # noqa: B027 - most hold nothing open
        """Let go of what is open."""

    def folder(self, *parts: str) -> Path:
        """A new folder below `path`."""
        made = self.path.joinpath(*parts)
        with output_errors(self.path):
            made.mkdir(parents=True)
        return made

    def add_image(self, frame: FinishedFrame, *parts: str) -> None:
        """Write the frame as a JPEG below `path`, if the job wants images."""
        if not self.job.images:
            return
        import cv2

        path, (height, width) = self.path.joinpath(*parts), self.job.size
        done, data = cv2.imencode(".jpg", frame.rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise OutputError(f"cannot write {path}: {width}x{height} pixels do not fit a JPEG")
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.tobytes())


class ByObject:
    """Texts that come frame by frame and leave object by object; they wait in a file without a name, not in memory.

    Costs 16 bytes of memory a text.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="dvis-export-")  # noqa: SIM115 - `close`
        self._rows: dict[int, array[int]] = {}  # id: frame, first byte, bytes, frame, ...
        self._end = 0

    def put(self, id: int, frame: int, text: str) -> None:
        """Keep the text of an object in a frame."""
        data = text.encode()
        try:
            self._file.write(data)
        except OSError as error:
            raise OutputError(
                f"cannot write a temporary file: {error.strerror}; set TMPDIR to a larger disk"
            ) from error
        self._rows.setdefault(id, array("q")).extend((frame, self._end, len(data)))
        self._end += len(data)

    def of(self, id: int) -> Iterator[tuple[int, str]]:
        """(frame, text) of an object, in order."""
        rows = self._rows.get(id, array("q"))
        for place in range(0, len(rows), 3):
            frame, start, length = rows[place : place + 3]
            self._file.seek(start)
            yield frame, self._file.read(length).decode()

    def close(self) -> None:
        """Forget everything. Never raises."""
        with suppress(OSError):
            self._file.close()
