"""The spool: what comes out is what went in, RAM stays within the budget, the file leaves no trace."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_cli.errors import OutputError
from dvis_cli.run.spool import Spool

SHAPES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12)


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(0, 6000), st.sampled_from([np.uint8, np.float32, np.int16]))
def test_round_trip(shapes: list[tuple[int, int]], budget: int, dtype: type) -> None:
    arrays = [
        np.random.default_rng(i).integers(0, 100, shape).astype(dtype) for i, shape in enumerate(shapes)
    ]
    with Spool(budget) as spool:
        for _ in range(2):  # a cleared spool is as good as new
            for i, array in enumerate(arrays):
                spool.put(i, array)
            assert spool.in_memory <= budget
            for i in reversed(range(len(arrays))):
                got = spool.get(i)
                assert got.dtype == dtype and np.array_equal(got, arrays[i])
            spool.clear()
            assert spool.in_memory == spool.on_disk == 0


def test_what_is_not_contiguous(tmp_path: Path) -> None:
    array = np.arange(24).reshape(4, 6).T[::2]
    with Spool(0, str(tmp_path)) as spool:
        spool.put("a", array)
        assert np.array_equal(spool.get("a"), array)
        assert not spool.get("a").flags.writeable


def test_the_file_has_no_name(tmp_path: Path) -> None:
    spool = Spool(0, str(tmp_path))
    spool.put("a", np.ones(10_000))
    assert list(tmp_path.iterdir()) == []
    kept = spool.get("a")
    spool.clear()
    assert kept.sum() == 10_000  # an array that was handed out outlives the file


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_process_leaves_nothing(tmp_path: Path, how: int) -> None:
    code = (
        "import numpy as np, signal, time\nfrom dvis_cli.run.spool import Spool\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background inherits none
        f"s = Spool(0, {str(tmp_path)!r}); s.put(0, np.ones(1000000)); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(how)
    assert list(tmp_path.iterdir()) == []


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, file: object) -> None:
            self.file = file

        def seek(self, *_: object) -> None: ...

        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self) -> None: ...

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full(None))
    with Spool(0, str(tmp_path)) as spool, pytest.raises(OutputError, match=r"no space left.*TMPDIR"):
        spool.put("a", np.ones(10))


def test_no_place_for_the_file(tmp_path: Path) -> None:
    with Spool(0, str(tmp_path / "nowhere")) as spool, pytest.raises(OutputError, match="cannot write"):
        spool.put("a", np.ones(10))
