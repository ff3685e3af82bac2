"""Interlaced frames made whole: FFmpeg's motion-adaptive `bwdif`, by each frame's own field order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import av
from av.filter import Graph
from av.video.frame import VideoFrame


def deinterlaced(pictures: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
    """As many frames as came, at their times; those that are not flagged as interlaced are as they were.

    Nothing happens before the first interlaced frame; from there on a frame comes out when the next one is known.
    """
    graph: Graph | None = None
    shape = None
    for picture in pictures:
        now = (picture.width, picture.height, picture.format.name)
        if graph is not None and now != shape:
            yield from _finished(graph)
            graph = None
        if graph is None and not picture.interlaced_frame:
            yield picture
            continue
        if graph is None:
            graph, shape = _graph(picture), now
        graph.vpush(picture)
        yield from _ready(graph)
    if graph is not None:
        yield from _finished(graph)


def _graph(picture: VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=picture.width, height=picture.height, format=picture.format, time_base=picture.time_base
    )
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
    graph.configure()
    return graph


def _ready(graph: Graph) -> Iterator[VideoFrame]:
    try:
        while True:
            yield graph.vpull()
    except (av.BlockingIOError, av.EOFError):  # it waits for the next frame; there is none
        return


def _finished(graph: Graph) -> Iterator[VideoFrame]:
    graph.vpush(None)
    yield from _ready(graph)
