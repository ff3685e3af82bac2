"""Each video -> a folder of its own in the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from dvis_cli.errors import UsageError

from .listing import Video
from .output import FAILURES, INDEX, RECORD, STATE, Output, as_utf8, parse


def settled_places(found: Sequence[Video], output: Output, known: Mapping[str, str]) -> dict[str, str]:
    """Where videos whose names meet others', now or once, have a result already: key by `Video.identity`.

    `known`: places that need not be looked up.
    """
    keys = [one.short_key for one in found]
    times, around = _meetings(keys)
    unsure: list[tuple[Video, str]] = []
    for one, key in zip(found, keys, strict=True):
        if not (known and one.identity in known):
            unsure.append((one, one.full_key))
            if times[key] > 1 or key in around:
                unsure.append((one, key))
    settled = dict(known)
    records = output.read(f"{key}/{RECORD}" for _, key in unsure)
    for (one, key), data in zip(unsure, records, strict=True):
        if data is not None and parse(data).get("source") == as_utf8(one.identity):
            settled[one.identity] = key
    return settled


def place_videos(found: Sequence[Video], settled: Mapping[str, str] | None = None) -> list[Video]:
    """Give every video its own folder in the output: its `key`.

    `a/clip.mp4` goes to `a/clip`. Where that would meet another result or lie around one, it is `a/clip.mp4`, and with
    a `~` behind it where even that is taken. Videos that have a result keep its place, whatever came beside them since.

    Args:
        found: the videos.
        settled: key of those that have a result, by their `identity`.

    Raises:
        UsageError: two sources that cannot be told apart in the output.
    """
    settled = settled or {}
    kept = [settled.get(one.identity) if settled else None for one in found]
    fixed = {key for key in kept if key is not None}
    keys = [key or _outside(one.short_key, fixed) for one, key in zip(found, kept, strict=True)]
    times, around = _meetings(keys)
    taken: dict[str, str] = {}
    later: list[tuple[int, Video]] = []
    for i, one in enumerate(found):
        if kept[i] is None and (times[keys[i]] > 1 or keys[i] in around):
            later.append((i, one))
        else:
            _take(taken, keys[i], one)
    named: dict[str, Video] = {}
    for i, one in sorted(later, key=lambda pair: pair[1].source):
        own = one.full_key
        if own in named and named[own].name == one.name:
            _take({own: named[own].source}, own, one)  # refuse
        named[own] = one
        key = _outside(own, fixed)
        while key in taken or key in around:
            key += "~"
        _take(taken, key, one)
        keys[i] = key
    return [replace(one, key=key) for one, key in zip(found, keys, strict=True)]


def _meetings(keys: Sequence[str]) -> tuple[Counter[str], set[str]]:
    """(how many videos want a key, keys that lie around others or are files of our own)."""
    return Counter(keys), {FAILURES, INDEX, STATE, *(parent for key in keys for parent in _parents(key))}


def _take(taken: dict[str, str], key: str, one: Video) -> None:
    if key in taken:
        raise UsageError(
            f"{taken[key]} and {one.source} would both be written to {key}; segment them into two folders"
        )
    taken[key] = one.source


def _outside(key: str, fixed: set[str]) -> str:
    """The key, with a `~` behind each folder that is already the result of another video."""
    if not fixed:
        return key
    parts = key.split("/")
    for i in range(1, len(parts)):
        while "/".join(parts[:i]) in fixed:
            parts[i - 1] += "~"
    return "/".join(parts)


def _parents(key: str) -> Iterator[str]:
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key
