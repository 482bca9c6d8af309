"""Long videos to seekable records: `python -m data_prep.video VIDEO... --output DIR`.

Each video is decoded once, in order, and becomes a folder DIR/STEM of JPEG frames in ArrayRecord files with an index
(see ssljax/data/index.py). The work is cut at keyframes into segments of about a minute, which are decoded in parallel;
a finished segment is never done again, so that a stopped preparation goes on where it was: run the same command again.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tqdm import tqdm

from data_prep.decode import Timeline, decode, open_video, survey
from data_prep.picture import Geometry, geometry, to_jpeg
from ssljax.data.index import INDEX, VERSION, VideoIndex, read_index
from ssljax.errors import InputError

PLAN = "plan.json"  # what an unfinished preparation was asked to do
RATE = 6.0  # stored frames a second by default: a twelfth of a gigabyte a minute at 540 pixels, divides the usual gaps
SEGMENT_SECONDS = 60.0


@dataclass(frozen=True)
class Settings:
    """What decides the stored bytes. every: store every so many frames; None: about 6 a second."""

    every: int | None = None
    short_side: int = 540
    quality: int = 85

    def __post_init__(self):
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
    plan = {
        "version": VERSION,
        "name": video.stem,
        "source": {"file": video.name, "bytes": video.stat().st_size, "fingerprint": fingerprint(video)},
        "settings": {**asdict(settings), "every": settings.every or every(timeline), "segment_seconds": segment_seconds},
    }
    if _is_finished(output, plan):
        return read_index(output)
    shape = geometry(*_first_frame(timeline), settings.short_side)
    _claim(output, plan)
    convert = functools.partial(to_jpeg, shape=shape, quality=settings.quality)
    parts = _prepare_segments(timeline, output, plan["settings"], convert, threads or os.cpu_count() or 1, progress)
    return _finish(timeline, output, plan, shape, parts, allow_damage)


def fingerprint(path: Path) -> str:
    """SHA-256 of the size and of 64 pieces of 64 KiB spread evenly over a file: tells files apart without reading all."""
    size, piece = path.stat().st_size, 64 * 1024
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for i in range(64):
            file.seek(max(size - piece, 0) * i // 63)
            digest.update(file.read(piece))
    return digest.hexdigest()


def every(timeline: Timeline) -> int:
    """The default: store about 6 frames a second (30 fps: every 5th; 24 or 25: every 4th; 60: every 10th)."""
    rate = (len(timeline.pts) - 1) / timeline.seconds(timeline.pts[-1])
    return max(1, round(rate / RATE))


def _first_frame(timeline: Timeline):
    """(the first frame that decodes, the width-to-height ratio of its pixels)."""
    container, stream = open_video(timeline.path)
    ratio = stream.sample_aspect_ratio
    container.close()
    for g in range(len(timeline.keys)):
        kept = []
        for _ in decode(timeline, g, g + 1, {int(timeline.keys[g])}, lambda frame: kept.append(frame) or b"", lambda: bool(kept)):
            pass
        if kept:
            return kept[0], float(ratio) if ratio else 1.0
    raise InputError(f"no frame of {timeline.path} can be decoded: it is damaged, or its codec is not supported")


def _is_finished(output: Path, plan: dict) -> bool:
    """Whether `output` holds the finished result of `plan`; InputError if it holds anything else than (part of) that."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file, not a folder: choose another --output")
    for name in (INDEX, PLAN):
        if (output / name).is_file():
            try:
                found = json.loads((output / name).read_bytes())
            except ValueError as error:
                raise InputError(f"{output / name} is not what a preparation writes: choose another --output") from error
            for key, what in (("version", "by another version"), ("source", "from another file"), ("settings", "with other settings")):
                if found.get(key) != plan[key]:
                    raise InputError(
                        f"{output} was prepared {what} ({_difference(found.get(key), plan[key])}): choose another --output or remove it"
                    )
            if name == INDEX:
                _clean(output)
            return name == INDEX
    if output.is_dir() and any(output.iterdir()):
        raise InputError(f"{output} holds files that are not a preparation's: choose another --output")
    return False


def _difference(was, now) -> str:
    if not isinstance(was, dict) or not isinstance(now, dict):
        return f"{was} instead of {now}"
    return ", ".join(f"{key} {was.get(key)} instead of {now[key]}" for key in now if was.get(key) != now[key])


def _claim(output: Path, plan: dict) -> None:
    output.mkdir(parents=True, exist_ok=True)
    if not (output / PLAN).is_file():
        _write_json(output / PLAN, plan)


