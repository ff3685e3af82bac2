"""Who works on many videos, and when to stop; how each video is segmented is `run.options.SegmentOptions`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from dvis_cli.checkpoints.registry import default_model, known_model, looks_like_file
from dvis_cli.errors import UsageError
from dvis_cli.run.options import SegmentOptions, option

EngineName = Literal["local", "ray"]
ENGINES: tuple[EngineName, ...] = ("local", "ray")
_SAMPLES, _SAMPLE_BYTES = 64, 2**16  # of a weight file, spread evenly over it


def parse_shard(text: str | None, option: str = "--shard") -> tuple[int, int] | None:
    """`3/16` is the third of sixteen parts. Raises `UsageError`."""
    if text is None:
        return None
    part, slash, parts = (word.strip() for word in text.partition("/"))
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UsageError(
            f"{option} {text!r}: expected I/N with I in 1..N, such as 3/16 for the third of sixteen"
        )
    return int(part), int(parts)


_many = partial(option, panel="Many videos", changes_result=False)


@dataclass(frozen=True)
class BatchOptions:
    """Raises UsageError when a value makes no sense."""

    engine: EngineName = _many("local", "Who works on many videos.")  # noqa: RUF009
    # None: one a GPU, or one on a CPU (local); what the cluster has (ray)
    jobs: int | None = _many(None, "Workers, one model each. Default: one a GPU, or one.")
    include: tuple[str, ...] = _many((), "Only these files of folders; repeat.", metavar="PATTERN")
    exclude: tuple[str, ...] = _many((), "Not these files of folders; repeat.", metavar="PATTERN")
    retry_failed: bool = _many(False, "Try again what failed in an earlier run.", flags=("--retry-failed",))
    fail_fast: bool = _many(False, "Stop at the first failure.", flags=("--fail-fast",))
    max_failures: int | None = _many(None, "Stop after this many failed videos.")
    shuffle: bool = _many(False, "A fixed order without meaning.", flags=("--shuffle",))
    shard: tuple[int, int] | None = _many(
        None, "Only part I of N, for schedulers.", metavar="I/N", parse=parse_shard
    )
    watch: bool = _many(False, "Go on looking for new videos.", flags=("--watch",))
    ray_address: str | None = _many(None, "A running Ray cluster, or 'auto'.", metavar="ADDRESS")
    ray_cpus: float = _many(1.0, "CPUs that Ray reserves for a worker.")
    # None: 1 where the cluster has any
    ray_gpus: float | None = _many(None, "GPUs that Ray reserves for a worker.")
    max_tries: int = 3  # of a video whose worker died, or whose network did
    watch_every: float = 5.0  # seconds between looks
    settle: float = 5.0  # seconds that a watched file must not have changed
    stall: float = 3600.0  # seconds without a frame after which a worker counts as dead
    stale: float = 300.0  # seconds without a sign of life after which another machine's claim is void

    def __post_init__(self) -> None:
        if self.fail_fast:
            object.__setattr__(self, "max_failures", 1)
        if self.engine not in ENGINES:
            raise UsageError(f"engine {self.engine!r}: choose one of {', '.join(ENGINES)}")
        for name in ("jobs", "max_tries", "max_failures", "ray_cpus", "watch_every", "stall", "stale"):
            value, whole = getattr(self, name), name[:3] in ("job", "max")
            if value is not None and (value < 1 if whole else value <= 0):
                least = "at least 1" if whole else "more than 0"
                raise UsageError(f"{name.replace('_', '-')} {value} must be {least}")
        if self.shard is not None:
            parse_shard("{}/{}".format(*self.shard))
        if self.watch and self.shuffle:
            raise UsageError("--watch takes videos as they come: leave out --shuffle")


def in_shard(key: str, shard: tuple[int, int] | None) -> bool:
    """Whether a video belongs to a part. It depends on its name alone, so that new videos move no others."""
    return shard is None or order_of(key) % shard[1] == shard[0] - 1


def order_of(key: str) -> int:
    """A number without meaning that is the same on every machine."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def settings_hash(options: SegmentOptions) -> str:
    """Of everything that changes results: options, and the contents of weights and configuration.

    Raises:
        UsageError: the model's name is not known, or a file cannot be read.
    """
    name = options.model or default_model()
    weights = Path(name).expanduser() if looks_like_file(name) else known_model(name).weights
    files = [path for path in (weights, Path(options.config) if options.config else None) if path]
    facts = json.dumps(
        [options.result_facts(), [_file_hash(path) for path in files]], sort_keys=True, default=str
    )
    return hashlib.blake2b(facts.encode(), digest_size=12).hexdigest()


def _file_hash(path: Path) -> str:
    """Of size and samples: another training of the same network differs everywhere."""
    if path.is_dir():  # of transformers
        return ",".join(_file_hash(file) for file in sorted(path.iterdir()) if file.is_file())
    try:
        size = path.stat().st_size
        digest = hashlib.blake2b(str(size).encode(), digest_size=16)
        whole = size <= _SAMPLES * _SAMPLE_BYTES
        with path.open("rb") as file:
            for i in range(1 if whole else _SAMPLES):
                file.seek(i * (size // _SAMPLES))
                digest.update(file.read(-1 if whole else _SAMPLE_BYTES))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()
