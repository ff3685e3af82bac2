"""What a batch is asked to do, apart from which videos."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dvis_cli.checkpoints.registry import default_model, known_model, looks_like_file
from dvis_cli.errors import UsageError
from dvis_cli.run.options import option

EngineName = Literal["local", "ray"]
ENGINES: tuple[EngineName, ...] = ("local", "ray")
# What changes how fast a result is made, or whether it may be, but not a byte of it that matters.
_NO_EFFECT = frozenset({"memory_budget", "overwrite", "device", "on_progress"})
_SAMPLES, _SAMPLE_BYTES = 64, 2**16  # of a weight file, spread evenly over it


@dataclass(frozen=True)
class VideoSettings:
    """How every video is segmented: what `load_model` and `save_video` are called with, in each worker."""

    load: dict[str, Any] = field(default_factory=dict)  # model, config, mode, device, precision
    save: dict[str, Any] = field(default_factory=dict)  # short_side, selection, outputs, overwrite, ...

    def fingerprint(self) -> str:
        """Hash of everything that changes the results, weights and configuration files' contents included."""
        document = {
            "load": {k: v for k, v in self.load.items() if k not in _NO_EFFECT},
            "save": {k: v for k, v in self.save.items() if k not in _NO_EFFECT},
            "files": [_file_mark(path) for path in self._files()],
        }
        text = json.dumps(document, sort_keys=True, default=_plain)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def _files(self) -> list[Path]:
        """Files that the model is made of. Raises `UsageError` for an unknown name."""
        model, config = self.load.get("model"), self.load.get("config")
        name = str(model) if model is not None else default_model()
        weights = Path(name).expanduser() if looks_like_file(name) else known_model(name).weights
        return [path for path in (weights, Path(config) if config else None) if path is not None]


def parse_shard(text: str | None, name: str = "--shard") -> tuple[int, int] | None:
    """`3/16` is the third of sixteen parts. Raises `UsageError`."""
    if text is None:
        return None
    first, slash, second = text.partition("/")
    if not (slash and first.strip().isdecimal() and second.strip().isdecimal()):
        raise UsageError(f"{name} {text!r}: expected I/N, such as 3/16 for the third of sixteen parts")
    part, parts = int(first), int(second)
    if not 1 <= part <= parts:
        raise UsageError(f"{name} {text!r}: I must lie in 1..N (a Slurm array from 1 to N fits)")
    return part, parts


PANEL = "Many videos"  # of the options in `dvis segment --help`


@dataclass(frozen=True)
class BatchOptions:
    """Who does the work, and when to stop.

    Raises UsageError when a value makes no sense.
    """

    engine: EngineName = option("local", "Who works on many videos.", panel=PANEL)
    # None: one a GPU, or one on a CPU (local), what the cluster has (ray)
    jobs: int | None = option(None, "Workers, one model each. Default: one a GPU, or one.", panel=PANEL)
    # () takes all videos
    include: tuple[str, ...] = option(
        (), "Only these files of folders; repeat.", metavar="PATTERN", panel=PANEL
    )
    exclude: tuple[str, ...] = option(
        (), "Not these files of folders; repeat.", metavar="PATTERN", panel=PANEL
    )
    retry_failed: bool = option(
        False, "Try again what failed in an earlier run.", flags=("--retry-failed",), panel=PANEL
    )
    fail_fast: bool = option(False, "Stop at the first failure.", flags=("--fail-fast",), panel=PANEL)
    max_failures: int | None = option(None, "Stop after this many failed videos.", panel=PANEL)
    # instead of the names' order
    shuffle: bool = option(False, "A fixed order without meaning.", flags=("--shuffle",), panel=PANEL)
    # (I, N), 1 <= I <= N
    shard: tuple[int, int] | None = option(
        None, "Only part I of N, for schedulers.", metavar="I/N", parse=parse_shard, panel=PANEL
    )
    watch: bool = option(False, "Go on looking for new videos.", flags=("--watch",), panel=PANEL)
    # "auto", "ray://host:10001"; None starts Ray on this machine
    ray_address: str | None = option(
        None, "A running Ray cluster, or 'auto'.", metavar="ADDRESS", panel=PANEL
    )
    ray_cpus: float = option(1.0, "CPUs that Ray reserves for a worker.", panel=PANEL)
    # None: 1 where the cluster has any
    ray_gpus: float | None = option(None, "GPUs that Ray reserves for a worker.", panel=PANEL)
    threads: int | None = None  # CPU threads of one worker's network; None: the cores divided by the workers
    max_tries: int = 3  # of a video whose worker died, or whose network did
    watch_every: float = 5.0  # seconds between looks
    settle: float = 5.0  # seconds that a watched file must not have changed
    watch_idle: float | None = None  # seconds without work after which watching ends; None: never
    stall: float = 3600.0  # seconds without a frame after which a worker counts as dead

    def __post_init__(self) -> None:
        if self.fail_fast:
            object.__setattr__(self, "max_failures", 1)
        if self.engine not in ENGINES:
            raise UsageError(f"engine {self.engine!r}: choose one of {', '.join(ENGINES)}")
        for name in ("jobs", "threads", "max_tries", "max_failures"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name.replace('_', '-')} {value} must be at least 1")
        for name in ("ray_cpus", "watch_every", "stall"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name.replace('_', '-')} {getattr(self, name)} must be more than 0")
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise UsageError(f"shard {self.shard[0]}/{self.shard[1]}: expected I/N with I from 1 to N")
        if self.watch and self.shuffle:
            raise UsageError("--watch takes videos as they come: leave out --shuffle")


def in_shard(key: str, shard: tuple[int, int] | None) -> bool:
    """Whether a video belongs to a part. It depends on its name alone, so that new videos move no others."""
    return shard is None or order_of(key) % shard[1] == shard[0] - 1


def order_of(key: str) -> int:
    """A number without meaning that is the same on every machine."""
    return int.from_bytes(hashlib.blake2b(os_bytes(key), digest_size=8).digest(), "big")


def os_bytes(text: str) -> bytes:
    """A name's bytes, also of names that are no valid UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def _file_mark(path: Path) -> str:
    """Size and hash of samples: another training of the same network differs everywhere."""
    if path.is_dir():  # of transformers
        return ",".join(_file_mark(file) for file in sorted(path.iterdir()) if file.is_file())
    try:
        size = path.stat().st_size
        digest = hashlib.blake2b(str(size).encode(), digest_size=16)
        with path.open("rb") as file:
            for i in range(_SAMPLES if size > _SAMPLES * _SAMPLE_BYTES else 1):
                file.seek(i * (size // _SAMPLES))
                digest.update(file.read(_SAMPLE_BYTES if size > _SAMPLES * _SAMPLE_BYTES else -1))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)
