"""JPEG and PNG bytes to pixels."""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from ssljax.data.tiles import Box

_JPEG = b"\xff\xd8"


def picture_size(encoded: bytes) -> tuple[int, int]:
    """Return height and width of a JPEG or PNG from its header; ValueError if it is neither, or damaged."""
    if encoded.startswith(_JPEG):
        try:
            return simplejpeg.decode_jpeg_header(encoded, strict=False)[:2]
        except KeyError as error:  # what simplejpeg raises where a header ends before it names its colours
            raise ValueError("its header is cut short") from error
    if encoded[12:16] != b"IHDR" or len(encoded) < 24:
        raise ValueError("it is neither a JPEG nor a whole PNG")
    return int.from_bytes(encoded[20:24], "big"), int.from_bytes(encoded[16:20], "big")


def decode(encoded: bytes, *, factor: int = 1) -> np.ndarray:
    """Return a JPEG or PNG as RGB uint8 [h, w, 3], a JPEG 1, 2, 4 or 8 times smaller; ValueError if it is damaged."""
    if encoded.startswith(_JPEG):
        height, width = picture_size(encoded)
        least = dict(min_height=-(-height // factor), min_width=-(-width // factor), min_factor=2) if factor > 1 else {}
        return simplejpeg.decode_jpeg(encoded, strict=False, **least)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags) if encoded else None
    if pixels is None:
        raise ValueError("it is neither a JPEG nor a whole PNG")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def resized_box(encoded: bytes, shape: tuple[int, int], box: Box, size: int, *, antialias: bool = True) -> np.ndarray:
    """Return a box of a picture, resized: uint8 [size, size, 3].

    As frames are cut: a box more than twice the canvas is halved in the JPEG decoder, and what is resized bilinearly
    then shrinks by less than 2. What the decoder cannot halve (PNG, or more than 8 times) is averaged by area.

    Args:
        shape: Height and width of the picture, as its header says.
        box: (top, left, height, width) in its pixels.
    """
    height, width = shape
    top, left, h, w = box
    factor = 1
    while antialias and factor < 8 and h >= 2 * factor * size and w >= 2 * factor * size:
        factor *= 2
    pixels = decode(encoded, factor=factor)
    y, x = pixels.shape[0] / height, pixels.shape[1] / width
    first, start = round(top * y), round(left * x)
    crop = pixels[first : max(round((top + h) * y), first + 1), start : max(round((left + w) * x), start + 1)]
    shrinks = antialias and min(crop.shape[:2]) >= 2 * size
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