def _write_json(path: Path, value: dict) -> None:
    """Write by rename, so that a file is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def segments(timeline: Timeline, seconds: float) -> list[tuple[int, int]]:
    """[(first GOP, end GOP), ...]: as many whole GOPs as it takes to fill `seconds`."""
    starts, last = [0], timeline.keys[0]
    for g, key in enumerate(timeline.keys):
        if (key - last) * timeline.tick >= seconds:
            starts.append(g)
            last = key
    return list(zip(starts, [*starts[1:], len(timeline.keys)], strict=True))


def _prepare_segments(timeline, output, settings, convert, threads, progress) -> list[dict]:
    """Do what is not done yet, in parallel; return all segments in order. The first error stops the others."""
    wanted = {int(time) for time in timeline.pts[:: settings["every"]]}
    jobs = segments(timeline, settings["segment_seconds"])
    parts = [_finished_segment(output, number) for number in range(len(jobs))]
    bounds = np.searchsorted(timeline.pts, np.append(timeline.keys, np.iinfo(np.int64).max))
    done = sum(int(bounds[b] - bounds[a]) for (a, b), part in zip(jobs, parts, strict=True) if part is not None)
    stop, lock = threading.Event(), threading.Lock()
    bar = tqdm(total=len(timeline.pts), initial=done, unit=" frames", desc=timeline.path.name, disable=not progress, mininterval=0.5)

    def advance(frames: int) -> None:
        with lock:
            bar.update(frames)

    def work(number: int) -> None:
        first, end = jobs[number]
        groups = decode(timeline, first, end, wanted, convert, stop.is_set)
        part = _write_segment(timeline, output, number, groups, advance, stop)
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
    return parts


def _finished_segment(output: Path, number: int) -> dict | None:
    """What `_write_segment` left, if it came to its end."""
    path = output / f"segment-{number:05d}.json"
    if not path.is_file():
        return None
    part = json.loads(path.read_bytes())
    if part["frames"] and (output / part["file"]).stat().st_size != part["bytes"]:
        raise InputError(f"{output / part['file']} was changed since it was written: remove {output} and prepare again")
    return part


def _write_segment(timeline: Timeline, output: Path, number: int, groups, advance, stop) -> dict | None:
    """Write the sound frames of one segment and, last, what they are; None if stopped before the end."""
    name = f"frames-{number:05d}.array_record"
    temporary = output / f".{name}.{os.getpid()}.tmp"
    times, dropped, digest = [], [], hashlib.sha256()
    writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
    for g, frames, count in groups:
        if frames is None:
            dropped.append(g)
        for pts, jpeg in frames or []:
            writer.write(jpeg)
            digest.update(jpeg)
            times.append(timeline.seconds(pts))
        advance(count)
    writer.close()
    if stop.is_set():
        temporary.unlink()
        return None
    part = {"file": name, "frames": len(times), "bytes": 0, "sha256": digest.hexdigest(), "times": times, "dropped": dropped}
    if times:
        reader = ArrayRecordReader(str(temporary))
        if reader.num_records() != len(times):
            raise OSError(f"{temporary} holds {reader.num_records()} of {len(times)} frames: is the disk full?")
        reader.close()
        part["bytes"] = temporary.stat().st_size
        temporary.replace(output / name)
    else:
        temporary.unlink()
    _write_json(output / f"segment-{number:05d}.json", part)
    return part


def _finish(timeline: Timeline, output: Path, plan: dict, shape: Geometry, parts: list[dict], allow_damage: bool) -> VideoIndex:
    """Write the index, the sign that all is done, then remove the traces of the work."""
    times = [time for part in parts for time in part["times"]]
    if not times:
        raise InputError(f"no stored frame of {timeline.path} is undamaged: it cannot be used")
    dropped = _spans(timeline, [g for part in parts for g in part["dropped"]])
    if dropped and dropped[-1][1] >= timeline.duration and not allow_damage:
        lost = dropped[-1][1] - dropped[-1][0]
        if lost > min(1.0, 0.02 * timeline.duration):
            raise _truncated(timeline, dropped[-1][0])
    if timeline.missing:
        dropped.append((timeline.duration, timeline.declared))
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
    _write_json(output / INDEX, index)
    _clean(output)
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


def _clean(output: Path) -> None:
    for pattern in ("segment-*.json", ".*.tmp", PLAN):
        for path in output.glob(pattern):
            path.unlink(missing_ok=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(f"{message} (see --help)")


def _parse(argv) -> argparse.Namespace:
    parser = _Parser(prog="data_prep.video", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="any file that FFmpeg reads")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="each video becomes a folder in it, named after its file")
    parser.add_argument("--every", type=int, metavar="N", help="store every Nth frame (default: about 6 a second; 1 stores all)")
    parser.add_argument("--short-side", type=int, default=540, metavar="PIXELS", help="scale down to this; never up (default 540)")
    parser.add_argument("--quality", type=int, default=85, help="of the JPEG frames, 1 to 100 (default 85)")
    parser.add_argument("--threads", type=int, metavar="N", help="segments decoded at once (default: one for each core)")
    parser.add_argument("--allow-damage", action="store_true", help="take a video that is cut short as far as it goes")
    return parser.parse_args(argv)


def run(argv=None) -> None:
    """The command; raises InputError for bad input. All videos are looked at before the first is prepared."""
    args = _parse(argv)
    settings = Settings(args.every, args.short_side, args.quality)
    stems: dict[str, Path] = {}
    for video in args.videos:
        if video.stem in stems:
            raise InputError(f"{stems[video.stem]} and {video} would both become {args.output / video.stem}: use two --output")
        stems[video.stem] = video
        open_video(video)[0].close()
    for stem, video in stems.items():
        index = prepare(
            video, args.output / stem, settings, threads=args.threads, allow_damage=args.allow_damage, progress=sys.stderr.isatty()
        )
        print(summary(index))


def summary(index: VideoIndex) -> str:
    """What was made, in a line; one line more for each dropped span."""
    size = sum(segment.bytes for segment in index.segments)
    lines = [
        f"{index.folder}: {len(index.times)} frames of {index.width}x{index.height}, every {index.settings['every']} frames, "
        f"{index.duration:.1f} s, {size / 1e6:.1f} MB"
    ]
    lines += [f"  damaged, nothing stored: {start:.3f} s to {end:.3f} s" for start, end in index.dropped]
    return "\n".join(lines)


def main(argv=None) -> int:
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
