"""Sequences with masks in the layout of DAVIS, in a folder or an archive: what they are, and whether they are whole."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from data_prep.pictures import BadImage, to_picture
from ssljax.data.davis import MIN_SCORED, VOID, MaskedSequence, decode_values, digest
from ssljax.errors import InputError

_FRAMES, _MASKS, _LISTS = "JPEGImages", "Annotations", "ImageSets"
_TOLD = 10  # numbers of objects


class Problem(Exception):
    """What is wrong with a sequence, in a few words each."""

    def __init__(self, reasons: Sequence[str]):
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


class Source(NamedTuple):
    """Files by their path from where `JPEGImages` lies; `where` is what to call it all."""

    where: Path
    files: frozenset[str]
    read: Callable[[str], bytes]

    def inside(self, folder: str) -> list[str]:
        """The paths of a folder's own files, sorted."""
        return sorted(file for file in self.files if file.rpartition("/")[0] == folder)


def open_source(path: Path) -> Source:
    """The files of an archive or a folder; InputError if there is no `JPEGImages` in it."""
    if path.is_dir():
        found = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
        return _rooted(path, found, lambda file: (path / file).read_bytes())
    if not path.is_file():
        raise InputError(f"{path} does not exist: name an archive or a folder of DAVIS")
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is no whole zip archive: fetch it again, or name the extracted folder") from error
    return _rooted(path, {item.filename for item in archive.infolist() if not item.is_dir()}, archive.read)


def _rooted(where: Path, found: set[str], read: Callable[[str], bytes]) -> Source:
    roots = {file[: file.index(f"{_FRAMES}/")] for file in found if f"/{_FRAMES}/" in f"/{file}"}
    roots = {root for root in roots if "__MACOSX" not in root}
    if not roots:
        raise InputError(f"{where} has no folder {_FRAMES}: name an archive or a folder of DAVIS")
    root = min(roots, key=lambda name: (len(name), name))
    files = frozenset(file[len(root) :] for file in found if file.startswith(root))
    return Source(where, files, lambda file: read(root + file))


def sequence_names(source: Source, resolution: str, name: str | None) -> list[str]:
    """The sequences of a list in ImageSets, in its order; all that have frames where there are no lists.

    A line of a list is a name (2017), or the paths of a frame and its mask (2016).
    """
    frames = PurePosixPath(_FRAMES, resolution)
    there = sorted({path.parent.name for path in map(PurePosixPath, source.files) if path.parent.parent == frames})
    if not there:
        others = {path.parts[1] for path in map(PurePosixPath, source.files) if path.parts[0] == _FRAMES}
        raise InputError(f"{source.where} has no {frames}: give --resolution, one of {', '.join(sorted(others))}")
    lists = sorted(file for file in source.files if file.startswith(f"{_LISTS}/") and file.endswith(".txt"))
    if not lists and name is None:
        return there
    wanted = [f"{_LISTS}/{name}.txt"] if name else [f"{_LISTS}/2017/val.txt", f"{_LISTS}/{resolution}/val.txt"]
    usable = [file for file in wanted if file in source.files]
    if not usable:
        known = ", ".join(file[len(_LISTS) + 1 : -len(".txt")] for file in lists) or "no list"
        raise InputError(f"{source.where} has no {wanted[0]}: give --set, one of those in it: {known}")
    lines = [line.split()[0] for line in source.read(usable[0]).decode().splitlines() if line.strip()]
    names = list(dict.fromkeys(PurePosixPath(line).parent.name if "/" in line else line for line in lines))
    if not names:
        raise InputError(f"{usable[0]} of {source.where} names no sequence: give another --set")
    return names


def checked(source: Source, resolution: str, name: str, *, first_only: bool) -> MaskedSequence:
    """A sequence whose files were all decoded; Problem if they don't fit each other."""
    frames = [file for file in source.inside(f"{_FRAMES}/{resolution}/{name}") if file.endswith(".jpg")]
    masks = [file for file in source.inside(f"{_MASKS}/{resolution}/{name}") if file.endswith(".png")]
    stems, masked = ([PurePosixPath(file).stem for file in files] for files in (frames, masks))
    _check_names(stems, masked, first_only=first_only)
    masks = masks[:1] if first_only else masks
    contents = [source.read(file) for file in frames + masks]
    reasons, sizes = list[str](), list[tuple[int, int]]()
    for file, data in zip(frames, contents[: len(frames)], strict=True):
        try:
            picture = to_picture(data)
            sizes.append((picture.width, picture.height))
        except BadImage as error:
            reasons.append(f"{file} cannot be decoded ({error})")
    values = list[np.ndarray]()
    for file, data in zip(masks, contents[len(frames) :], strict=True):
        try:
            values.append(decode_values(data))
            sizes.append(values[-1].shape[::-1])
        except Exception as error:  # there is hardly an exception that no reader of Pillow raises on garbage
            reasons.append(f"{file} cannot be read ({' '.join(str(error).split())[:120]})")
    if not reasons:
        reasons = _wrong_sizes(frames + masks, sizes)
    binary = all(np.isin(mask, (0, VOID)).all() for mask in values)
    if not reasons:
        reasons = _wrong_objects(masks, values, binary=binary)
    if reasons:
        raise Problem(reasons)
    objects = 1 if binary else int(values[0][values[0] != VOID].max())
    return MaskedSequence(name, *sizes[0], tuple(stems), len(masks), objects, binary, digest(contents))


def _check_names(frames: list[str], masks: list[str], *, first_only: bool) -> None:
    if not frames:
        raise Problem(["it has no frames"])
    if first_only:
        if frames[0] not in masks:
            raise Problem([f"the first frame, {frames[0]}.jpg, has no mask"])
        return
    reasons = [f"{frame}.jpg has no mask" for frame in frames if frame not in masks]
    reasons += [f"mask {mask}.png has no frame" for mask in masks if mask not in frames]
    if len(frames) < MIN_SCORED:
        reasons.append(f"it has {len(frames)} frames, of which the first and the last are not scored")
    if masks == frames[:1] and len(frames) > 1:
        reasons = ["the first frame alone has a mask (give --first-only for such sets)"]
    if reasons:
        raise Problem(reasons)


def _wrong_sizes(files: list[str], sizes: list[tuple[int, int]]) -> list[str]:
    first = "x".join(map(str, sizes[0]))
    return [
        f"{file} has {size[0]}x{size[1]} pixels, the first frame {first}"
        for file, size in zip(files, sizes, strict=True)
        if size != sizes[0]
    ]


def _wrong_objects(files: list[str], values: list[np.ndarray], *, binary: bool) -> list[str]:
    """What is wrong with the numbers of objects: the first mask has 1, 2, ... without gaps, the others no more."""
    numbers = [set(np.unique(mask).tolist()) - {0} - (set() if binary else {VOID}) for mask in values]
    if not numbers[0]:
        return [f"{files[0]} has no object: the first mask must show those to follow"]
    if not binary and numbers[0] != set(range(1, len(numbers[0]) + 1)):
        told = ", ".join(map(str, sorted(numbers[0])[:_TOLD]))
        return [f"{files[0]} has the objects {told}, which are not 1, 2, ... without gaps"]
    return [
        f"{file} has the object {max(found - numbers[0])}, which the first mask does not show"
        for file, found in zip(files, numbers, strict=True)
        if found - numbers[0]
    ]
