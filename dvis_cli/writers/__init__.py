"""Finished frames to files: id PNGs, segments.json and the overlay video, in a folder that appears whole."""
