"""What a video's packets say: when its frames are shown, where decoding may begin, what is damaged or missing."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from ssljax.errors import InputError

# What MP4 calls Dolby Vision without a picture for other players; its colours (IPT) have no name in the stream.
_DOLBY_VISION, _UNSPECIFIED = {"dvh1", "dvhe", "dav1", "dva1", "dvav"}, 2
# A packet whose header is damaged vanishes from these containers.
_WITHOUT_COUNT = {"mpegts", "mpeg"}


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
        container = av.open(str(path.absolute()))  # FFmpeg takes `day:1.mp4` for an address
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
        for packet in readable(container.demux(stream)):
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
    if container.format.name in _WITHOUT_COUNT:
        damaged.update(_holes(shown))
    return replace(timeline, damaged=frozenset(g for time in damaged for g in touched(timeline, time)))


def _holes(pts: np.ndarray) -> list[int]:
    """The times after which a steady video misses a frame: a lost packet leaves no other trace in MPEG-TS."""
    gaps = np.diff(pts)
    usual = np.median(gaps)
    if np.mean(np.abs(gaps - usual) < 0.1 * usual) < 0.9:
        return []  # no steady video: a larger gap tells nothing
    return pts[:-1][gaps > 1.5 * usual].tolist()


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


def touched(timeline: Timeline, pts: int) -> list[int]:
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


def readable(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """The packets until the first that cannot be read; what is missing then is told by the declared duration.

    PyAV ends in an IndexError where damage in MPEG-TS makes it believe in a stream that was not there at first.
    """
    with contextlib.suppress(av.FFmpegError, IndexError):
        yield from packets
