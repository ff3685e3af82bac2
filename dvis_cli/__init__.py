"""dvis: any video in, a panoptic video out.

    import dvis_cli

    model = dvis_cli.load_model("offline-r50")
    video = dvis_cli.segment_video("input.mp4", model)
    for frame in video:          # PanopticFrame: ids, rgb, segments
        ...
    video.segments               # every object of the video

Importing this package loads neither torch nor cv2; the names below are fetched when first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import DvisError as DvisError
    from .export.result import open_result as open_result
    from .run.loading import load_model as load_model
    from .run.options import SegmentOptions as SegmentOptions
    from .run.saving import save_video as save_video
    from .run.video import segment_video as segment_video

__version__ = "0.1.0"

_LAZY = {
    "load_model": ".run.loading",
    "open_result": ".export.result",
    "segment_video": ".run.video",
    "save_video": ".run.saving",
    "DvisError": ".errors",
    "SegmentOptions": ".run.options",
}

__all__ = [
    "DvisError",
    "SegmentOptions",
    "__version__",
    "load_model",
    "open_result",
    "save_video",
    "segment_video",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
