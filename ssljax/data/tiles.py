"""A stored frame: JPEG tiles, so that a crop is read without decoding what lies around it.

A record holds a list of ends (uint32, little-endian, counted from the end of this list), then what they are ends of:
the JPEG header that the tiles share, up to the height and width (which differ, and follow from the frame's size) and
after them, and, row by row, the rest of each tile's JPEG. The tiles' edges lie on multiples of 16 pixels, the blocks
of a 4:2:0 JPEG, so that each tile is exactly the part that it would be of one large JPEG; only where a decoder smooths
chroma between blocks does it not look over an edge.
"""

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import simplejpeg

TILE = (144, 192)  # height and width that the tiles come near to: smaller ones cost more than they spare
_BLOCK = 16
_FRAME, _SCAN = 0xC0, 0xDA  # JPEG markers: the baseline frame with its size, the scan

Box = tuple[int, int, int, int]  # top, left, height, width


def edges(side: int, tile: int) -> np.ndarray:
    """Where the tiles of a side of so many pixels begin, and the end: about `tile` apart, on whole blocks."""
    blocks, count = -(-side // _BLOCK), max(1, round(side / tile))
    return np.append(_BLOCK * (blocks * np.arange(count) // count), side)


def encode(planes: Sequence[np.ndarray], quality: int) -> bytes:
    """The record of a frame given as planes Y [h, w], Cb and Cr [h, w] or [h/2, w/2]: uint8, BT.601 at full range."""
    height, width = planes[0].shape
    rows, columns = edges(height, TILE[0]), edges(width, TILE[1])
    steps = [height // plane.shape[0] for plane in planes]
    jpegs = []
    for a, b in pairwise(rows):
        for c, d in pairwise(columns):
            parts = [plane[a // n : b // n, c // n : d // n] for plane, n in zip(planes, steps, strict=True)]
            jpegs.append(simplejpeg.encode_jpeg_yuv_planes(*map(np.ascontiguousarray, parts), quality=quality))
    size, scan = _header(jpegs[0])
    before, after = jpegs[0][:size], jpegs[0][size + 4 : scan]
    if any(jpeg[:size] != before or jpeg[size + 4 : scan] != after for jpeg in jpegs):
        raise RuntimeError("the JPEG encoder gave two tiles of one frame different tables")
    pieces = [before, after, *(jpeg[scan:] for jpeg in jpegs)]
    ends = np.cumsum([len(piece) for piece in pieces])
    return ends.astype("<u4").tobytes() + b"".join(pieces)


def _header(jpeg: bytes) -> tuple[int, int]:
    """Where a JPEG tells its height and width (two big-endian uint16), and where its scan begins (ITU-T T.81, B.2)."""
    size, at = 0, 2  # after the marker that begins a JPEG, segments: marker, length without the marker, content
    while True:
        marker, end = jpeg[at + 1], at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if marker == _SCAN:
            return size, end
        if marker == _FRAME:
            size = at + 5  # after the marker, the length and the bits a sample
        at = end


def decode(record: bytes, height: int, width: int, box: Box | None = None, factor: int = 1) -> np.ndarray:
    """The box (all, without) of a frame of height x width as RGB uint8, 1, 2, 4 or 8 times smaller.

    Only the tiles under the box are decoded. ValueError if a tile does not decode.
    """
    whole = [edges(side, tile) for side, tile in zip((height, width), TILE, strict=True)]
    heights, widths = (np.diff(sides).tolist() for sides in whole)
    rows, columns = ((-(-sides // factor)).tolist() for sides in whole)
    before, after, *tiles = _pieces(record, 2 + len(heights) * len(widths))
    top, left, h, w = box or (0, 0, height, width)
    y, x = rows[-1] / height, columns[-1] / width
    first, start = round(top * y), round(left * x)
    end, stop = max(round((top + h) * y), first + 1), max(round((left + w) * x), start + 1)

    i, last = bisect_right(rows, first) - 1, bisect_left(rows, end)
    j, final = bisect_right(columns, start) - 1, bisect_left(columns, stop)
    canvas = np.empty((rows[last] - rows[i], columns[final] - columns[j], 3), np.uint8)
    for r in range(i, last):
        for c in range(j, final):
            part = canvas[
                rows[r] - rows[i] : rows[r + 1] - rows[i], columns[c] - columns[j] : columns[c + 1] - columns[j]
            ]
            least = dict(min_height=part.shape[0], min_width=part.shape[1], min_factor=2) if factor > 1 else {}
            size = struct.pack(">HH", heights[r], widths[c])
            jpeg = b"".join((before, size, after, tiles[r * len(widths) + c]))
            part[:] = simplejpeg.decode_jpeg(jpeg, **least)
    return canvas[first - rows[i] : end - rows[i], start - columns[j] : stop - columns[j]]


def _pieces(record: bytes, count: int) -> list[memoryview]:
    data = memoryview(record)
    ends = [4 * count, *(4 * count + np.frombuffer(data[: 4 * count], "<u4")).tolist()]
    if len(ends) != count + 1 or ends[-1] != len(data):
        raise ValueError("it is not a frame of this size")
    return [data[a:b] for a, b in pairwise(ends)]
