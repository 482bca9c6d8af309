"""Sequential decoding that lets no damaged frame through.

A decoder conceals what it cannot read and often flags nothing, and what it reads after an error is drifting. So frames
are decoded in order, group of pictures by group of pictures (GOP: a keyframe and what is presented before the next
one), and a GOP is dropped whole after any error, any corrupt flag, any frame that is missing or out of order. What no
decoder can see stays unseen: a flipped bit that still reads as a picture, a lost end that the container never promised.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from ssljax.data.deinterlace import deinterlace
from ssljax.errors import InputError

# These codecs have packets that are never shown, so that a packet without a frame is no damage.
_WITH_HIDDEN_FRAMES = {"vp8", "mpeg4"}
# What MP4 calls Dolby Vision without a picture for other players; its colours (IPT) have no name in the stream.
_DOLBY_VISION, _UNSPECIFIED = {"dvh1", "dvhe", "dav1", "dva1", "dvav"}, 2

# A group of pictures: its number, its wanted frames as (pts, converted frame) or None where it is damaged, and how many
# frames it has in all.
Group = tuple[int, list[tuple[int, bytes]] | None, int]
Timed = tuple[int, av.VideoFrame]  # a frame and its presentation time


@dataclass(frozen=True)
class Timeline:
    """What a video's packets say, before anything is decoded. Times in ticks of `tick` seconds.

    pts: the presentation times of all frames, rising. keys: those of the keyframes, rising: GOP g is what is presented
    from keys[g] until before keys[g + 1]. leading: for each g, whether frames presented before keys[g] come after it in
    the file (and need it). damaged: GOPs with packets that the container marks. declared: the duration in seconds that
    the container promises, None if it promises none, and how far it may be wrong.
    """

    path: Path
    tick: float
    codec: str
    pts: np.ndarray
    keys: np.ndarray
    leading: np.ndarray
    damaged: frozenset[int]
    declared: float | None
    slack: float

    def gop(self, pts: int | np.integer) -> int:
        """The group of pictures that presents time `pts`."""
        return int(np.searchsorted(self.keys, pts, side="right")) - 1

    def seconds(self, pts: int | np.integer) -> float:
        """Seconds after the first frame, to the microsecond."""
        return round((int(pts) - int(self.pts[0])) * self.tick, 6)

    @property
    def interval(self) -> float:
        """The usual distance of frames in seconds."""
        return float(np.median(np.diff(self.pts))) * self.tick

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return round(self.seconds(self.pts[-1]) + self.interval, 6)

    @property
    def missing(self) -> float:
        """Seconds at the end that the container promises and the file does not hold; 0 within the usual inaccuracy."""
        if self.declared is None:
            return 0.0
        lost = self.declared - self.duration
        return lost if lost > max(min(1.0, 0.02 * self.declared), self.slack, 2 * self.interval) else 0.0


def open_video(path: Path) -> tuple[av.container.InputContainer, av.VideoStream]:
    """The container and its first video stream (never a cover picture); InputError in one sentence if there is none."""
    if not path.is_file():
        raise InputError(f"{path} is not a file" if path.exists() else f"{path} does not exist")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path} cannot be opened ({reason}): it is cut short, damaged or not a video") from error
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams or container.format.name in ("tty", "image2", "mjpeg") or container.format.name.endswith("_pipe"):
        sound = ", only sound" if container.streams.audio else ""
        container.close()
        raise InputError(f"{path} holds no video{sound}")
    decoder = streams[0].codec_context
    if decoder.codec_tag in _DOLBY_VISION and decoder.color_trc == _UNSPECIFIED:
        container.close()
        raise InputError(
            f"{path} is Dolby Vision in colours of its own (profile 5): convert it to HLG, PQ or SDR first"
        )
    return container, streams[0]


def survey(path: Path) -> Timeline:
    """Read all packets of a video without decoding them."""
    container, stream = open_video(path)
    pts: list[int] = []
    keys: list[int] = []
    leading: list[bool] = []
    damaged: set[int] = set()
    with container:
        tick = float(stream.time_base or 0)
        for packet in _readable(container.demux(stream)):
            time = packet.pts if packet.pts is not None else packet.dts
            if not packet.size or time is None:
                continue
            if packet.is_keyframe:
                keys.append(time)
                leading.append(False)
            elif keys and time < keys[-1]:
                leading[-1] = True
            if packet.is_corrupt:
                damaged.add(time)
            if not packet.is_discard:  # outside an edit list
                pts.append(time)
        declared, slack = _declared(container, stream)
        codec = stream.codec_context.name
    if not keys or not pts:
        raise InputError(
            f"{path} holds no video frames with presentation times: it is damaged, or must be remuxed first"
        )
    order = np.argsort(keys, kind="stable")
    shown = np.unique(np.asarray(pts, np.int64))
    shown = shown[shown >= min(keys)]
    if len(shown) < 2:
        raise InputError(f"{path} holds a single picture: it is not a video")
    rising, needed = np.asarray(keys, np.int64)[order], np.asarray(leading)[order]
    timeline = Timeline(path, tick, codec, shown, rising, needed, frozenset(), declared, slack)
    return replace(timeline, damaged=frozenset(g for time in damaged for g in _touched(timeline, time)))


def _declared(container: av.container.InputContainer, stream: av.VideoStream) -> tuple[float | None, float]:
    """(duration in seconds, how far it may be wrong): a container's own also covers its sound."""
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        return float(stream.frames / stream.average_rate), 0.0  # its header counts frames; durations are guessed
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base), 0.0
    if "DURATION" in stream.metadata:  # Matroska: the time of the end
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        start = float((stream.start_time or 0) * (stream.time_base or 0))
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - start, 0.0
    return (container.duration / av.time_base, 1.0) if container.duration else (None, 0.0)


