"""What a prepared video is on disk: a folder of ArrayRecord files (of frames: tiles.py) with an `index.json`.

    venice/              several prepared videos
      Venice/            one prepared video, named after its file
        index.json       written last: its presence means that the preparation is complete
        frames-00000.array_record, ...

`index.json` holds what a reader needs and nothing that depends on when or where it was made, so that its checksum names
the data: two preparations of one file with the same settings are equal.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssljax.errors import InputError

VERSION = 3  # of the records too: 1 held a whole frame in one JPEG, 2 in tiles, 3 in tiles that share a header
INDEX = "index.json"


@dataclass(frozen=True)
class Segment:
    """One record file: frames in order of presentation."""

    file: str
    frames: int
    bytes: int
    sha256: str  # of the records, one after the other


@dataclass(frozen=True)
class VideoIndex:
    """A prepared video.

    `times` are the presentation times of the stored frames in seconds after the video's first frame, rising;
    `dropped` the damaged spans (start, end) in the same seconds, of which nothing is stored.
    """

    folder: Path
    name: str
    width: int
    height: int
    duration: float
    times: np.ndarray
    dropped: tuple[tuple[float, float], ...]
    segments: tuple[Segment, ...]
    source: dict
    settings: dict
    checksum: str

    @property
    def spacing(self) -> float:
        """The usual distance of stored frames in seconds (the median)."""
        return float(np.median(np.diff(self.times))) if len(self.times) > 1 else 0.0


def read_index(folder: str | os.PathLike) -> VideoIndex:
    """Read and check the index of one prepared video; InputError if it is missing, foreign or incomplete."""
    folder = Path(folder)
    path = folder / INDEX
    if not path.is_file():
        raise InputError(
            f"{folder} holds no prepared video ({INDEX} is missing): run `ssljax prepare video` first, or again"
        )
    try:
        raw = json.loads(path.read_bytes())
        if "kind" in raw:
            raise InputError(f'{folder} holds no video but prepared {raw["kind"]}: read them with data.name="images"')
        if raw["version"] != VERSION:
            raise InputError(
                f"{path} has version {raw['version']}, this program reads {VERSION}: prepare the video again"
            )
        index = _parse(folder, raw)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not the index of a prepared video ({error!r}): prepare the video again") from error
    _check(index, path)
    return index


def _parse(folder: Path, raw: dict) -> VideoIndex:
    return VideoIndex(
        folder=folder,
        name=raw["name"],
        width=raw["width"],
        height=raw["height"],
        duration=raw["duration"],
        times=np.asarray(raw["times"], np.float64),
        dropped=tuple((float(a), float(b)) for a, b in raw["dropped"]),
        segments=tuple(Segment(**segment) for segment in raw["segments"]),
        source=raw["source"],
        settings=raw["settings"],
        checksum=hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest(),
    )


def _check(index: VideoIndex, path: Path) -> None:
    if len(index.times) != sum(segment.frames for segment in index.segments) or np.any(np.diff(index.times) <= 0):
        raise InputError(f"{path} contradicts itself (frames and times differ): prepare the video again")
    for segment in index.segments:
        file = index.folder / segment.file
        size = file.stat().st_size if file.is_file() else None
        if size != segment.bytes:
            found = "is missing" if size is None else f"has {size} bytes instead of {segment.bytes}"
            raise InputError(f"{file} {found}: copy it again, or prepare the video again")


def find_videos(places: str | os.PathLike | Sequence[str | os.PathLike]) -> list[VideoIndex]:
    """The prepared videos at `places`: each a prepared video or a folder whose subfolders (in order) are such.

    A subfolder whose preparation has not finished is an InputError, never left out in silence.
    """
    if isinstance(places, (str, os.PathLike)):
        places = [places]
    folders = []
    for place in map(Path, filter(str, places)):  # an empty name would be the folder that the program runs in
        if not place.is_dir():
            raise InputError(f"{place} is not a folder: name a folder made by `ssljax prepare video`")
        inside = sorted(child for child in place.iterdir() if child.is_dir() and not child.name.startswith("."))
        folders += [place] if (place / INDEX).is_file() or not inside else inside
    if not folders:
        raise InputError("no video was named: name at least one folder made by `ssljax prepare video`")
    indexes = [read_index(folder) for folder in folders]
    seen = {}
    for index in indexes:
        if index.folder.resolve() in seen:
            raise InputError(f"{index.folder} is named twice: give it a weight instead")
        seen[index.folder.resolve()] = index
    return indexes


def combined_checksum(indexes: Sequence[VideoIndex]) -> str:
    """One checksum for several videos in this order: equal when and only when the data are."""
    return hashlib.sha256("".join(index.checksum for index in indexes).encode()).hexdigest()
