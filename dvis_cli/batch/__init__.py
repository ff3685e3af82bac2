"""Many videos, nothing lost: a manifest, resume, this machine or Ray workers."""

from .options import ENGINES, BatchOptions, VideoSettings, parse_shard
from .report import BatchReport, Event, Failure
from .run import run_batch
from .sources import means_batch
from .stop import Stop

__all__ = [
    "ENGINES",
    "BatchOptions",
    "BatchReport",
    "Event",
    "Failure",
    "Stop",
    "VideoSettings",
    "means_batch",
    "parse_shard",
    "run_batch",
]
