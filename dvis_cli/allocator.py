"""Keep big buffers instead of giving them back to the kernel after each layer.

glibc returns every block over a threshold to the kernel when it is freed and faults it in again at the next
layer; on a CPU that doubles the time of a network. Other allocators (macOS, musl) do not behave so.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # <malloc.h>
_KEEP = 1 << 30  # bytes of free heap that are kept


def keep_freed_memory() -> bool:
    """Tune glibc's malloc for the whole process; returns whether that was possible.

    Meant for a program's start: the command line calls it, the library leaves it to its user.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEEP), (_M_TOP_PAD, 1 << 26))
    return all(mallopt(option, value) == 1 for option, value in settings)
