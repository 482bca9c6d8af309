"""The crop of a stored frame: where its box lies, and its pixels on a square canvas."""

import math
from collections import defaultdict
from collections.abc import Sequence

import cv2
import numpy as np

from ssljax.data.records import Records
from ssljax.data.tiles import Box
from ssljax.errors import InputError

Number = float | int
Pair = Sequence[Number]  # (smallest, largest)


def crop_box(random: np.random.Generator, height: int, width: int, scale: Pair, ratio: Pair | None) -> Box:
    """A random resized crop's box (top, left, height, width) inside a frame: area in `scale`, log ratio uniform.

    Ten tries; then the largest centred box whose ratio is allowed, as torchvision's RandomResizedCrop has it.
    """
    if ratio is not None:
        for _ in range(10):
            area = height * width * random.uniform(scale[0], scale[1])
            aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(random.integers(height - h + 1)), int(random.integers(width - w + 1)), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1]) if ratio is not None else 1.0
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (height - h) // 2, (width - w) // 2, h, w


def cut(records: Records, number: int, boxes: Sequence[Box], outs: Sequence[np.ndarray], antialias: bool) -> None:
    """Decode one frame and resize each of `boxes` into its own of `outs` [size, size, 3], as if it were alone.

    A box more than twice the canvas is halved inside the JPEG decoder, which costs less than decoding it whole, so that
    the bilinear step never shrinks by 2 or more and does not alias. Boxes that are halved alike are decoded together.
    """
    height, width = records.index.height, records.index.width
    alike = defaultdict(list)
    for box, out in zip(boxes, outs, strict=True):
        alike[_factor(height, width, box, out.shape[0]) if antialias else 1].append((box, out))
    for factor, members in alike.items():
        union = _union([box for box, _ in members])
        least = (height // factor, width // factor) if factor > 1 else (0, 0)
        crop = records.decode(number, union, least_height=least[0], least_width=least[1])
        for box, out in members:
            rows = _inside(box[0], box[2], union[0], height, factor)
            columns = _inside(box[1], box[3], union[1], width, factor)
            cv2.resize(crop[rows, columns], out.shape[:2], dst=out, interpolation=cv2.INTER_LINEAR)


def _factor(height: int, width: int, box: Box, size: int) -> int:
    """How many times smaller the frame may be decoded without the box coming below the canvas: 1, 2, 4 or 8."""
    factor, least_height, least_width = 1, math.ceil(height * size / box[2]), math.ceil(width * size / box[3])
    while factor < 8 and height >= 2 * factor * least_height and width >= 2 * factor * least_width:
        factor *= 2
    return factor


def _union(boxes: Sequence[Box]) -> Box:
    """The smallest box around all."""
    top, left = min(box[0] for box in boxes), min(box[1] for box in boxes)
    end, stop = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return top, left, end - top, stop - left


def _inside(start: int, length: int, origin: int, side: int, factor: int) -> slice:
    """Where part of a side lies in what was decoded from `origin` on: rounded to pixels as the decoder does."""
    scale = -(-side // factor) / side
    first = round(start * scale)
    end = max(round((start + length) * scale), first + 1)
    return slice(first - round(origin * scale), end - round(origin * scale))


def check_crop(scale: Pair, ratio: Pair | None) -> None:
    """InputError if they are no ranges that `crop_box` can draw from."""
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise InputError(
            f"scale {tuple(scale)} must be two rising numbers above 0: the least and largest part of the frame"
        )
    if scale[1] > 1:
        raise InputError(f"scale {tuple(scale)} asks for a crop larger than the frame: it may be 1 at most")
    if ratio is not None and (len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]):
        raise InputError(f"ratio {tuple(ratio)} must be two rising numbers above 0, or None for a centred square")
