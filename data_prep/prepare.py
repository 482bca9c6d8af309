"""Preparing one video: cut at keyframes into segments of about a minute, each decoded once, in order, all in parallel.

A finished segment is never done again, on whatever machine: a stopped preparation goes on where it was, and several
machines share one.
"""

import functools
import os
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

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
from ssljax.data.tiles import decode as decode_record
from ssljax.data.timeline import Timeline, open_video, segments, survey
from ssljax.data.video import decode
from ssljax.errors import InputError

RATE = 6.0  # stored frames a second by default: a twelfth of a gigabyte a minute at 540 pixels, divides the usual gaps
SEGMENT_SECONDS = 60.0


@dataclass(frozen=True)
class Settings:
    """What decides the stored bytes.

    every: store every so many frames; None: about 6 a second. chroma: 420 stores colour at half the resolution.
    """

    every: int | None = None
    short_side: int = 540
    quality: int = 85
    chroma: int = 420

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise InputError(f"--every {self.every} must be at least 1")
        if self.short_side < 16:
            raise InputError(f"--short-side {self.short_side} must be at least 16 pixels")
        if not 1 <= self.quality <= 100:
            raise InputError(f"--quality {self.quality} must lie between 1 and 100")
        if self.chroma not in (420, 444):
            raise InputError(f"--chroma {self.chroma} must be 420 (half the colour resolution) or 444")


def prepare(
    video: str | os.PathLike,
    output: str | os.PathLike,
    settings: Settings = Settings(),
    *,
    threads: int | None = None,
    allow_damage: bool = False,
    segment_seconds: float = SEGMENT_SECONDS,
    progress: bool = False,
) -> VideoIndex:
    """Prepare one video into the folder `output`; continue an unfinished preparation, return a finished one as it is.

    Raises InputError, leaving all files as they are, if the video cannot be used (one sentence says why) or if `output`
    holds something else: another video, another setting, other files. A video that is shorter than its container
    promises is refused unless `allow_damage`; damage inside is dropped, and told by the index.
    """
    index = prepare_shard(
        video,
        output,
        settings,
        threads=threads,
        allow_damage=allow_damage,
        segment_seconds=segment_seconds,
        progress=progress,
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
) -> VideoIndex | None:
    """One machine's part of `prepare`: shard (i, n), 1 <= i <= n, does every nth segment, from the ith on.

    Whoever does the last missing segment finishes the preparation and returns its index, the others None. The machines
    share the folder `output`; where they cannot, copy their folders together and prepare once more without a shard.
    """
    video, output = Path(video), Path(output)
    timeline = survey(video)
    if timeline.missing and not allow_damage:
        raise _truncated(timeline, timeline.duration)
    plan: dict = {
        "version": VERSION,
        "name": video.stem,
        "source": {"file": video.name, "bytes": video.stat().st_size, "fingerprint": fingerprint(video)},
        "settings": {
            **asdict(settings),
            "every": settings.every or every(timeline),
            "segment_seconds": segment_seconds,
        },
    }
    if is_finished(output, plan):
        return _with_contact(output)
    frame, aspect = _first_frame(timeline)
    shape = geometry(frame, aspect, settings.short_side)
    to_record(
        frame, shape, settings.quality, settings.chroma
    )  # refuses what is not supported before anything is written
    claim(output, plan)
    jobs = segments(timeline, segment_seconds)
    _prepare_segments(timeline, output, plan["settings"], jobs, shape, shard, threads or os.cpu_count() or 1, progress)
    parts = all_segments(output, len(jobs))
    if parts is not None:
        _finish(timeline, output, plan, shape, parts, allow_damage)
    return _with_contact(output) if (output / INDEX).is_file() else None


def _with_contact(output: Path) -> VideoIndex:
    index = read_index(output)
    write_contact(index)
    return index


def every(timeline: Timeline) -> int:
    """The default: store about 6 frames a second (30 fps: every 5th; 24 or 25: every 4th; 60: every 10th)."""
    rate = (len(timeline.pts) - 1) / timeline.seconds(timeline.pts[-1])
    return max(1, round(rate / RATE))


def _first_frame(timeline: Timeline) -> tuple[av.VideoFrame, float]:
    """(the first frame that decodes, the width-to-height ratio of its pixels)."""
    container, stream = open_video(timeline.path)
    ratio = stream.sample_aspect_ratio
    container.close()
    kept: list[av.VideoFrame] = []

    def keep(frame: av.VideoFrame) -> bytes:
        kept.append(frame)
        return b""

    for g, key in enumerate(timeline.keys):
        for _ in decode(timeline, g, g + 1, {int(key)}, keep, lambda: bool(kept)):
            pass
        if kept:
            return kept[0], float(ratio) if ratio else 1.0
    raise InputError(f"no frame of {timeline.path} can be decoded: it is damaged, or its codec is not supported")


def _prepare_segments(
    timeline: Timeline,
    output: Path,
    settings: dict,
    jobs: list[tuple[int, int]],
    shape: Geometry,
    shard: tuple[int, int],
    threads: int,
    progress: bool,
) -> None:
    """Do what of the shard is not done yet, in parallel. The first error stops the others."""
    wanted = {int(time) for time in timeline.pts[:: settings["every"]]}
    convert = functools.partial(to_record, shape=shape, quality=settings["quality"], chroma=settings["chroma"])
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
            raise _truncated(timeline, dropped[-1][0])
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


def _truncated(timeline: Timeline, sound: float) -> InputError:
    promised = max(timeline.declared or 0.0, timeline.duration)
    return InputError(
        f"{timeline.path} is cut short or damaged: only the first {sound:.2f} s of {promised:.2f} s can be read; "
        f"fetch it again, or use what is there with --allow-damage"
    )


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