def _touched(timeline: Timeline, pts: int) -> list[int]:
    """The GOPs that damage in the packet presented at `pts` may touch."""
    g = timeline.gop(pts)
    touched = [g]
    if pts == timeline.keys[g] and timeline.leading[g]:
        touched.append(g - 1)  # frames that the previous GOP presents are predicted from this keyframe
    return [g for g in touched if g >= 0]


def segments(timeline: Timeline, seconds: float) -> list[tuple[int, int]]:
    """[(first GOP, end GOP), ...]: as many whole GOPs as it takes to fill `seconds`."""
    starts, last = [0], timeline.keys[0]
    for g, key in enumerate(timeline.keys):
        if (key - last) * timeline.tick >= seconds:
            starts.append(g)
            last = key
    return list(zip(starts, [*starts[1:], len(timeline.keys)], strict=True))


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
        if not first <= g < end:
            continue
        seen[g] += 1
        if frame.is_corrupt or (last is not None and pts <= last):
            bad.update(_touched(timeline, pts))
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
    try:
        for frame in stream.codec_context.decode(packet):
            if frame.pts is not None:
                frame.time_base = stream.time_base  # the last frames come without
                yield frame.pts, frame
    except av.EOFError:
        return
    except av.FFmpegError:
        bad.update(_touched(timeline, time) if time is not None else {len(timeline.keys) - 1})


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
        packets = _readable(container.demux(stream))
        for packet in packets:
            time = packet.pts if packet.pts is not None else packet.dts
            if packet.size and time == key and packet.is_keyframe:
                return container, stream, itertools.chain([packet], packets)
            if attempt == "seek" and packet.size and time is not None and time > key and packet.is_keyframe:
                break  # landed too late
        container.close()
    raise InputError(f"{timeline.path} changed while it was read: run the preparation again")


def _readable(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """The packets until the first that cannot be read; what is missing then is told by the declared duration.

    PyAV ends in an IndexError where damage in MPEG-TS makes it believe in a stream that was not there at first.
    """
    with contextlib.suppress(av.FFmpegError, IndexError):
        yield from packets
