"""Long videos to seekable records: `python -m data_prep.video VIDEO... --output DIR`.

Each video is decoded once, in order, and becomes a folder DIR/STEM of JPEG frames in ArrayRecord files with an index
(see ssljax/data/index.py). The work is cut at keyframes into segments of about a minute, which are decoded in parallel;
a finished segment is never done again, so that a stopped preparation goes on where it was: run the same command again.
"""

import argparse
import functools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import av
import numpy as np
from tqdm import tqdm

from data_prep.decode import Timeline, decode, open_video, segments, survey
from data_prep.picture import Geometry, geometry, to_record
from data_prep.store import claim, clean, fingerprint, finished_segment, is_finished, write_json, write_segment
from ssljax.data.index import INDEX, VERSION, VideoIndex, read_index
from ssljax.errors import InputError

RATE = 6.0  # stored frames a second by default: a twelfth of a gigabyte a minute at 540 pixels, divides the usual gaps
SEGMENT_SECONDS = 60.0


@dataclass(frozen=True)
class Settings:
    """What decides the stored bytes. every: store every so many frames; None: about 6 a second."""

    every: int | None = None
    short_side: int = 540
    quality: int = 85

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise InputError(f"--every {self.every} must be at least 1")
        if self.short_side < 16:
            raise InputError(f"--short-side {self.short_side} must be at least 16 pixels")
        if not 1 <= self.quality <= 100:
            raise InputError(f"--quality {self.quality} must lie between 1 and 100")


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
        return read_index(output)
    frame, aspect = _first_frame(timeline)
    shape = geometry(frame, aspect, settings.short_side)
    to_record(frame, shape, settings.quality)  # refuses what is not supported before anything is written
    claim(output, plan)
    convert = functools.partial(to_record, shape=shape, quality=settings.quality)
    parts = _prepare_segments(timeline, output, plan["settings"], convert, threads or os.cpu_count() or 1, progress)
    return _finish(timeline, output, plan, shape, parts, allow_damage)


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
    convert: Callable[[av.VideoFrame], bytes],
    threads: int,
    progress: bool,
) -> list[dict]:
    """Do what is not done yet, in parallel; return all segments in order. The first error stops the others."""
    wanted = {int(time) for time in timeline.pts[:: settings["every"]]}
    jobs = segments(timeline, settings["segment_seconds"])
    parts = [finished_segment(output, number) for number in range(len(jobs))]
    bounds = np.searchsorted(timeline.pts, np.append(timeline.keys, np.iinfo(np.int64).max))
    done = sum(int(bounds[b] - bounds[a]) for (a, b), part in zip(jobs, parts, strict=True) if part is not None)
    stop, lock = threading.Event(), threading.Lock()
    bar = tqdm(
        total=len(timeline.pts),
        initial=done,
        unit=" frames",
        desc=timeline.path.name,
        disable=not progress,
        mininterval=0.5,
    )

    def advance(frames: int) -> None:
        with lock:
            bar.update(frames)

    def work(number: int) -> None:
        first, end = jobs[number]
        groups = decode(timeline, first, end, wanted, convert, stop.is_set)
        part = write_segment(timeline, output, number, groups, advance, stop)
        if part is not None:
            parts[number] = part

    with bar, ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, number) for number, part in enumerate(parts) if part is None]
        try:
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
        finally:  # on an error or Ctrl-C: leave at the next frame
            stop.set()
            pool.shutdown(cancel_futures=True)
    return [part for part in parts if part is not None]


def _finish(
    timeline: Timeline, output: Path, plan: dict, shape: Geometry, parts: list[dict], allow_damage: bool
) -> VideoIndex:
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
    return read_index(output)


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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see --help)")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="data_prep.video", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="any file that FFmpeg reads")
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="each video becomes a folder in it, named after its file",
    )
    parser.add_argument(
        "--every", type=int, metavar="N", help="store every Nth frame (default: about 6 a second; 1 stores all)"
    )
    parser.add_argument(
        "--short-side", type=int, default=540, metavar="PIXELS", help="scale down to this; never up (default 540)"
    )
    parser.add_argument("--quality", type=int, default=85, help="of the JPEG frames, 1 to 100 (default 85)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="segments decoded at once (default: one for each core)"
    )
    parser.add_argument("--allow-damage", action="store_true", help="take a video that is cut short as far as it goes")
    return parser.parse_args(argv)


def run(argv: Sequence[str] | None = None) -> None:
    """The command; raises InputError for bad input. All videos are looked at before the first is prepared."""
    args = _parse(argv)
    settings = Settings(args.every, args.short_side, args.quality)
    stems: dict[str, Path] = {}
    for video in args.videos:
        if video.stem in stems:
            raise InputError(
                f"{stems[video.stem]} and {video} would both become {args.output / video.stem}: use two --output"
            )
        stems[video.stem] = video
        open_video(video)[0].close()
    for stem, video in stems.items():
        index = prepare(
            video,
            args.output / stem,
            settings,
            threads=args.threads,
            allow_damage=args.allow_damage,
            progress=sys.stderr.isatty(),
        )
        print(summary(index))


def summary(index: VideoIndex) -> str:
    """What was made, in a line; one line more for each dropped span."""
    size = sum(segment.bytes for segment in index.segments)
    lines = [
        f"{index.folder}: {len(index.times)} frames of {index.width}x{index.height} (every {index.settings['every']}), "
        f"{index.duration:.1f} s, {size / 1e6:.1f} MB"
    ]
    lines += [f"  damaged, nothing stored: {start:.3f} s to {end:.3f} s" for start, end in index.dropped]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (2 for bad input, told in one line on standard error)."""
    try:
        run(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; what is finished stays: run the same command again to go on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what is finished stays: run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
