"""The demo clip: nine seconds of the street clip's held-out part.

python demo.py DATA OUT.mp4     needs fetch.py's packages
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
from clips import CLIPS
from frames import decode

FIRST, LAST = 675, 765  # frames, half open; the network never saw them in training
RATE = 10
SIZE = (768, 576)


def main(root: Path, out: Path) -> None:
    with av.open(str(out), "w") as file:
        stream = file.add_stream("libx264", rate=RATE, options={"crf": "25", "preset": "veryslow"})
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = SIZE
        for index, bgr in decode(root, CLIPS["vtest"]):
            if FIRST <= index < LAST:
                frame = av.VideoFrame.from_ndarray(bgr, format="bgr24")
                file.mux(stream.encode(frame))
        file.mux(stream.encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
