"""Preparing one video: cut at keyframes into segments of about a minute, each decoded once, in order, all in parallel.

A finished segment is never done again, on whatever machine: a stopped preparation goes on where it was, and several
machines share one.
"""

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from data_prep.blur import Blur
from data_prep.contact import write_contact
from data_prep.store import (
    all_segments,
    claim,
    clean,
    fingerprint,
    finished_segment,
    is_finished,
    write_json,
    write_segment,
)
from ssljax.data.index import INDEX, VERSION, VideoIndex, read_index
from ssljax.data.picture import Geometry, geometry, to_record
from ssljax.data.recording import Settings, every, first_frame, truncated
from ssljax.data.tiles import decode as decode_record
from ssljax.data.timeline import Timeline, segments, survey
from ssljax.data.video import decode
from ssljax.errors import InputError

SEGMENT_SECONDS = 60.0
_ALLOW = "use what is there with --allow-damage"


def prepare(
    video: str | os.PathLike,
    output: str | os.PathLike,
    settings: Settings = Settings(),
    *,
    threads: int | None = None,
    allow_damage: bool = False,
    segment_seconds: float = SEGMENT_SECONDS,
    progress: bool = False,
    redact: Blur | None = None,
) -> VideoIndex:
    """Prepare one video into the folder `output`; continue an unfinished preparation, return a finished one as it is.

    Raises InputError, leaving all files as they are, if the video cannot be used (one sentence says why) or if `output`
    holds something else: another video, another setting, other files. A video that is shorter than its container
    promises is refused unless `allow_damage`; damage inside is dropped, and told by the index. `redact` blurs what must
    not be recognised, before a frame is encoded; the index tells that under settings["blur"].
    """
    index = prepare_shard(
        video,
        output,
        settings,
        threads=threads,
        allow_damage=allow_damage,
        segment_seconds=segment_seconds,
        progress=progress,
        redact=redact,
    )
    if index is None:
        raise InputError(f"{output} was removed while it was written, or by another preparation: run it again")
    return index


def prepare_shard(
    video: str | os.PathLike,
    output: str | os.PathLike,
    settings: Settings = Settings(),
    *,
    shard: tuple[int, int] = (1, 1),
    threads: int | None = None,
    allow_damage: bool = False,
    segment_seconds: float = SEGMENT_SECONDS,
    progress: bool = False,
    redact: Blur | None = None,
) -> VideoIndex | None:
    """One machine's part of `prepare`: shard (i, n), 1 <= i <= n, does every nth segment, from the ith on.

    Whoever does the last missing segment finishes the preparation and returns its index, the others None. The machines
    share the folder `output`; where they cannot, copy their folders together and prepare once more without a shard.
    """
    video, output = Path(video), Path(output)
    timeline = survey(video)
    if timeline.missing and not allow_damage:
        raise truncated(timeline, timeline.duration, _ALLOW)
    plan: dict = {
        "version": VERSION,
        "name": video.stem,
        "source": {"file": video.name, "bytes": video.stat().st_size, "fingerprint": fingerprint(video)},
        "settings": {
            **recorded(settings, redact),
            "every": settings.every or every(timeline),
            "segment_seconds": segment_seconds,
        },
    }
    if is_finished(output, plan):
        return _with_contact(output)
    frame, aspect = first_frame(timeline)
    shape = geometry(frame, aspect, settings.short_side)
    convert = functools.partial(to_record, shape=shape, quality=settings.quality, chroma=settings.chroma, redact=redact)
    convert(frame)  # refuses what is not supported before anything is written
    claim(output, plan)
    jobs = segments(timeline, segment_seconds)
    wanted = {int(time) for time in timeline.pts[:: plan["settings"]["every"]]}
    _prepare_segments(timeline, output, wanted, convert, jobs, shape, shard, threads or os.cpu_count() or 1, progress)
    parts = all_segments(output, len(jobs))
    if parts is not None:
        _finish(timeline, output, plan, shape, parts, allow_damage)
    return _with_contact(output) if (output / INDEX).is_file() else None


