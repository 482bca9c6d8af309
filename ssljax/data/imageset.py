"""What a prepared set of images is on disk: a folder of ArrayRecord files, one image a record, with an `index.json`.

    flowers/
      index.json       written last: its presence means that the preparation is complete
      images-00000.array_record, ...

A record is an upright RGB or grey image of 8 bits, as JPEG or PNG. `index.json` holds the rest, and nothing that
depends on when or where it was made, so that its checksum names the data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from ssljax.data.damage import DamagedFrame
from ssljax.data.index import INDEX, Segment
from ssljax.data.records import Shards
from ssljax.errors import InputError

VERSION = 1
KIND = "images"


@runtime_checkable
class ImageSource(Protocol):
    """A finite set of encoded images, by number from 0 to `count` - 1; safe to ask from several threads."""

    where: str
    checksum: str
    count: int
    classes: tuple[str, ...]

    def labels(self) -> np.ndarray | None:
        """int32 [count], numbers of `classes`; None where there are none."""
        ...

    def encoded(self, number: int) -> bytes:
        """A JPEG or a PNG; DamagedFrame where it is not what was written."""
        ...

    def name(self, number: int) -> str:
        """What the image is called, for people."""
        ...


@dataclass(frozen=True)
class ImageIndex:
    """A prepared set of images.

    `names` are where each came from, `sizes` int32 [count, 2] their stored widths and heights; `bad` the names of those
    that could not be read and were left out, each with the reason.
    """

    folder: Path
    names: tuple[str, ...]
    sizes: np.ndarray
    classes: tuple[str, ...]
    labels: np.ndarray | None
    bad: tuple[tuple[str, str], ...]
    segments: tuple[Segment, ...]
    source: dict
    settings: dict
    checksum: str


def read_image_index(folder: str | os.PathLike[str]) -> ImageIndex:
    """Read and check the index of one prepared set of images; InputError if it is missing, foreign or incomplete."""
    folder = Path(folder)
    path = folder / INDEX
    if not path.is_file():
        raise InputError(_not_prepared(folder))
    content = path.read_bytes()
    try:
        raw = json.loads(content)
        if raw.get("kind") != KIND:
            raise InputError(f'{folder} holds no images but a prepared video: read it with data.name="frames"')
        if raw["version"] != VERSION:
            raise InputError(
                f"{path} has version {raw['version']}, this program reads {VERSION}: prepare the images again"
            )
        index = _parse(folder, raw, hashlib.sha256(content).hexdigest())
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not the index of prepared images ({error!r}): prepare them again") from error
    _check(index, path)
    return index


def _not_prepared(folder: Path) -> str:
    command = f"`python -m data_prep.images {folder} --output DIR`"
    if not folder.is_dir():
        return f"{folder} is not a folder: name one made by `python -m data_prep.images`"
    inside = sorted(child.name for child in folder.iterdir() if (child / INDEX).is_file())
    if inside:
        return (
            f"{folder} is no data set itself but holds {', '.join(inside[:5])}: name one, such as {folder / inside[0]}"
        )
    return f"{folder} holds no prepared images ({INDEX} is missing): run {command} first, or again, and name that DIR"


def _parse(folder: Path, raw: dict, checksum: str) -> ImageIndex:
    return ImageIndex(
        folder=folder,
        names=tuple(raw["names"]),
        sizes=np.asarray(raw["sizes"], np.int32).reshape(-1, 2),
        classes=tuple(raw["classes"]),
        labels=None if raw["labels"] is None else np.asarray(raw["labels"], np.int32),
        bad=tuple((name, reason) for name, reason in raw["bad"]),
        segments=tuple(Segment(**segment) for segment in raw["segments"]),
        source=raw["source"],
        settings=raw["settings"],
        checksum=checksum,
    )


def _check(index: ImageIndex, path: Path) -> None:
    counts = {len(index.names), len(index.sizes), sum(segment.frames for segment in index.segments)}
    if index.labels is not None:
        counts.add(len(index.labels))
    if len(counts) != 1:
        raise InputError(f"{path} contradicts itself (names, sizes, labels and records differ): prepare again")
    if index.labels is not None and len(index.labels):
        for label in (int(index.labels.min()), int(index.labels.max())):
            if not 0 <= label < len(index.classes):
                raise InputError(
                    f"{path} has the label {label}, but its {len(index.classes)} classes are 0 to "
                    f"{len(index.classes) - 1}: prepare the images again"
                )
    if not index.names:
        raise InputError(f"{path.parent} holds no images: prepare a folder that has some")
    for segment in index.segments:
        file = index.folder / segment.file
        size = file.stat().st_size if file.is_file() else None
        if size != segment.bytes:
            found = "is missing" if size is None else f"has {size} bytes instead of {segment.bytes}"
            raise InputError(f"{file} {found}: copy it again, or prepare the images again")


class ImageSet:
    """A prepared folder as an `ImageSource`. It can be pickled and sent to a worker."""

    def __init__(self, folder: str | os.PathLike[str]):
        self.index = read_image_index(folder)
        self.where, self.checksum = str(folder), self.index.checksum
        self.count, self.classes = len(self.index.names), self.index.classes
        self._records = Shards(self.index.folder, self.index.segments)

    def labels(self) -> np.ndarray | None:
        """See `ImageSource`."""
        return self.index.labels

    def encoded(self, number: int) -> bytes:
        """See `ImageSource`."""
        try:
            return self._records.read(number)
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            raise DamagedFrame(
                f"image {number} ({self.name(number)}) of {self._records.file(number)} cannot be read ({error}): "
                "copy it again, or prepare the images again"
            ) from error

    def name(self, number: int) -> str:
        """See `ImageSource`."""
        return self.index.names[number]


def find_image_sets(places: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[ImageSet]:
    """The prepared sets of images at `places`; InputError if there are none, or one is named twice."""
    if isinstance(places, (str, os.PathLike)):
        places = [places]
    if not any(map(str, places)):  # an empty name would be the folder that the program runs in
        raise InputError("no images were named: name at least one folder made by `python -m data_prep.images`")
    sets = [ImageSet(place) for place in places]
    seen = set()
    for images in sets:
        folder = images.index.folder.resolve()
        if folder in seen:
            raise InputError(f"{images.where} is named twice: give it a weight instead")
        seen.add(folder)
    return sets
