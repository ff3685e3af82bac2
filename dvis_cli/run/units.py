"""What people type for times and sizes."""

from __future__ import annotations

import re

from dvis_cli.errors import UsageError

_SCALES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_seconds(text: str | None, option: str) -> float | None:
    """`90`, `1:30`, `1:30.5` and `0:01:30` are all times. Raises `UsageError`."""
    if text is None:
        return None
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", text.strip()):
        raise UsageError(f"{option} {text!r}: expected seconds (12.5) or a time (1:30, 0:01:30.5)")
    seconds = 0.0
    for part in text.strip().split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def parse_short_sides(text: str | None, option: str) -> tuple[int, ...] | None:
    """`720,800`: pixels, separated by commas. Raises `UsageError`."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
        raise UsageError(f"{option} {text!r}: expected short sides in pixels, separated by commas: 720,800")
    return tuple(int(part) for part in parts)


def parse_names(text: str | None, option: str) -> tuple[str, ...] | None:
    """`person,traffic light`: names, separated by commas. Raises `UsageError`."""
    if text is None:
        return None
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise UsageError(f"{option} {text!r}: expected names, separated by commas: person,car")
    return names


def parse_bytes(text: str | None, option: str) -> int | None:
    """`500MB`, `2GB`, `1.5g`, `1048576`; units are powers of 1024. Raises `UsageError`."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.strip().lower())
    if not match:
        raise UsageError(f"{option} {text!r}: expected a size such as 500MB or 2GB")
    return int(float(match[1]) * _SCALES[match[2]])


def parse_size(text: str, option: str) -> tuple[int, int]:
    """`128x224` -> (height, width) in pixels. Raises `UsageError`."""
    match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text.strip())
    if not match:
        raise UsageError(f"{option} {text!r}: expected HEIGHTxWIDTH in pixels, such as 128x224")
    return int(match[1]), int(match[2])
