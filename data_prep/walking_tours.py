"""The Walking Tours videos, fetched and prepared: `python -m data_prep.walking_tours [NAME ...] --output DIR`.

Ten uncut walks in 4K at 60 frames a second ("Is ImageNet worth 1 video?", ICLR 2024), published on YouTube. Each
becomes a folder DIR/NAME; the downloads stay, in DIR/.downloads or where --keep says, with their checksums in
checksums.json. A video that YouTube no longer has may still be in the authors' archive (figshare, uvaauas, article
25189275); --from takes it from there, or from anywhere. What was stopped goes on where it was: run the same command
again.
"""

import argparse
import functools
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av

from data_prep import download
from data_prep.blur import Blur
from data_prep.command import Parser, call
from data_prep.prepare import Settings, recorded
from data_prep.store import difference, write_json
from data_prep.video import add_options, prepare_one, settings_of
from ssljax.data.index import INDEX, read_index
from ssljax.data.timeline import open_video
from ssljax.errors import InputError

CHECKSUMS = "checksums.json"
SHORTEST, LONGEST = 59 * 60.0, 175 * 60.0  # of all ten, by the dataset card
TOLERANCE = 120.0  # seconds: the card gives whole minutes, and does not say how it rounds
SUFFIXES = (".mp4", ".webm", ".mkv", ".mov")


@dataclass(frozen=True)
class Tour:
    """One video. seconds: how long it is; sha256: of the file; None where no source says."""

    name: str
    url: str
    seconds: float | None = None
    licence: str = "CC-BY"
    sha256: str | None = None


def _tour(name: str, video: str, seconds: float | None = None) -> Tour:
    return Tour(name, f"https://www.youtube.com/watch?v={video}", seconds)


# Addresses: WTour.txt of the data set shawshankvkt/Walking_Tours on the Hugging Face hub, at its commit 2901e37.
# Licence, and the durations of the longest and of the shortest: its dataset card. The other durations are not in it;
# no published checksums were found.
TOURS = {
    tour.name: tour
    for tour in (
        _tour("amsterdam", "E07rTPgIvn0"),
        _tour("bangkok", "hUGcHvN4mME", LONGEST),
        _tour("chiang-mai", "jyxIRzlkO_g"),
        _tour("istanbul", "mA9lYWyXMYU"),
        _tour("kuala-lumpur", "yLTycPjm0nk"),
        _tour("singapore", "aUJl46bEWYo"),
        _tour("stockholm", "Jr9x-RB4E1U"),
        _tour("venice", "fGX0Te6pFvk"),
        _tour("wildlife", "Q0ML5oAjX_w", SHORTEST),
        _tour("zurich", "_NmYvuEILw4"),
    )
}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="data_prep.walking_tours", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(TOURS)}")
    parser.add_argument("--list", action="store_true", help="print what there is, and leave")
    parser.add_argument("--output", type=Path, metavar="DIR", help="each video becomes a folder in it")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where downloads go (default: .downloads in --output)")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FOLDER", help="take the videos from it, no network"
    )
    parser.add_argument("--download-only", action="store_true", help="fetch and check, prepare nothing")
    add_options(parser)
    return parser.parse_args(argv)


def run(argv: Sequence[str] | None = None) -> None:
    """The command; raises InputError with a sentence for each video that failed, when all were tried."""
    args = _parse(argv)
    if args.list:
        print(table())
        return
    if args.output is None:
        raise InputError("--output DIR is missing (see --help)")
    if args.source is not None and not args.source.is_dir():
        raise InputError(f"--from {args.source} is not a folder")
    if args.shard[1] > 1 and args.source is None:
        raise InputError("--shard needs --from FOLDER: fetch the videos once, with --download-only, then share them")
    settings, redact = settings_of(args)
    tours = [_named(name) for name in args.names] or list(TOURS.values())
    failures: list[str] = []
    unable: dict[str, list[str]] = {}  # why: the names, as that is the same for all
    for tour in tours:
        try:
            _one(tour, settings, redact, args)
        except download.Unable as error:
            unable.setdefault(str(error), []).append(tour.name)
        except (InputError, OSError) as error:
            failures.append(f"{tour.name}: {error}")
    failures += [f"{', '.join(names)}: {why}" for why, names in unable.items()]
    if failures:
        raise InputError("\nerror: ".join(failures))


def table() -> str:
    """All videos: name, address, licence, duration, checksum."""
    rows = [("name", "address", "licence", "duration", "SHA-256")]
    for tour in TOURS.values():
        duration = f"about {_clock(tour.seconds)}" if tour.seconds else "unknown"
        rows.append((tour.name, tour.url, tour.licence, duration, tour.sha256 or "unknown"))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, f"All lie between {_clock(SHORTEST)} and {_clock(LONGEST)}."])


