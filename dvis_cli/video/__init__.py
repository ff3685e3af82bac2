"""Video in: whatever the user named becomes upright RGB frames with square pixels, one at a time.

    with path and selection: open_video(...) -> VideoSource -> Frame, Frame, ...
    for the networks: `dvis_cli.video.preprocess`

Importing this loads neither PyAV nor torch; opening a source loads what its kind needs.
"""

from dvis_cli.video.source import Selection, VideoSource, open_video

__all__ = ["Selection", "VideoSource", "open_video"]
