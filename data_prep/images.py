"""Image sets to records: `python -m data_prep.images FOLDER --output DIR`.

FOLDER is any folder of images, with or without a subfolder for each class; the word `cifar10` makes DIR/train and
DIR/test of CIFAR-10 (./cifar10 is a folder of that name). Every image is decoded once, on all cores: what cannot be
read is named and left out. Upright RGB and grey JPEGs keep their bytes. A stopped preparation goes on where it was: run
the same command again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_prep.cifar10 import prepare_cifar10
from data_prep.command import Parser, call
from data_prep.folder import folder_source
from data_prep.imageset import printable, write_set
from ssljax.data.imageset import ImageIndex
from ssljax.errors import InputError

_NAMED = 20  # bad images listed in the summary


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="data_prep.images", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="of images; or the word cifar10")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the prepared set")
    parser.add_argument("--short-side", type=int, metavar="PIXELS", help="scale down to this; never up (default: keep)")
    parser.add_argument(
        "--quality", type=int, default=95, help="of JPEGs that must be made anew, 1 to 100 (default %(default)s)"
    )
    parser.add_argument(
        "--bad-share", type=float, default=0.01, metavar="SHARE", help="of unreadable images allowed (default 0.01)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="that decode (default: one for each core)")
    parser.add_argument(
        "--from",
        dest="archive",
        type=Path,
        metavar="FILE",
        help="for cifar10: its archive (python or binary version) or an .npz of JPEG bytes; fetched without",
    )
    return parser.parse_args(argv)


def run(argv: Sequence[str] | None = None) -> None:
    """The command; raises InputError for bad input."""
    args = _parse(argv)
    began, progress = time.monotonic(), sys.stderr.isatty()
    if args.folder == "cifar10":
        for index in prepare_cifar10(args.output, args.archive, progress=progress):
            print(summary(index, time.monotonic() - began))
        return
    _check(args)
    source, others = folder_source(Path(args.folder), short_side=args.short_side, quality=args.quality)
    index = write_set(
        source,
        args.output,
        {"short_side": args.short_side, "quality": args.quality},
        bad_share=args.bad_share,
        threads=args.threads,
        progress=progress,
    )
    print(summary(index, time.monotonic() - began, others))


def _check(args: argparse.Namespace) -> None:
    if args.archive is not None:
        raise InputError("--from goes with cifar10: leave it out for a folder")
    if args.short_side is not None and args.short_side < 1:
        raise InputError(f"--short-side {args.short_side} must be at least 1")
    if not 1 <= args.quality <= 100:
        raise InputError(f"--quality {args.quality} must lie between 1 and 100")
    if args.threads is not None and args.threads < 1:
        raise InputError(f"--threads {args.threads} must be at least 1")


def summary(index: ImageIndex, seconds: float, others: Counter[str] | None = None) -> str:
    """What was made, and in how many seconds; more lines for what was left out."""
    size = sum(segment.bytes for segment in index.segments)
    smallest, largest = index.sizes.min(axis=0), index.sizes.max(axis=0)
    labels = f"{len(index.classes)} classes" if index.classes else "no labels"
    lines = [
        f"{index.folder}: {len(index.names)} images of {smallest[0]}x{smallest[1]} to {largest[0]}x{largest[1]} "
        f"pixels, {labels}, {size / 1e6:.1f} MB, in {seconds:.1f} s"
    ]
    lines += [f"  left out: {printable(name)} ({reason})" for name, reason in index.bad[:_NAMED]]
    if len(index.bad) > _NAMED:
        lines.append(f"  left out: {len(index.bad) - _NAMED} more, which index.json names")
    if others:
        kinds = ", ".join(f"{count} {printable(ending)}" for ending, count in others.most_common(5))
        lines.append(f"  not images: {kinds}{', ...' if len(others) > 5 else ''}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return call(run, argv)


if __name__ == "__main__":
    sys.exit(main())
