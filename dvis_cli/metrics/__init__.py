"""Scores of video panoptic segmentation. Numpy only; arrays in, numbers out."""

from dvis_cli.metrics.overlap import FrameOverlap, frame_overlap, overlaps
from dvis_cli.metrics.stq import STQ, STQResult, STQVideo
from dvis_cli.metrics.vpq import PUBLIC_WINDOWS, REPORT_WINDOWS, VPQ, Quality, VPQResult, WindowResult

__all__ = [
    "PUBLIC_WINDOWS",
    "REPORT_WINDOWS",
    "STQ",
    "VPQ",
    "FrameOverlap",
    "Quality",
    "STQResult",
    "STQVideo",
    "VPQResult",
    "WindowResult",
    "frame_overlap",
    "overlaps",
]
