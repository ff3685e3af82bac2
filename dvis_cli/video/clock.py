"""Presentation times that only go forward, from timestamps that may be missing or wrong."""

from __future__ import annotations

from fractions import Fraction

RESET = 1.0  # seconds: a step back by more than this is a clock that started again, not disorder


class Clock:
    """Turns the timestamps of successive frames into strictly increasing seconds."""

    def __init__(self, step: float) -> None:
        """`step`: the nominal time between two frames in seconds, used where timestamps fail."""
        self._step = step
        self._shift = 0.0  # seconds added to every timestamp since the last reset
        self._last: float | None = None

    def seconds(self, pts: int | None, time_base: Fraction | None) -> float:
        """The time of the next frame; `pts` counts in units of `time_base` seconds, None when missing."""
        if pts is None or not time_base:
            now = 0.0 if self._last is None else self._last + self._step
        else:
            stamp = float(pts * time_base)
            now = stamp + self._shift
            if self._last is not None and now <= self._last:
                if now < self._last - RESET:
                    now = self._last + self._step
                    self._shift = now - stamp
                else:  # half a step stays before the next frame, so its own good time can be kept
                    now = self._last + self._step / 2
        self._last = now
        return now