def recorded(settings: Settings, redact: Blur | None) -> dict:
    """What an index says of both; without blurring no word of it, as before there was any."""
    return asdict(settings) | ({"blur": redact.names} if redact else {})


def _with_contact(output: Path) -> VideoIndex:
    index = read_index(output)
    write_contact(index)
    return index


def _prepare_segments(
    timeline: Timeline,
    output: Path,
    wanted: set[int],
    convert: Callable[[av.VideoFrame], bytes],
    jobs: list[tuple[int, int]],
    shape: Geometry,
    shard: tuple[int, int],
    threads: int,
    progress: bool,
) -> None:
    """Do what of the shard is not done yet, in parallel. The first error stops the others."""
    width, height = shape.stored
    check = functools.partial(decode_record, height=height, width=width, factor=8)  # every bit is read at any size
    mine = range(shard[0] - 1, len(jobs), shard[1])
    todo = [number for number in mine if finished_segment(output, number) is None]
    bounds = np.searchsorted(timeline.pts, np.append(timeline.keys, np.iinfo(np.int64).max))
    frames = {number: int(bounds[jobs[number][1]] - bounds[jobs[number][0]]) for number in mine}
    total = sum(frames.values())
    stop, lock = threading.Event(), threading.Lock()
    bar = tqdm(
        total=total,
        initial=total - sum(frames[number] for number in todo),
        unit=" frames",
        desc=timeline.path.name,
        disable=not progress,
        mininterval=0.5,
    )

    def advance(frames: int) -> None:
        with lock:
            bar.update(frames)

    def work(number: int) -> None:
        groups = decode(timeline, *jobs[number], wanted, convert, stop.is_set)
        write_segment(timeline, output, number, groups, advance, check, stop)

    with bar, ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, number) for number in todo]
        try:
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
        finally:  # on an error or Ctrl-C: leave at the next frame
            stop.set()
            pool.shutdown(cancel_futures=True)


def _finish(
    timeline: Timeline, output: Path, plan: dict, shape: Geometry, parts: list[dict], allow_damage: bool
) -> None:
    """Write the index, the sign that all is done, then remove the traces of the work."""
    times = [time for part in parts for time in part["times"]]
    if not times:
        raise InputError(
            f"no stored frame of {timeline.path} is undamaged: "
            "fetch it again, or remux it if its container (AVI) holds no presentation times"
        )
    dropped = _spans(timeline, [g for part in parts for g in part["dropped"]])
    if dropped and dropped[-1][1] >= timeline.duration and not allow_damage:
        lost = dropped[-1][1] - dropped[-1][0]
        if lost > min(1.0, 0.02 * timeline.duration):
            raise truncated(timeline, dropped[-1][0], _ALLOW)
    if timeline.missing and timeline.declared:
        start = dropped.pop()[0] if dropped and dropped[-1][1] >= timeline.duration else timeline.duration
        dropped.append((start, timeline.declared))
    width, height = shape.stored
    index = {
        **plan,
        "width": width,
        "height": height,
        "duration": timeline.duration,
        "dropped": dropped,
        "segments": [{k: part[k] for k in ("file", "frames", "bytes", "sha256")} for part in parts if part["frames"]],
        "times": times,
    }
    write_json(output / INDEX, index)
    clean(output)


def _spans(timeline: Timeline, groups: list[int]) -> list[tuple[float, float]]:
    """The times of dropped GOPs, adjacent ones joined."""
    spans: list[tuple[float, float]] = []
    for g in groups:
        start = timeline.seconds(timeline.keys[g])
        end = timeline.seconds(timeline.keys[g + 1]) if g + 1 < len(timeline.keys) else timeline.duration
        if spans and spans[-1][1] >= start:
            start = spans.pop()[0]
        spans.append((start, end))
    return spans