def _clock(seconds: float) -> str:
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def _key(text: str) -> str:
    """How names are compared: letters and digits; the authors' list writes Kuala_Lampur."""
    return "".join(c for c in text.casefold() if c.isalnum()).replace("lampur", "lumpur")


def _named(name: str) -> Tour:
    for tour in TOURS.values():
        if _key(tour.name) == _key(name):
            return tour
    raise InputError(f"{name} is none of the videos: {', '.join(TOURS)}")


def _one(tour: Tour, settings: Settings, redact: Blur | None, args: argparse.Namespace) -> None:
    """Fetch and prepare one video, or see that it is done."""
    output = args.output / tour.name
    if (output / INDEX).is_file() and not args.download_only:
        _same_settings(output, settings, redact)
        print(f"{output}: is finished")
        return
    keep = args.keep or args.output / ".downloads"
    file = find(tour, args.source or keep)
    if file is None and args.source is not None:
        raise InputError(f"{args.source} holds no file of it: name it {tour.name}.mp4 (or {', '.join(SUFFIXES[1:])})")
    if file is None:
        check = functools.partial(check_duration, tour)
        file = download.fetch(tour.name, tour.url, keep, check)
    else:
        check_duration(tour, file)
    check_sum(tour, file, keep)
    if args.download_only:
        print(f"{file}: is there, {file.stat().st_size / 1e9:.2f} GB")
    else:
        prepare_one(file, output, settings, redact, args)


def _same_settings(output: Path, settings: Settings, redact: Blur | None) -> None:
    """InputError if a finished preparation was made with other settings; --every is compared if it was given."""
    found, asked = read_index(output).settings, recorded(settings, redact)
    asked = {key: found.get(key) if value is None else value for key, value in asked.items()}
    made = {key: found[key] for key in {*asked, "blur"} if key in found}
    if made != asked:
        told = difference(made, asked)
        raise InputError(f"{output} was prepared with other settings ({told}): choose another --output or remove it")


def find(tour: Tour, folder: Path) -> Path | None:
    """The video's file in a folder: named after it, or with its YouTube id in the name. InputError if there are two."""
    if not folder.is_dir():
        return None
    identity = f"[{tour.url.rpartition('=')[2]}]"  # where yt-dlp puts it by default
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES and file.name[0] != "."]
    found = [file for file in files if _key(file.stem) == _key(tour.name) or identity in file.name]
    if len(found) > 1:
        raise InputError(f"{' and '.join(map(str, found))} are both its file: leave one of them")
    return found[0] if found else None


def check_duration(tour: Tour, file: Path, told: float | None = None) -> None:
    """InputError if a file promises another duration than the video has: to 2 minutes (see TOLERANCE), or, where the
    site has told it, to 2 seconds (it tells whole ones).
    """
    container, _ = open_video(file)
    with container:
        if container.duration is None:
            return  # the preparation reads all of it and notices what is missing
        seconds = container.duration / av.time_base
    low, high = (tour.seconds, tour.seconds) if tour.seconds else (SHORTEST, LONGEST)
    if told is not None and abs(seconds - told) > 2:
        raise InputError(
            f"{file} is {seconds:.0f} s long instead of the {told:.0f} s that the site tells: fetch it again"
        )
    if not low - TOLERANCE <= seconds <= high + TOLERANCE:
        expected = f"about {_clock(low)}" if low == high else f"between {_clock(low)} and {_clock(high)}"
        raise InputError(f"{file} is {seconds:.0f} s long instead of {expected}: it is cut short, or another video")


def check_sum(tour: Tour, file: Path, keep: Path) -> None:
    """Compare a file's SHA-256 with the known one and with an earlier one; write it to checksums.json."""
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    path = keep / CHECKSUMS
    known: dict = {}
    for place in dict.fromkeys((path, file.parent / CHECKSUMS)):
        if place.is_file():
            try:
                known = json.loads(place.read_bytes()) | known
            except (ValueError, TypeError) as error:
                raise InputError(f"{place} is not what this command writes ({error}): remove it") from error
    earlier = tour.sha256 or known.get(tour.name, {}).get("sha256")
    if earlier not in (None, sha256):
        raise InputError(
            f"{file} has changed: its SHA-256 is {sha256}, not {earlier}; bring back the file that it was, or "
            f"remove its entry from {CHECKSUMS} to take this one"
        )
    if tour.name not in known:
        keep.mkdir(parents=True, exist_ok=True)
        entry = {"file": file.name, "bytes": file.stat().st_size, "sha256": sha256, "url": tour.url}
        write_json(path, known | {tour.name: entry})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (2 with a line on standard error for each video that failed)."""
    return call(run, argv)


if __name__ == "__main__":
    sys.exit(main())
