"""Time and peak memory of `dvis export all` on a short and a long result: `python tests/benchmarks/exports.py`.

Each is exported by a process of its own, from maps that this makes (720x1280, a road, two persons, a car). Memory must
not grow with the length: the peaks may differ by 100 MB for ten times the frames.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
FORMATS = "coco,coco-video,davis,mots,cvat,yolo,csv,parquet,masks,matte:webm,cutout"


def export(folder: Path, out: Path) -> None:
    """In the child: export, and print seconds and peak in MiB."""
    from dvis_cli.export.result import open_result
    from dvis_cli.export.run import ExportOptions, export_result

    started = time.monotonic()
    export_result(open_result(folder), ExportOptions(tuple(FORMATS.split(","))), out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": round(time.monotonic() - started, 1), "peak_mib": round(peak)}))


def measure(frames: int, height: int, width: int) -> dict[str, float]:
    """Seconds and peak of one export."""
    from small_results import write_result

    with tempfile.TemporaryDirectory() as place:
        folder = write_result(Path(place), frames, height, width)
        command = [sys.executable, __file__, str(folder), str(Path(place) / "out")]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def main() -> None:
    if len(sys.argv) == 3 and not sys.argv[1].isdigit():
        export(Path(sys.argv[1]), Path(sys.argv[2]))
        return
    height, width = (int(one) for one in sys.argv[1:3]) if len(sys.argv) == 3 else (720, 1280)
    for frames in (100, 1000):
        print(
            json.dumps({"frames": frames, "size": [height, width], **measure(frames, height, width)}),
            flush=True,
        )


if __name__ == "__main__":
    main()
