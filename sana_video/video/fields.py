"""Interlaced frames to progressive ones: FFmpeg's bwdif, which weaves nothing that moves.

Two fields of an interlaced frame are taken at two moments, so scaling it mixes them, and motion shows as combs. Each
frame that is flagged interlaced is rebuilt from its first field and its neighbours in time; others pass untouched, so
mixed (telecined) films keep their progressive frames. One frame goes in for one that comes out, with its own PTS.

Codecs that flag their frames are believed. For the rest (raw, ffv1, huffyuv and the like), the field order
that the container states counts for every frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import av
from av.filter import Graph
from av.video.stream import VideoStream

FLAGGING = (
    "h264",
    "hevc",
    "mpeg2video",
    "mpeg1video",
    "mpeg4",
    "vc1",
    "wmv3",
    "prores",
    "mjpeg",
    "dvvideo",
    "vp9",
    "av1",
)
_TOP_FIRST = {2: True, 4: True, 3: False, 5: False}  # AV_FIELD_TT, TB, BB, BT


def stated_order(stream: VideoStream) -> bool | None:
    """Top field first (True) or last (False) by the container's word, None where it is progressive or not asked."""
    if stream.codec_context.name in FLAGGING:
        return None
    return _TOP_FIRST.get(int(stream.codec_context.field_order))


def is_interlaced(frame: av.VideoFrame, stream: VideoStream) -> bool:
    return frame.interlaced_frame or stated_order(stream) is not None


class Deinterlacer:
    """Frames through, in display order; `met` becomes True when one was interlaced.

    From a seek on, a frame is rebuilt with its predecessor only if that was decoded too.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._stated = stated_order(stream) is not None
        self.met = self._stated

    def __call__(self, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """`frames` with those that are interlaced rebuilt. Raises what the decoder raises."""
        before: av.VideoFrame | None = None
        for frame in frames:
            if frame.interlaced_frame or self._stated:
                self.met = True
                yield from self._filtered(before, frame, frames)
                return
            yield frame
            before = frame

    def _filtered(
        self, before: av.VideoFrame | None, first: av.VideoFrame, rest: Iterator[av.VideoFrame]
    ) -> Iterator[av.VideoFrame]:
        graph, waiting = self._graph(first), deque[av.VideoFrame | None]()
        if before is not None:
            waiting.append(None)  # has been shown already: it is here as the neighbour of `first`
            yield from _through(graph, before, waiting)
        waiting.append(first)
        yield from _through(graph, first, waiting)
        for frame in rest:
            waiting.append(frame)
            yield from _through(graph, frame, waiting)
        yield from _through(graph, None, waiting)

    def _graph(self, first: av.VideoFrame) -> Graph:
        order = stated_order(self._stream)
        parity = {None: "auto", True: "tff", False: "bff"}[order]
        which = "interlaced" if order is None else "all"
        graph = Graph()
        source = graph.add_buffer(
            width=first.width, height=first.height, format=first.format, time_base=self._stream.time_base
        )
        graph.link_nodes(
            source, graph.add("bwdif", f"mode=send_frame:parity={parity}:deint={which}"), graph.add("buffersink")
        ).configure()
        return graph


def _through(
    graph: Graph, frame: av.VideoFrame | None, waiting: deque[av.VideoFrame | None]
) -> Iterator[av.VideoFrame]:
    """Push a frame (None at the end) and yield what comes out, with time and length of the frame that went in."""
    graph.vpush(frame)
    while True:
        try:
            done = graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        source = waiting.popleft()
        if source is not None:
            done.pts, done.time_base, done.duration = source.pts, source.time_base, source.duration
            yield done
