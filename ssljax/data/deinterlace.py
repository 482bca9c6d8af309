"""Interlaced frames to whole pictures: one out of each, at the time of its first field."""

import av
import av.filter


def deinterlace(frame: av.VideoFrame, before: av.VideoFrame | None, after: av.VideoFrame | None) -> av.VideoFrame:
    """The picture that the first field of `frame` shows, by FFmpeg's bwdif (the BBC's three-field filter, in motion).

    before, after: the frames beside it, where they can be trusted. One alone stands in for the other; without any, the
    second field's lines are made from those of the first alone.
    """
    beside = [other for other in (before, after) if other is not None and _alike(other, frame)]
    # The filter takes its first frame by itself, and holds each back until it has the next one.
    frames = [beside[0], frame, beside[-1]] if beside else [frame, frame]
    graph = av.filter.Graph()
    graph.threads = 1  # segments are decoded in parallel
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base, name="in"
    )
    filter_ = graph.add("bwdif", "mode=send_frame:parity=auto:deint=all")
    sink = graph.add("buffersink")
    source.link_to(filter_)
    filter_.link_to(sink)
    graph.configure()
    for each in frames:
        graph.vpush(each)
    if beside:
        graph.vpull()
    return graph.vpull()


def _alike(one: av.VideoFrame, other: av.VideoFrame) -> bool:
    return (one.width, one.height, one.format.name) == (other.width, other.height, other.format.name)
