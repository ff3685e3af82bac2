"""CVAT for video 1.1: `annotations.xml` in a zip, a track of masks an object, for a task that has the film."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from dvis_cli.files import output_errors
from dvis_cli.structures import FinishedFrame, Segment
from dvis_cli.writers.palette import segment_color

from .job import ByObject, Job, Writer
from .seen import Seen, seen_in

XML_NAME = "annotations.xml"


class CvatVideo(Writer):
    """Every frame of a track is a key frame; where an object leaves, its last mask comes once more as `outside`."""

    def __init__(self, path: Path, job: Job) -> None:
        super().__init__(path, job)
        self._masks = ByObject()

    def add(self, frame: FinishedFrame) -> None:
        for one in seen_in(frame, self.job.chosen):
            self._masks.put(one.segment.id, frame.index, mask_attributes(one))

    def close(self) -> None:
        with (
            output_errors(self.path),
            zipfile.ZipFile(self.path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open(XML_NAME, "w", force_zip64=True) as file,
        ):
            for line in self._lines():
                file.write(line.encode() + b"\n")
        self._masks.close()

    def abort(self) -> None:
        self._masks.close()

    def _lines(self) -> Iterator[str]:
        yield '<?xml version="1.0" encoding="utf-8"?>'
        yield "<annotations>"
        yield "<version>1.1</version>"
        yield from self._meta()
        for place, segment in enumerate(self.job.segments):
            yield from self._track(place, segment)
        yield "</annotations>"

    def _meta(self) -> Iterator[str]:
        info, count = self.job.info, len(self.job.names)
        yield f"<meta><task><name>{escape(info.name)}</name><size>{count}</size><mode>interpolation</mode>"
        yield f"<overlap>0</overlap><start_frame>0</start_frame><stop_frame>{max(0, count - 1)}</stop_frame>"
        yield "<frame_filter></frame_filter><labels>"
        for category in self.job.categories():
            color = "#{:02x}{:02x}{:02x}".format(*segment_color(Segment(category.id + 1, category, 1.0)))
            yield (
                f"<label><name>{escape(category.name)}</name><color>{color}</color><type>mask</type>"
                "<attributes><attribute><name>id</name><mutable>False</mutable><input_type>number</input_type>"
                "<default_value>0</default_value><values>0\n16777215\n1</values></attribute></attributes></label>"
            )
        yield "</labels><original_size>"
        yield f"<width>{info.width}</width><height>{info.height}</height></original_size></task></meta>"

    def _track(self, place: int, segment: Segment) -> Iterator[str]:
        last, masks = -2, ""
        for frame, text in self._masks.of(segment.id):
            if last < 0:
                yield f'<track id="{place}" label={quoteattr(segment.category.name)} source="auto">'
            elif frame > last + 1:
                yield self._mask(last + 1, masks, outside=1, segment=segment)
            yield self._mask(frame, text, outside=0, segment=segment)
            last, masks = frame, text
        if last >= 0:
            if last + 1 < len(self.job.names):
                yield self._mask(last + 1, masks, outside=1, segment=segment)
            yield "</track>"

    def _mask(self, frame: int, attributes: str, outside: int, segment: Segment) -> str:
        id = f'<attribute name="id">{self.job.number(segment)}</attribute>'
        flags = f'frame="{frame}" keyframe="1" outside="{outside}" occluded="0"'
        return f'<mask {flags} {attributes} z_order="0">{id}</mask>'


def mask_attributes(one: Seen) -> str:
    """CVAT's run lengths: row by row in the box, background first, so that the first run may be 0."""
    flat = one.inside.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate(([0], edges, [flat.size]))).tolist()
    if flat[0]:
        runs.insert(0, 0)
    x, y, width, height = one.box
    return f'rle="{", ".join(map(str, runs))}" left="{x}" top="{y}" width="{width}" height="{height}"'
