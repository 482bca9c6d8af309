"""DAVIS for video object segmentation: `python -m data_prep.davis PATH --output DIR`.

PATH is an archive of DAVIS 2016 or 2017 (.zip), or the folder that was extracted from it, with `JPEGImages` and
`Annotations` in it. Every frame and mask is decoded and compared in size; what does not fit is named, and nothing is
prepared then. Files are copied as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from data_prep.command import Parser, call
from data_prep.imageset import printable
from data_prep.masked import Problem, checked, open_source, sequence_names
from data_prep.store import write_json
from ssljax.data.davis import KIND, VERSION, MaskedSequence, MaskedSequences
from ssljax.data.index import INDEX
from ssljax.errors import InputError

_NAMED = 20  # problems listed


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="data_prep.davis", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, metavar="PATH", help="archive or folder of DAVIS")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the prepared set")
    parser.add_argument(
        "--resolution",
        default="480p",
        help="480p, 1080p, Full-Resolution: a folder in JPEGImages (default %(default)s)",
    )
    parser.add_argument(
        "--set",
        dest="name",
        metavar="YEAR/NAME",
        help="list in ImageSets of the sequences to take (default: 2017/val, or RESOLUTION/val as in 2016; where there "
        "are no lists: all sequences)",
    )
    parser.add_argument(
        "--first-only", action="store_true", help="first frames alone have masks, as in test sets: nothing is scored"
    )
    return parser.parse_args(argv)


def run(argv: Sequence[str] | None = None) -> None:
    """The command; raises InputError for bad input."""
    args = _parse(argv)
    source = open_source(args.path)
    names = sequence_names(source, args.resolution, args.name)
    found, problems = list[MaskedSequence](), list[str]()
    for name in names:
        try:
            found.append(checked(source, args.resolution, name, first_only=args.first_only))
        except Problem as problem:
            problems += [f"{name}: {reason}" for reason in problem.reasons]
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        told = "; ".join(printable(problem) for problem in problems[:_NAMED])
        raise InputError(f"{args.path} cannot be used, mend it or extract it again: {told}{more}")
    _write(args.output, found, lambda file: source.read(_place(file, args.resolution)))
    print(summary(MaskedSequences(args.output)))


def _write(output: Path, sequences: Sequence[MaskedSequence], read: Callable[[str], bytes]) -> None:
    """Copy the files, and write the index last; a finished preparation of the same is left as it is."""
    items = [dataclasses.asdict(sequence) for sequence in sequences]
    if (output / INDEX).exists():
        if MaskedSequences(output).sequences == list(sequences):
            return
        raise InputError(f"{output} was prepared from other files: choose another --output or remove it")
    if output.exists() and (not output.is_dir() or {path.name for path in output.iterdir()} - {"frames", "masks"}):
        raise InputError(f"{output} holds something else: choose another --output")
    for sequence in sequences:
        for file in sequence.files():
            (output / file).parent.mkdir(parents=True, exist_ok=True)
            (output / file).write_bytes(read(file))
    write_json(output / INDEX, {"version": VERSION, "kind": KIND, "sequences": items})


def _place(file: str, resolution: str) -> str:
    """Where a file of the prepared set is in the source."""
    kind, rest = file.split("/", 1)
    return f"{'JPEGImages' if kind == 'frames' else 'Annotations'}/{resolution}/{rest}"


def summary(data: MaskedSequences) -> str:
    """What was made, in a line."""
    frames = sum(len(sequence.frames) for sequence in data.sequences)
    objects = sum(sequence.objects for sequence in data.sequences)
    sizes = sorted({(sequence.width, sequence.height) for sequence in data.sequences})
    told = " to ".join(f"{width}x{height}" for width, height in (sizes[:1] + sizes[1:][-1:]))
    masks = "masks of all" if all(sequence.scored for sequence in data.sequences) else "masks of the first ones"
    return f"{data.folder}: {len(data.sequences)} sequences, {frames} frames of {told}, {objects} objects, {masks}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return call(run, argv)


if __name__ == "__main__":
    sys.exit(main())
