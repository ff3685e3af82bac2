"""Each video -> a folder of its own in the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from dvis_cli.errors import UsageError
from dvis_cli.files import as_utf8

from .output import FAILURES, INDEX, RECORD, STATE, Output, parse
from .sources import Video


def settled_places(found: Sequence[Video], output: Output, known: Mapping[str, str]) -> dict[str, str]:
    """Where videos whose names meet others', now or once, have a result already: key by `Video.identity`.

    `known`: places that need not be looked up.
    """
    times, around = _meetings([one.short_key for one in found])
    unsure: list[tuple[str, str]] = []
    for one in found:
        if one.identity not in known:
            key = one.short_key
            unsure.append((one.identity, one.full_key))
            unsure += [(one.identity, key)] if times[key] > 1 or key in around else []
    records = output.read(f"{key}/{RECORD}" for _, key in unsure)
    settled = dict(known)
    for (identity, key), data in zip(unsure, records, strict=True):
        if data is not None and parse(data).get("source") == as_utf8(identity):
            settled[identity] = key
    return settled


def place_videos(found: Sequence[Video], settled: Mapping[str, str]) -> list[Video]:
    """Give every video its own folder in the output: its `key`.

    `a/clip.mp4` goes to `a/clip`. Where that would meet another result or lie around one, it is `a/clip.mp4`, and with
    a `~` behind it where even that is taken. Videos that have a result keep its place, whatever came beside them since.

    Args:
        found: the videos.
        settled: key of those that have a result, by their `identity`.

    Raises:
        UsageError: two sources that cannot be told apart in the output.
    """
    kept = [settled.get(one.identity) for one in found]
    fixed = set(filter(None, kept))
    keys = [key or _outside(one.short_key, fixed) for one, key in zip(found, kept, strict=True)]
    times, around = _meetings(keys)
    taken: dict[str, Video] = {}
    later: list[int] = []
    for i, one in enumerate(found):
        if kept[i] is None and (times[keys[i]] > 1 or keys[i] in around):
            later.append(i)
        elif taken.setdefault(keys[i], one) is not one:
            raise _both(taken[keys[i]], one, keys[i])
    named: dict[str, Video] = {}
    for i in sorted(later, key=lambda i: found[i].source):
        key = found[i].full_key
        other = named.setdefault(key, found[i])
        if other is not found[i] and other.name == found[i].name:
            raise _both(other, found[i], key)
        key = _outside(key, fixed)
        while key in taken or key in around:
            key += "~"
        keys[i], taken[key] = key, found[i]
    return [replace(one, key=key) for one, key in zip(found, keys, strict=True)]


def _both(one: Video, other: Video, key: str) -> UsageError:
    what = f"{one.source} and {other.source} would both be written to {key}"
    return UsageError(f"{what}; segment them into two folders")


def _meetings(keys: Sequence[str]) -> tuple[Counter[str], set[str]]:
    """(how many videos want a key, keys that lie around others or are files of our own)."""
    return Counter(keys), {FAILURES, INDEX, STATE, *(parent for key in keys for parent in _parents(key))}


def _parents(key: str) -> Iterator[str]:
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key


def _outside(key: str, fixed: set[str]) -> str:
    """The key, with a `~` behind each folder that is already the result of another video."""
    if not fixed:
        return key
    parts = key.split("/")
    for i in range(1, len(parts)):
        while "/".join(parts[:i]) in fixed:
            parts[i - 1] += "~"
    return "/".join(parts)
