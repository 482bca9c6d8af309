"""Images with the boxes of their objects: VOC's annotations, or what masks hold."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float
from PIL import Image

from ssljax.data.masks import find_pairs, read_mask, voc_list
from ssljax.errors import InputError


class Boxed(NamedTuple):
    """An image, its height and width, and what reads its boxes: (left, top, right, bottom), pixels, ends outside."""

    name: str
    image: Path
    shape: tuple[int, int]
    boxes: Callable[[], Float[np.ndarray, "k 4"]]


def find_boxed(place: str | os.PathLike[str], *, binary: bool = False) -> list[Boxed]:
    """Return the images at a place with the boxes of their objects.

    Args:
        place: A list of VOC, such as ROOT/ImageSets/Main/trainval.txt, for the boxes in ROOT/Annotations; or a folder
            of images with masks, see `find_pairs`: every value but 0 and 255 is an object, its box the smallest around.
        binary: Whether all values above 0 of a mask are the one object.

    Raises:
        InputError: Images or annotations are missing, an image cannot be read, or `binary` is said of boxes.
    """
    path = Path(place)
    if binary and path.is_file():
        raise InputError(f"binary says what masks hold, but {path} is a list of VOC, with boxes; leave binary out.")
    pairs = voc_list(path) if path.is_file() else find_pairs(path)
    found = []
    for pair in pairs:
        shape = _shape(pair.image)
        annotation = path.parents[2] / "Annotations" / f"{pair.name}.xml" if path.is_file() else pair.mask
        if not annotation.is_file():
            raise InputError(f"{annotation} is missing; fetch the annotations of all images of {path}.")
        found.append(Boxed(pair.name, pair.image, shape, _reader(annotation, shape, binary)))
    if not found:
        raise InputError(f"{path} names no images; give a list of VOC that does.")
    return found


def _reader(path: Path, shape: tuple[int, int], binary: bool) -> Callable[[], np.ndarray]:
    if path.suffix == ".xml":
        return lambda: read_boxes(path)
    return lambda: mask_boxes(read_mask(path, shape), binary=binary)


def _shape(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as file:
            return file.height, file.width
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; fetch all images of the list.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be decoded ({error}); fetch it again.") from error


def read_boxes(path: Path) -> Float[np.ndarray, "k 4"]:
    """Return the boxes of an annotation of VOC, difficult and truncated ones too.

    VOC counts pixels from 1 and both ends in, so that (1, 1, w, h) is the whole image: here (0, 0, w, h).

    Raises:
        InputError: It is no such file, or has no box or an empty one.
    """
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
        ends = [[float(box.findtext(f"bndbox/{end}") or "") for end in _ENDS] for box in objects]
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{path} is no annotation of VOC with boxes ({error}); fetch it again.") from error
    if not ends:
        raise InputError(f"{path} has no boxes; leave its image out of the list.")
    boxes = np.asarray(ends) - np.array([1.0, 1.0, 0.0, 0.0])
    if np.any(boxes[:, 2:] <= boxes[:, :2]):
        raise InputError(f"{path} has a box without area; fetch it again.")
    return boxes


_ENDS = ("xmin", "ymin", "xmax", "ymax")


def mask_boxes(values: np.ndarray, *, binary: bool = False) -> Float[np.ndarray, "k 4"]:
    """Return the boxes around each value but 0 and 255 of a mask [h, w], or around all above 0; there may be none."""
    masks = [values > 0] if binary else [values == value for value in np.unique(values) if value not in (0, 255)]
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if rows.size:
            boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return np.asarray(boxes, np.float64).reshape(-1, 4)
