"""Pairs of images with points that correspond: the layout of SPair-71k."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ssljax.errors import InputError


class PointPair(NamedTuple):
    """Points of a source image and where they are in a target image.

    Attributes:
        name: Of the file.
        category: Of the objects.
        source: Its image.
        target: Its image.
        shapes: Height and width of both.
        source_points: (x, y) in pixels, the first pixel being 0.
        target_points: The same.
        box: Longer side in pixels of the target object's box.
    """

    name: str
    category: str
    source: Path
    target: Path
    shapes: tuple[tuple[int, int], tuple[int, int]]
    source_points: Float[np.ndarray, "k 2"]
    target_points: Float[np.ndarray, "k 2"]
    box: float


def find_point_pairs(place: str | os.PathLike[str]) -> list[PointPair]:
    """Return the pairs of a folder of annotations, such as SPair-71k/PairAnnotation/test, by name.

    Raises:
        InputError: There are none, one cannot be read, names an image that is missing, or has points outside an image.
    """
    folder = Path(place)
    files = sorted(folder.glob("*.json"))
    if folder.parent.name != "PairAnnotation" or not files:
        raise InputError(f"{folder} has no pairs; give a folder like SPair-71k/PairAnnotation/test, of JSON files.")
    return [_read(file, folder.parents[1] / "JPEGImages") for file in files]


def _read(file: Path, images: Path) -> PointPair:
    try:
        record = json.loads(file.read_text())
        category = str(record["category"])
        source, target = (images / category / record[f"{side}_imname"] for side in ("src", "trg"))
        (width, height), (w, h) = (map(int, record[f"{side}_imsize"][:2]) for side in ("src", "trg"))
        points = [np.asarray(record[f"{side}_kps"], np.float64).reshape(-1, 2) for side in ("src", "trg")]
        left, top, right, bottom = map(float, record["trg_bndbox"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is no annotation of SPair-71k ({error!r}); fetch it again.") from error
    for image in (source, target):
        if not image.is_file():
            raise InputError(f"{image} is missing, which {file} names; fetch all images.")
    if not len(points[0]) or len(points[0]) != len(points[1]):
        raise InputError(f"{file} has {len(points[0])} points in one image and {len(points[1])} in the other.")
    for which, shape in zip(points, ((height, width), (h, w)), strict=True):
        outside = (which < 0) | (which > [shape[1], shape[0]])
        if outside.any():
            x, y = which[outside.any(1)][0]
            raise InputError(f"{file} has the point ({x:g}, {y:g}), outside its image of {shape[1]}x{shape[0]} pixels.")
    box = max(right - left, bottom - top)
    if box <= 0:
        raise InputError(f"{file} has a target box without area; fetch it again.")
    return PointPair(file.stem, category, source, target, ((height, width), (h, w)), points[0], points[1], box)
