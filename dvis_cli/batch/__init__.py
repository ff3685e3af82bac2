"""Many videos, nothing lost: results are the record, claims keep runs apart, workers here or on Ray."""

from .options import ENGINES, BatchOptions, parse_shard
from .report import BatchReport, Event, Failure, Stop
from .run import run_batch
from .sources import means_batch

__all__ = [
    "ENGINES",
    "BatchOptions",
    "BatchReport",
    "Event",
    "Failure",
    "Stop",
    "means_batch",
    "parse_shard",
    "run_batch",
]
