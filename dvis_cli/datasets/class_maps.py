"""Maps of classes on disk: what they may look like, and where predicted ones lie.

A map is a PNG of one channel; its values are the dataset's class ids, 255 (of 8 bits) is "ignore". A prediction is

    DIR/<video>/<stem>.png                 VSPW's form, folder or zip
    DIR/<name>/semantic/000000.png         what `dvis segment --task semantic` wrote
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dvis_cli.datasets.id_map import HEADER_BYTES, LARGEST_SIDE, PngHeader
from dvis_cli.datasets.names import safe_name, stem_of
from dvis_cli.datasets.outputs import map_path, output_folders, read_output
from dvis_cli.datasets.submission import ZipSubmission, open_submission
from dvis_cli.errors import DatasetError

IGNORE = 255
GRAY, PALETTE = 0, 3  # PNG colour types of one channel
LARGEST_PNG = 2**30  # bytes


def check_header(header: PngHeader, depths: Sequence[int] = (8,)) -> None:
    """Raise DatasetError unless this is the header of a map, of one of some bit depths."""
    if header.color_type not in (GRAY, PALETTE) or header.bit_depth not in depths:
        raise DatasetError(
            f"must be a PNG of one channel of 8 bits (bit depth {header.bit_depth}, color type {header.color_type})"
        )
    if not (0 < header.width <= LARGEST_SIDE and 0 < header.height <= LARGEST_SIDE):
        raise DatasetError(f"{header.width}x{header.height} pixels are too many")


def decode_classes(data: bytes) -> npt.NDArray[np.int32]:
    """A map in memory: (height, width) int32 class ids.

    Raises:
        DatasetError: no PNG, damaged, or not of one channel.
    """
    header = PngHeader.parse(data)
    check_header(header, (8, 16))
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return np.array(image).astype(np.int32).reshape(header.height, header.width)
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(f"damaged PNG: {error}") from error


def read_file(path: Path, limit: int = LARGEST_PNG) -> bytes:
    """A file's bytes. Raises DatasetError: missing, unreadable, or too large."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise DatasetError(f"{path} is larger than the {limit} bytes it may have")
    return data


@dataclass(frozen=True)
class PredictedMaps:
    """The predicted maps of one video; can be sent to another process."""

    place: Path  # the folder that holds `<stem>.png`, a result folder, or a zip
    video: str
    stems: tuple[str, ...]  # in order of the names, or of the frames
    files: tuple[str, ...]  # members of the zip, or paths in `place`
    named: bool = True  # the stems are the source's, not numbers

    def data(self, position: int) -> bytes:
        """The PNG of a frame, as it is. Raises DatasetError."""
        if self.place.is_file():
            return opened_zip(self.place).read(self.files[position], LARGEST_PNG)
        return read_file(self.place / self.files[position])

    def header(self, position: int) -> PngHeader:
        """Its header. Raises DatasetError."""
        if self.place.is_file():
            return PngHeader.parse(opened_zip(self.place).read(self.files[position], 2**40, HEADER_BYTES))
        try:
            with (self.place / self.files[position]).open("rb") as file:
                return PngHeader.parse(file.read(HEADER_BYTES))
        except OSError as error:
            raise DatasetError(f"cannot be read: {error.strerror}") from error


def find_maps(path: Path) -> dict[str, PredictedMaps]:
    """Predicted maps by video.

    Raises:
        DatasetError: there is nothing of the kind.
    """
    if path.is_file():
        found = _maps_in_zip(path)
    elif path.is_dir():
        folders = output_folders(path)
        found = _maps_of_outputs(folders) if folders else _maps_in_folder(path)
    else:
        raise DatasetError(f"{path} does not exist; expected a folder or zip with <video>/<stem>.png")
    if not found:
        raise DatasetError(f"{path} holds no maps: expected <video>/<stem>.png, or results of dvis segment")
    return found


def opened_zip(path: Path) -> ZipSubmission:
    """A zip, which stays open for the next call. Raises DatasetError."""
    archive = open_submission(path)
    assert isinstance(archive, ZipSubmission)
    return archive


def _maps_in_zip(path: Path) -> dict[str, PredictedMaps]:
    names: dict[str, list[str]] = {}
    for member in sorted(opened_zip(path).members):
        parts = member.split("/")
        if len(parts) == 2 and parts[1].endswith(".png"):
            names.setdefault(parts[0], []).append(member)
    return {
        video: PredictedMaps(path, video, tuple(stem_of(m.split("/")[1]) for m in members), tuple(members))
        for video, members in names.items()
    }


def _maps_in_folder(path: Path) -> dict[str, PredictedMaps]:
    found = {}
    for folder in sorted(path.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            files = sorted(entry.name for entry in folder.iterdir() if entry.suffix == ".png")
            if files:
                stems = tuple(stem_of(file) for file in files)
                found[folder.name] = PredictedMaps(folder.resolve(), folder.name, stems, tuple(files))
    return found


def _maps_of_outputs(folders: Sequence[Path]) -> dict[str, PredictedMaps]:
    found = {}
    for folder in folders:
        output = read_output(folder, "semantic")
        files = tuple(str(map_path(output, place).relative_to(folder)) for place in range(len(output.files)))
        name = safe_name(folder.name, "output folder")
        found[name] = PredictedMaps(folder, name, output.stems, files, output.named)
    return found
