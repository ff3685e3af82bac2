"""Live video over loopback UDP with a break in the middle: `python tests/benchmarks/live.py [SECONDS] [MODEL]`.

Prints the delay of the frames, those dropped, reconnections, and the memory of the process in each third of the time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


def resident(pid: int) -> float:
    """MiB of a process."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    from live_media import udp_with_a_break

    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 180.0
    model = sys.argv[2] if len(sys.argv) > 2 else "tiny"
    with tempfile.TemporaryDirectory() as place, udp_with_a_break((seconds - 10) / 2, 10.0) as address:
        command = [
            sys.executable,
            "-m",
            "dvis_cli",
            "segment",
            address,
            "-o",
            place,
            "--json",
            "-q",
            "-m",
            model,
        ]
        process = subprocess.Popen([*command, "--patience", "20"], stdout=subprocess.PIPE, text=True)
        started, seen = time.monotonic(), []
        while time.monotonic() - started < seconds and process.poll() is None:
            time.sleep(2)
            seen.append(resident(process.pid))
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
    third = max(1, len(seen) // 3)
    memory = [round(max(seen[start : start + third])) for start in range(0, 3 * third, third)]
    found = {
        key: value for key, value in json.loads(out).items() if key not in ("segments", "source", "output")
    }
    print(json.dumps({"model": model, "seconds": seconds, "memory_mib": memory, **found}, indent=1))


if __name__ == "__main__":
    main()
