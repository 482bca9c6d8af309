"""Sequential decoding that lets no damaged frame through.

A decoder conceals what it cannot read and often flags nothing, and what it reads after an error is drifting. So frames
are decoded in order, group of pictures by group of pictures (GOP: a keyframe and what is presented before the next
one), and a GOP is dropped whole after any error, any corrupt flag, any frame that is missing or out of order. What no
decoder can see stays unseen: a flipped bit that still reads as a picture (rare in H.264 and AV1, common in HEVC and
VP9), zeros in VP9 and Theora, a packet lost from an AVI file, which has no times, a lost end that the container never
promised. Compare checksums where there are any.
"""

import itertools
from collections.abc import Callable, Iterator

import av
import numpy as np

from ssljax.data.deinterlace import deinterlace
from ssljax.data.nal import has_zeros
from ssljax.data.timeline import Timeline, open_video, readable, touched
from ssljax.errors import InputError

# These codecs have packets that are never shown, so that a packet without a frame is no damage.
_WITH_HIDDEN_FRAMES = {"vp8", "mpeg4"}

# A group of pictures: its number, its wanted frames as (pts, converted frame) or None where it is damaged, and how many
# frames it has in all.
Group = tuple[int, list[tuple[int, bytes]] | None, int]
Timed = tuple[int, av.VideoFrame]  # a frame and its presentation time


def decode(
    timeline: Timeline,
    first: int,
    end: int,
    wanted: set[int],
    convert: Callable[[av.VideoFrame], bytes],
    stop: Callable[[], bool],
) -> Iterator[Group]:
    """Decode GOPs first <= g < end; yield them in order, with the `wanted` frames deinterlaced and converted.

    Ends early, in the middle, when `stop()`.
    """
    bounds = np.append(timeline.keys, np.iinfo(np.int64).max)
    expected = np.searchsorted(timeline.pts, bounds)
    stored: dict[int, list] = {g: [] for g in range(first, end)}
    seen = dict.fromkeys(range(first, end), 0)
    bad = set(timeline.damaged)
    ready, last = first, None
    for before, (pts, frame), after in _with_neighbours(_frames(timeline, first, end, bad)):
        if stop():
            return
        g = timeline.gop(pts)
        while ready < min(g, end):
            yield _verdict(timeline, ready, stored.pop(ready), seen[ready], expected, bad)
            ready += 1
        if not ready <= g < end:  # outside, or of a group that was given away: times that go back
            continue
        seen[g] += 1
        if frame.is_corrupt or (last is not None and pts <= last):
            bad.update(touched(timeline, pts))
        last = pts
        if pts in wanted and g not in bad:
            if frame.interlaced_frame:
                beside = (other[1] if other and timeline.gop(other[0]) == g else None for other in (before, after))
                frame = deinterlace(frame, *beside)  # only of its own GOP, which is dropped whole
            stored[g].append((pts, convert(frame)))
    while ready < end:
        yield _verdict(timeline, ready, stored.pop(ready), seen[ready], expected, bad)
        ready += 1


def _with_neighbours(frames: Iterator[Timed]) -> Iterator[tuple[Timed | None, Timed, Timed | None]]:
    """Each frame with the one before it and the one after it."""
    before, frame = None, next(frames, None)
    while frame is not None:
        after = next(frames, None)
        yield before, frame, after
        before, frame = frame, after


def _verdict(
    timeline: Timeline, g: int, frames: list[tuple[int, bytes]], seen: int, expected: np.ndarray, bad: set[int]
) -> Group:
    count = int(expected[g + 1] - expected[g])
    whole = seen == count or timeline.codec in _WITH_HIDDEN_FRAMES
    return g, frames if whole and g not in bad else None, count


def _frames(timeline: Timeline, first: int, end: int, bad: set[int]) -> Iterator[Timed]:
    """(pts, frame) in order of presentation, at least from keyframe `first` to before `end`; errors go to `bad`.

    A packet's frames come out later than its errors, so that a GOP's errors are known before the next GOP's frames.
    """
    container, stream, packets = _seek(timeline, first)
    last_key = int(timeline.keys[end]) if end < len(timeline.keys) else None
    previous = None
    with container:
        key_passed = False
        for packet in packets:
            time = packet.pts if packet.pts is not None else packet.dts
            if packet.size and last_key is not None and time is not None:
                # The next segment's keyframe and the frames that it leads in are needed, nothing later.
                if key_passed and time >= last_key:
                    break
                key_passed |= time == last_key
            yield from _decode_packet(timeline, stream, packet if packet.size else None, time, bad)
            previous = packet
        if previous is None or previous.size:
            yield from _decode_packet(timeline, stream, None, None, bad)


def _decode_packet(
    timeline: Timeline, stream: av.VideoStream, packet: av.Packet | None, time: int | None, bad: set[int]
) -> Iterator[Timed]:
    if packet is not None and time is not None and has_zeros(packet, stream.codec_context):
        bad.update(touched(timeline, time))
    try:
        for frame in stream.codec_context.decode(packet):
            if frame.pts is not None:
                frame.time_base = stream.time_base  # the last frames come without
                yield frame.pts, frame
    except av.EOFError:
        return
    except av.FFmpegError:
        bad.update(touched(timeline, time) if time is not None else {len(timeline.keys) - 1})


def _seek(timeline: Timeline, first: int) -> tuple[av.container.InputContainer, av.VideoStream, Iterator[av.Packet]]:
    """Open the file and hand out its packets from keyframe `first` on."""
    key = int(timeline.keys[first])
    for attempt in ("seek", "from the start"):
        container, stream = open_video(timeline.path)
        decoder = stream.codec_context
        decoder.thread_count = 1  # segments are decoded in parallel; within one, errors must keep their place
        decoder.options = {"err_detect": "explode"}
        if first and attempt == "seek":
            container.seek(key, stream=stream)
        packets = readable(container.demux(stream))
        for packet in packets:
            time = packet.pts if packet.pts is not None else packet.dts
            if packet.size and time == key and packet.is_keyframe:
                return container, stream, itertools.chain([packet], packets)
            if attempt == "seek" and packet.size and time is not None and time > key and packet.is_keyframe:
                break  # landed too late
        container.close()
    raise InputError(f"{timeline.path} changed while it was read: run the preparation again")
