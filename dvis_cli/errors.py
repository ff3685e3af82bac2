"""Every failure a user can cause or meet, as one tree.

The command line prints the message of a `DvisError` as one line and exits with its `exit_code`;
anything else is a bug and keeps its traceback. A message says what was wrong, the value seen,
and what to do about it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class DvisError(Exception):
    """Something failed that the user can understand and act on. Exit code 1."""

    exit_code = 1


class UsageError(DvisError):
    """The request itself makes no sense: a bad option, an unknown name. Exit code 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file has an unknown key, a value of the wrong type, or is missing."""


class VideoError(DvisError):
    """A source cannot be read as video: missing, empty, no frames, no video stream."""


class CheckpointError(DvisError):
    """A weight file cannot be read safely or does not fit the model."""


class OutputError(DvisError):
    """A result cannot be written: folder exists, no permission, disk full."""


class DatasetError(DvisError):
    """A dataset folder or its json is not what its format promises."""


class TrainingError(DvisError):
    """Training cannot start or go on: the wrong checkpoint for a stage, a loss that is no number."""


class DvisWarning(UserWarning):
    """Something was wrong but the work went on, e.g. a truncated file whose readable frames were kept."""


@contextmanager
def warnings_to(show: Callable[[str], None]) -> Iterator[None]:
    """Hand every `DvisWarning` of the block to `show`, as one line; leave other libraries' warnings alone."""

    def show_ours(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
        if issubclass(category, DvisWarning):
            show(" ".join(str(message).split()))
        else:
            others(message, category, *rest, **options)

    with warnings.catch_warnings():
        warnings.simplefilter("always", DvisWarning)
        others, warnings.showwarning = warnings.showwarning, show_ours
        yield
