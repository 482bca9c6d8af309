"""Windows straight from original videos, decoded in order while training reads: for a first look without preparation.

A video is cut at keyframes into blocks. A block is decoded when it is first asked for, the next one at the same time in
the background, and its frames are kept as the records that a preparation would have stored, so that a window is the
prepared video's, bit for bit. Which window a position has depends on the block order alone (order.py), never on what
is decoded when.
"""

import bisect
import dataclasses
import functools
import hashlib
import json
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ssljax.data.damage import DamagedFrame
from ssljax.data.index import Segment, VideoIndex
from ssljax.data.picture import geometry, to_record
from ssljax.data.recording import Settings, every, first_frame, truncated
from ssljax.data.records import Records
from ssljax.data.timeline import Timeline, segments, survey
from ssljax.data.video import decode
from ssljax.errors import InputError

SECONDS = 20.0  # of a block, and at least a window: then no window reaches beyond the next block
_LONGEST = 300.0
_KEPT = 4  # blocks: the two that windows lie in, the next, and the last one's for threads that are late

_NOTICE = (
    "ssljax: data.source=stream decodes the videos in order while training reads them, whole in each process; windows "
    "are shuffled within some 20 s only, and a run that continues decodes again from a keyframe. It is for a first "
    "look: records (ssljax prepare video) take half the time a window at 720p, a tenth at 4K, and are all shuffled."
)

Decode = Callable[[Callable[[], bool]], dict[int, bytes]]  # told when to stop -> the records by frame number


class Blocks:
    """The records of all blocks, by block; of them the last few are kept. Safe to use from several threads.

    One thread decodes, in the order of the asking; when a block is asked for, the one after it is decoded as well.
    """

    def __init__(self, blocks: Sequence[Decode]):
        self._blocks, self._kept = blocks, OrderedDict[int, Future]()
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="decode")

    def __getitem__(self, number: int) -> dict[int, bytes]:
        """{frame number: record} of a block, without the frames that are damaged."""
        with self._lock:
            self._check()
            future = self._ask(number)
            self._ask((number + 1) % len(self._blocks))
        records = future.result()  # cut short where it was closed meanwhile
        self._check()
        return records

    def _check(self) -> None:
        if self._closed.is_set():
            raise RuntimeError("the data set is closed")

    def _ask(self, number: int) -> Future:
        if number not in self._kept:
            self._kept[number] = self._pool.submit(self._blocks[number], self._closed.is_set)
        self._kept.move_to_end(number)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[number]

    def close(self) -> None:
        """Stop the thread; nothing can be read afterwards."""
        with self._lock:
            self._closed.set()
        self._pool.shutdown()


class StreamRecords(Records):
    """The frames of one video that is decoded while it is read; its blocks are those of `blocks` from `first` on.

    keys: the times of its keyframes in seconds.
    """

    def __init__(self, index: VideoIndex, blocks: Blocks, first: int, keys: list[float]):
        super().__init__(index)
        self._blocks, self._block, self._keys = blocks, first, keys

    def stored(self, frame: int) -> bytes:
        """The record of frame number `frame`."""
        block = int(np.searchsorted(self._first, frame, side="right")) - 1
        record = self._blocks[self._block + block].get(frame)
        if record is None:
            g = bisect.bisect_right(self._keys, self.index.times[frame])
            end = [*self._keys, self.index.duration][g]
            raise DamagedFrame(
                f"{self.index.folder} is damaged between the keyframes at {self._keys[g - 1]:.3f} s and {end:.3f} s: "
                "prepare it, which leaves that out, or raise data.bad_share"
            )
        return record


def open_streams(
    places: str | os.PathLike | Sequence[str | os.PathLike], settings: Settings, window: float
) -> tuple[list[VideoIndex], list[StreamRecords], Blocks]:
    """The videos at `places`, one after the other, for windows of so many seconds.

    InputError, before anything but a first picture is decoded, if one cannot be used.
    """
    places = [places] if isinstance(places, (str, os.PathLike)) else places
    if not places:
        raise InputError("no video was named: data.source=stream takes at least one video file")
    opened, jobs = [], list[Decode]()
    for place in map(Path, places):
        if place.is_dir():
            raise InputError(
                f"{place} is a folder: data.source=stream takes video files; a prepared video is data.source=records"
            )
        index, keys, decoders = _open(place, settings, max(SECONDS, window))
        opened.append((index, len(jobs), keys))
        jobs += decoders
    blocks = Blocks(jobs)
    print(_NOTICE, file=sys.stderr)
    records = [StreamRecords(index, blocks, first, keys) for index, first, keys in opened]
    return [index for index, _, _ in opened], records, blocks


def _open(path: Path, settings: Settings, seconds: float) -> tuple[VideoIndex, list[float], list[Decode]]:
    """(what an index would say of the prepared video, the times of its keyframes, what decodes its blocks)."""
    timeline = survey(path)
    if timeline.missing:
        raise truncated(timeline, timeline.duration, "prepare what is there with --allow-damage")
    frame, aspect = first_frame(timeline)
    shape = geometry(frame, aspect, settings.short_side)
    convert = functools.partial(to_record, shape=shape, quality=settings.quality, chroma=settings.chroma)
    convert(frame)  # refuses what is not supported
    step = settings.every or every(timeline)
    stored = timeline.pts[::step]
    numbers = {int(pts): number for number, pts in enumerate(stored)}
    jobs = segments(timeline, seconds)
    keys = timeline.keys[[a for a, _ in jobs]]
    longest = np.diff([*(keys * timeline.tick), timeline.pts[-1] * timeline.tick]).max()
    if longest > max(_LONGEST, 2 * seconds):
        raise InputError(f"{path} has no keyframe for {longest:.0f} s, too long to keep in memory: prepare it instead")
    counts = np.diff([*np.searchsorted(stored, keys), len(stored)])
    width, height = shape.stored
    index = VideoIndex(
        folder=path,
        name=path.stem,
        width=width,
        height=height,
        duration=timeline.duration,
        times=np.asarray([timeline.seconds(pts) for pts in stored]),
        dropped=(),
        segments=tuple(Segment(path.name, int(count), 0, "") for count in counts),
        source={"file": path.name, "bytes": path.stat().st_size},
        settings={**dataclasses.asdict(settings), "every": step},
        checksum="",
    )
    times = [timeline.seconds(key) for key in timeline.keys]
    decoders: list[Decode] = [functools.partial(_decode, timeline, job, numbers, convert) for job in jobs]
    return _with_checksum(index, timeline, jobs), times, decoders


def _with_checksum(index: VideoIndex, timeline: Timeline, jobs: list[tuple[int, int]]) -> VideoIndex:
    """Named by the file's size, its frames' times, how it is cut and the settings: its pictures are not read."""
    words = json.dumps([index.source, index.settings, jobs], sort_keys=True).encode()
    digest = hashlib.sha256(words + timeline.pts.tobytes()).hexdigest()
    return dataclasses.replace(index, checksum=digest)


def _decode(
    timeline: Timeline,
    job: tuple[int, int],
    numbers: dict[int, int],
    convert: Callable[..., bytes],
    stop: Callable[[], bool],
) -> dict[int, bytes]:
    groups = decode(timeline, *job, set(numbers), convert, stop)
    return {numbers[pts]: record for _, frames, _ in groups for pts, record in frames or []}
