"""Scores of video panoptic, instance and semantic segmentation. Numpy only; arrays in, numbers out."""

from dvis_cli.challenge.metrics.instance import InstanceAP, InstanceResult
from dvis_cli.challenge.metrics.overlap import FrameOverlap, frame_overlap, overlaps
from dvis_cli.challenge.metrics.semantic import SemanticResult, Semantics
from dvis_cli.challenge.metrics.stq import STQ, STQResult, STQVideo
from dvis_cli.challenge.metrics.vpq import (
    PUBLIC_WINDOWS,
    REPORT_WINDOWS,
    VPQ,
    Quality,
    VPQResult,
    WindowResult,
)

__all__ = [
    "PUBLIC_WINDOWS",
    "REPORT_WINDOWS",
    "STQ",
    "VPQ",
    "FrameOverlap",
    "InstanceAP",
    "InstanceResult",
    "Quality",
    "STQResult",
    "STQVideo",
    "SemanticResult",
    "Semantics",
    "VPQResult",
    "WindowResult",
    "frame_overlap",
    "overlaps",
]
