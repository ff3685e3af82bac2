"""Reading the pictures of an annotated dataset, whose json says how large they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dvis_cli.errors import DatasetError


def read_picture(path: Path, width: int, height: int) -> npt.NDArray[np.uint8]:
    """A picture as its annotation sees it: the pixels as stored, not turned by EXIF.

    Args:
        path: JPEG, PNG or what else Pillow reads.
        width, height: pixels it must have; looked at before anything is decoded.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        DatasetError: missing, damaged, or of another size.
    """
    try:
        with Image.open(path) as image:
            if image.size != (width, height):
                raise DatasetError(
                    f"{path} is {image.size[0]}x{image.size[1]} pixels, its json says {width}x{height}"
                )
            return np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing") from None
    except DatasetError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them meet
        raise DatasetError(f"{path} cannot be read: {error}") from error
