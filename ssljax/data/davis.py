"""What a prepared set for video object segmentation is on disk: the frames and masks themselves, with an `index.json`.

    davis/
      index.json                  written last: its presence means that the preparation is complete
      frames/blackswan/00000.jpg, ...
      masks/blackswan/00000.png, ...   of all frames, or of the first alone

Files are those of the set as it was published, byte by byte, so that `index.json` and its checksum name the data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ssljax.data.index import INDEX
from ssljax.errors import InputError

VERSION = 1
KIND = "sequences with masks"
VOID = 255  # in masks of numbered objects: pixels that count as none
MIN_SCORED = 3  # frames: the first and the last do not count


@dataclasses.dataclass(frozen=True)
class MaskedSequence:
    """A sequence of frames with the masks of its objects.

    Attributes:
        name: Of its folders.
        width: Of frames and masks, in pixels.
        height: Of frames and masks, in pixels.
        frames: Names of the files without their endings, in order.
        masks: How many frames, from the first on, have a mask: one or all.
        objects: How many objects the first mask has.
        binary: Whether masks are 0 and 255 (one object) rather than the numbers of objects.
        sha256: Of all frames and then all masks, one after the other.
    """

    name: str
    width: int
    height: int
    frames: tuple[str, ...]
    masks: int
    objects: int
    binary: bool
    sha256: str

    @property
    def scored(self) -> bool:
        """Whether there are masks to compare predictions with."""
        return self.masks == len(self.frames)

    def files(self) -> list[str]:
        """Return the paths of frames and then masks within the folder of the set."""
        frames = [f"frames/{self.name}/{frame}.jpg" for frame in self.frames]
        return frames + [f"masks/{self.name}/{frame}.png" for frame in self.frames[: self.masks]]


class MaskedSequences:
    """A prepared set of sequences with masks.

    Attributes:
        sequences: In the order of the set.
        checksum: Of the index, which holds the checksums of the sequences.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a set; InputError if there is none, or one of another kind or version, or files are missing."""
        self.folder = Path(folder)
        path = self.folder / INDEX
        if not path.is_file():
            raise InputError(f"{folder} holds no prepared sequences ({INDEX} is missing): run `ssljax prepare davis`.")
        data = path.read_bytes()
        try:
            raw = json.loads(data)
            if raw.get("kind") != KIND or raw["version"] != VERSION:
                raise InputError(f"{folder} holds no {KIND} of version {VERSION}: run `ssljax prepare davis` again.")
            self.sequences = [MaskedSequence(**{**item, "frames": tuple(item["frames"])}) for item in raw["sequences"]]
        except (AttributeError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"{path} is not what `ssljax prepare davis` writes: run it again.") from error
        self.checksum = hashlib.sha256(data).hexdigest()
        for sequence in self.sequences:
            for file in sequence.files():
                if not (self.folder / file).is_file():
                    raise InputError(f"{self.folder / file} is missing: run `ssljax prepare davis` again.")

    def read(self, sequence: MaskedSequence) -> tuple[list[bytes], list[bytes]]:
        """Return the JPEGs of a sequence and the PNGs of its masks; InputError if they are not those prepared."""
        contents = [(self.folder / file).read_bytes() for file in sequence.files()]
        if digest(contents) != sequence.sha256:
            raise InputError(
                f"Files of {sequence.name} in {self.folder} have changed: run `ssljax prepare davis` again."
            )
        return contents[: len(sequence.frames)], contents[len(sequence.frames) :]


def digest(contents: Iterable[bytes]) -> str:
    """SHA-256 of some files, one after the other."""
    result = hashlib.sha256()
    for data in contents:
        result.update(data)
    return result.hexdigest()


def decode_values(data: bytes) -> np.ndarray:
    """The values of a mask's PNG, uint8 [h, w]: indices of its palette, or grey; ValueError where it has colours."""
    with Image.open(io.BytesIO(data)) as image:
        values = np.asarray(image)
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2 or values.dtype != np.uint8:
        raise ValueError("it has colours, or more than 8 bits, instead of numbers of objects")
    return values


def decode_mask(data: bytes, *, binary: bool) -> np.ndarray:
    """The numbers of a mask's objects, uint8 [h, w], 0 for none; `binary` masks are 0 and 255."""
    values = decode_values(data)
    return (values // 255) if binary else np.where(values == VOID, 0, values).astype(np.uint8)
