"""Long videos to seekable records: `python -m data_prep.video VIDEO... --output DIR`.

Each video is decoded once, in order, on all cores, and becomes a folder DIR/STEM of frames with an index (see
ssljax/data/index.py) and a contact sheet. Every stored frame is read back and decoded once more. A stopped preparation
goes on where it was: run the same command again. Several machines that share DIR do it together with --shard.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_prep.blur import Blur
from data_prep.command import Parser, call
from data_prep.contact import CONTACT
from data_prep.prepare import Settings, prepare_shard
from ssljax.data.index import VideoIndex
from ssljax.data.timeline import open_video
from ssljax.errors import InputError


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="data_prep.video", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="any file that FFmpeg reads")
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="each video becomes a folder in it, named after its file",
    )
    add_options(parser)
    return parser.parse_args(argv)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that prepares videos; `prepare_one` takes what they parse to."""
    parser.add_argument(
        "--every", type=int, metavar="N", help="store every Nth frame (default: about 6 a second; 1 stores all)"
    )
    parser.add_argument(
        "--short-side", type=int, default=540, metavar="PIXELS", help="scale down to this; never up (default 540)"
    )
    parser.add_argument("--quality", type=int, default=80, help="of the JPEG frames, 1 to 100 (default 80)")
    parser.add_argument(
        "--chroma", type=int, default=420, help="420 stores colour at half the resolution (default), 444 at all of it"
    )
    parser.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="do only the Ith of N parts, on one of N machines"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="segments decoded at once (default: one for each core)"
    )
    parser.add_argument("--allow-damage", action="store_true", help="take a video that is cut short as far as it goes")
    parser.add_argument(
        "--blur",
        action="append",
        metavar="WHAT",
        help="faces, plates, both, or package.module.function, a detector of your own; may be given again",
    )


def _shard(text: str) -> tuple[int, int]:
    """I/N as (I, N)."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(
            f"{text} must be I/N with 1 <= I <= N, such as 2/4 on the second of four machines"
        )
    return int(number), int(count)


def run(argv: Sequence[str] | None = None) -> None:
    """The command; raises InputError for bad input. All videos are looked at before the first is prepared."""
    args = _parse(argv)
    settings, redact = settings_of(args)
    stems: dict[str, Path] = {}
    for video in args.videos:
        if video.stem in stems:
            raise InputError(
                f"{stems[video.stem]} and {video} would both become {args.output / video.stem}: use two --output"
            )
        stems[video.stem] = video
        open_video(video)[0].close()
    for stem, video in stems.items():
        prepare_one(video, args.output / stem, settings, redact, args)


def settings_of(args: argparse.Namespace) -> tuple[Settings, Blur | None]:
    """What decides the stored bytes, from parsed options; InputError if one of them makes no sense."""
    if args.threads is not None and args.threads < 1:
        raise InputError(f"--threads {args.threads} must be at least 1")
    redact = Blur(args.blur) if args.blur else None
    return Settings(args.every, args.short_side, args.quality, args.chroma), redact


def prepare_one(video: Path, output: Path, settings: Settings, redact: Blur | None, args: argparse.Namespace) -> None:
    """Prepare one video and print what was made."""
    began = time.monotonic()
    index = prepare_shard(
        video,
        output,
        settings,
        shard=args.shard,
        threads=args.threads,
        allow_damage=args.allow_damage,
        progress=sys.stderr.isatty(),
        redact=redact,
    )
    if index is None:
        number, count = args.shard
        print(f"{output}: part {number} of {count} is done, others are not; the last one finishes")
    else:
        print(summary(index, time.monotonic() - began))


def summary(index: VideoIndex, seconds: float) -> str:
    """What was made, and in how many seconds; a line more for each dropped span and for the contact sheet."""
    size = sum(segment.bytes for segment in index.segments)
    lines = [
        f"{index.folder}: {len(index.times)} frames of {index.width}x{index.height} (every {index.settings['every']}), "
        f"{index.duration:.1f} s, {size / 1e6:.1f} MB, in {seconds:.1f} s"
    ]
    lines += [f"  damaged, nothing stored: {start:.3f} s to {end:.3f} s" for start, end in index.dropped]
    lines.append(f"  to look at: {index.folder / CONTACT}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return call(run, argv)


if __name__ == "__main__":
    sys.exit(main())
