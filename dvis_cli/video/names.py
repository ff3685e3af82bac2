"""Which sources are live, by their names alone."""

from __future__ import annotations

from pathlib import Path

SCHEMES = ("rtsp", "rtsps", "udp", "rtp", "tcp", "srt")
PIPE = "-"


def is_live(name: str) -> bool:
    """Whether a source is a camera's number, a stream's address, or `-`; a file of that name goes first."""
    if name == PIPE or ("://" in name and name.partition("://")[0].lower() in SCHEMES):
        return True
    return name.isdigit() and len(name) < 3 and not Path(name).exists()
