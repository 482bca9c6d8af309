"""A folder of images as a source: what is in it, and which classes its subfolders mean."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from data_prep.imageset import Source
from data_prep.pictures import ENDINGS, BadImage, Picture, to_picture
from ssljax.errors import InputError


class Found(NamedTuple):
    """What a folder holds: images by their path within it, sorted, with their sizes in bytes; other files by ending."""

    images: dict[str, int]
    others: Counter[str]


def folder_source(folder: Path, *, short_side: int | None, quality: int) -> tuple[Source, Counter[str]]:
    """The images of a folder and of all folders in it, and the endings of the files that were left alone.

    They are labelled when each lies in one of several folders within: those are the classes, sorted by name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name a folder of images, or cifar10")
    found = _search(folder)
    if not found.images:
        raise InputError(
            f"{folder} holds no images (files ending in {' '.join(sorted(ENDINGS))}): name a folder of some"
        )
    names = list(found.images)
    digest = hashlib.sha256("".join(f"{n}\0{size}\n" for n, size in found.images.items()).encode(errors="replace"))
    material = {"folder": folder.resolve().name, "images": len(names), "fingerprint": digest.hexdigest()}
    classes, labels = _labels(names)
    picture = functools.partial(_picture, folder, names, short_side, quality)
    return Source(material, names, list(found.images.values()), classes, labels, picture), found.others


def _search(folder: Path) -> Found:
    images, others, seen = {}, Counter[str](), set[str]()
    for place, inside, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back
            inside.clear()
            continue
        seen.add(real)
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        for file in files:
            path = Path(place, file)
            if path.suffix.lower() in ENDINGS and not file.startswith("."):
                images[path.relative_to(folder).as_posix()] = 0 if _leads_nowhere(path) else path.stat().st_size
            else:
                others[path.suffix or file] += 1
    return Found(dict(sorted(images.items())), others)


def _labels(names: list[str]) -> tuple[list[str], list[int] | None]:
    folders = [name.split("/")[:-1] for name in names]
    classes = sorted({parts[0] for parts in folders if parts})
    if len(classes) < 2 or any(len(parts) != 1 for parts in folders):
        return [], None
    numbers = {name: number for number, name in enumerate(classes)}
    return classes, [numbers[parts[0]] for parts in folders]


def _picture(folder: Path, names: list[str], short_side: int | None, quality: int, number: int) -> Picture:
    path = folder / names[number]
    if _leads_nowhere(path):
        raise BadImage("it is a link to nothing")
    return to_picture(path.read_bytes(), short_side=short_side, quality=quality)


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()
